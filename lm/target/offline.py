"""Base samples, and what is estimated from them before training: Z, offline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fdpg_ref import DIVERGENCES, InfiniteDivergence, find_divergence
from lm.config import RunConfig
from lm.device.streams import OFFLINE, random_stream
from lm.errors import RunError
from lm.policy.checks import check_score
from lm.policy.drawing import draw
from lm.policy.prompts import Prompts
from lm.policy.protocol import Policy
from lm.target.decoded import Reader, Reading
from lm.target.partition import SHARE_TO_WARN, PartitionEstimate, estimate_partition
from lm.target.targets import Target, require_mass


class BaseSamples(NamedTuple):
    """Base samples of some contexts.

    Attributes
    ----------
    contexts
        Shape (c,), int64.
    log_base
        Shape (c, n): log a of n samples of each, in nats.
    reading
        The c x n samples, context by context.
    """

    contexts: Tensor
    log_base: Tensor
    reading: Reading


class Offline(NamedTuple):
    """Estimates of Z from base samples.

    Attributes
    ----------
    contexts
        Shape (c,), int64: the contexts that were estimated.
    samples
        Base samples of each.
    estimate
        Its tensors have shape (c,), float64.
    """

    contexts: Tensor
    samples: int
    estimate: PartitionEstimate

    def warnings(self, prompts: Sequence[str]) -> list[str]:
        """Return what is wrong with the estimate, one sentence each.

        Parameters
        ----------
        prompts
            The texts of all contexts; none without prompts.
        """
        shares = self.estimate.largest_share
        heavy = (shares > SHARE_TO_WARN).nonzero()[:, 0]
        if len(heavy) == 0:
            return []
        worst = int(shares.argmax())
        where = ""
        if prompts:
            prompt = prompts[int(self.contexts[worst])]
            where = f" for {len(heavy)} of {len(shares)} prompts (worst: {prompt!r})"
        return [
            f"one sample of {self.samples} base samples makes up {float(shares[worst]):.0%} of the "
            f"offline Zhat{where} (warning above {SHARE_TO_WARN:.0%}): use more partition.samples"
        ]

    def describe(self) -> dict[str, Any]:
        """Return the estimate as target.json holds it: numbers, or with prompts lists."""
        fields = self.estimate._asdict()
        if len(self.contexts) == 1:
            return {
                **{name: float(value) for name, value in fields.items()},
                "samples": self.samples,
            }
        return {
            "contexts": self.contexts.tolist(),
            "samples": self.samples,
            **{name: value.tolist() for name, value in fields.items()},
        }


def draw_base(
    config: RunConfig,
    base: Policy,
    reader: Reader,
    prompts: Prompts | None,
    contexts: Tensor,
) -> BaseSamples:
    """Draw partition.samples base samples, equally many of each of some contexts.

    Parameters
    ----------
    config
        A resolved configuration.
    base, reader
        What is sampled, and who reads it.
    prompts
        All contexts; None without prompts.
    contexts
        Shape (c,), int64: which of them.

    Raises
    ------
    RunError
        There would be less than two samples of a context.
    """
    n = config.partition.samples // len(contexts)
    if n < 2:
        raise RunError(
            f"partition.samples is {config.partition.samples}, which leaves less than two base "
            f"samples for each of {len(contexts)} prompts: raise it, or set partition.policy "
            "leave_one_out, which needs none"
        )

    generator = random_stream(config.seed, OFFLINE)
    chosen = None if prompts is None else prompts.rows(contexts)
    what = "drawing base samples for Z"
    samples = draw(base, n, generator=generator, prompts=chosen, what=what)
    return BaseSamples(contexts, samples.log_prob.reshape(len(contexts), n), reader.read(samples))


def estimate_offline(
    config: RunConfig, target: Target, drawn: BaseSamples, prompts: tuple[str, ...]
) -> Offline:
    """Estimate Z of each context by importance sampling from the base.

    Parameters
    ----------
    config
        Of the run.
    target
        Says what P is.
    drawn
        The samples.
    prompts
        The texts of all contexts; none without prompts.

    Raises
    ------
    ValueError
        No sample of a context has any target mass.
    InfiniteDivergence
        A custom target has holes and the divergence an infinite slope.
    """
    flat = drawn.log_base.reshape(-1)
    log_score = target.log_score_of(flat, drawn.reading)
    check_score(flat, log_score, drawn.reading.texts)
    _require_finite(config, log_score, drawn.reading.texts)
    rows = log_score.reshape(drawn.log_base.shape).double().cpu()
    names = [prompts[context] for context in drawn.contexts.tolist()] if prompts else []
    require_mass(config.target, rows, names)
    estimate = estimate_partition(rows, drawn.log_base.double().cpu())
    return Offline(drawn.contexts, rows.shape[1], estimate)


def _require_finite(config: RunConfig, log_score: Tensor, texts: Sequence[str]) -> None:
    """Refuse holes that only a custom target's values show, as a hard constraint's kind does."""
    holes = (log_score == -math.inf).nonzero()
    if len(holes) == 0 or math.isfinite(find_divergence(config.divergence).slope_at_infinity):
        return
    finite = sorted(k for k, v in DIVERGENCES.items() if math.isfinite(v.slope_at_infinity))
    raise InfiniteDivergence(
        f"{config.divergence} is infinite: the target excludes {texts[int(holes[0])]!r}, a sample "
        "of the base, and a language model keeps some probability on everything. Give it a finite "
        f"score, or choose a divergence that stays finite there: {', '.join(finite)}"
    )
