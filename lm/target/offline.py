"""Base samples, and what is estimated from them before training: Z, offline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
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
from lm.target.partition import SHARE_TO_WARN, PartitionEstimate, StatedZ, estimate_partition
from lm.target.targets import Target, require_mass

# Base samples of the first round, where a precision says how many there will be.
FIRST = 256
# Standard errors beyond which base samples contradict a column, and the samples with target mass
# that they show or should show for it: fewer have no law of errors.
CONTRADICTED, EXPECTED = 5.0, 25.0
# A mean of 1 over values of at least 0 exceeds this by a chance of at most its inverse (Markov),
# which is less than that of five standard errors: no error needs to be known.
UNHEARD_OF = 1e7

_Row = TypeVar("_Row")


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
    last
        Whether no more will be drawn.
    """

    contexts: Tensor
    log_base: Tensor
    reading: Reading
    last: bool = True


class _Worst(NamedTuple):
    value: float
    where: str


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
    wanted
        The relative standard error that was to be reached; None where a number of samples was
        asked for.
    """

    contexts: Tensor
    samples: int
    estimate: PartitionEstimate
    wanted: float | None = None

    def warnings(self, prompts: Sequence[str]) -> list[str]:
        """Return what is wrong with the estimate, one sentence each.

        Parameters
        ----------
        prompts
            The texts of all contexts; none without prompts.
        """
        shares, errors = self.estimate.largest_share, self.estimate.relative_standard_error
        more = "partition.samples" if self.wanted is None else "partition.most"
        found = []
        if worst := self._worst(shares, SHARE_TO_WARN, prompts):
            found.append(
                f"one sample of {self.samples} base samples makes up {worst.value:.0%} of the "
                f"offline Zhat{worst.where} (warning above {SHARE_TO_WARN:.0%}): use more {more}"
            )
        elif self.wanted is not None and (worst := self._worst(errors, self.wanted, prompts)):
            found.append(
                f"{self.samples} base samples give the offline Zhat with a relative standard error "
                f"of {worst.value:.0%}{worst.where}, above partition.error {self.wanted:.0%}: use "
                "more partition.most"
            )
        return found

    def against(self, stated: StatedZ, *, share: bool) -> list[str]:
        """Return whether a column's Z is another one than these samples', one sentence or none.

        The mean over contexts of Zhat/Z has the expectation 1 if the column is right, and up to the
        mean square of the column's own errors more if it is an estimate itself.

        Parameters
        ----------
        stated
            What the column says of all contexts.
        share
            Whether Z is the share of samples that pass, so that the law of its error is known.
        """
        log_z = stated.log_z[self.contexts]
        log_ratio = self.estimate.log_z - log_z
        ratio, number = torch.exp(log_ratio), len(log_ratio)
        own = torch.zeros_like(log_z) if stated.errors is None else stated.errors[self.contexts]

        # In logarithms, for a ratio may overflow; and one large ratio is its own standard error.
        log_least = torch.logsumexp(log_ratio - CONTRADICTED * own, 0) - math.log(number)
        if float(log_least) > math.log(UNHEARD_OF):
            return [self._contradiction(f"at least e^{float(log_least):.0f}")]

        # The error of each context's Zhat by its own samples, and by the spread over contexts; of a
        # share by its law, which needs no sample. Samples that all miss have no relative error
        # (0/0), but a spread: none.
        spread = ratio * self.estimate.relative_standard_error
        within = torch.where(ratio > 0.0, spread, torch.zeros_like(spread))
        variances = [float((within**2).sum()) / number**2]
        if number > 1:
            variances.append(float(ratio.var()) / number)
        if share:
            variances.append(float(torch.expm1(-log_z).sum()) / self.samples / number**2)
        error = math.sqrt(max(variances) + (float(own.norm()) / number) ** 2)

        # Of a reward every sample has target mass.
        both = (float(torch.exp(one).sum()) for one in (log_z, self.estimate.log_z))
        expected = self.samples * (max(both) if share else number)
        mean, more = float(ratio.mean()), float((own**2).mean())
        seen = share or mean > 0.0
        if not seen or expected < EXPECTED or abs(mean - 1.0) <= CONTRADICTED * error + more:
            return []
        return [self._contradiction(f"{mean:.3g} ± {error:.2g}")]

    def _contradiction(self, times: str) -> str:
        number = len(self.contexts)
        return (
            f"Z of {number * self.samples} base samples of {number} prompts is {times} times that "
            "of the column log_z: was the column made with this model, target, beta and length "
            "limit? If rare texts carry much of Z, few samples miss them"
        )

    def _worst(self, values: Tensor, most: float, prompts: Sequence[str]) -> _Worst | None:
        """Return the largest of values that are too large, and of which prompts they are."""
        number = int((values > most).sum())
        if number == 0:
            return None
        place = int(values.argmax())
        where = ""
        if prompts:
            prompt = prompts[int(self.contexts[place])]
            where = f" for {number} of {len(values)} prompts (worst: {prompt!r})"
        return _Worst(float(values[place]), where)

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
) -> Iterator[BaseSamples]:
    """Draw base samples for Z, equally many of each of some contexts.

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

    Yields
    ------
    BaseSamples
        partition.samples of them at once; or, where that leaves it to a precision, first some and
        then twice as many as before, with the earlier ones, up to partition.most. Who ends it by
        what was drawn has a Zhat that is no longer unbiased (tests/lm/test_stopping.py).

    Raises
    ------
    RunError
        There would be less than two samples of a context.
    """
    asked = config.partition
    most = asked.at_most // len(contexts)
    if most < 2:
        key = "samples" if asked.samples is not None else "most"
        raise RunError(
            f"partition.{key} is {asked.at_most}, which leaves less than two base samples for each "
            f"of {len(contexts)} prompts: raise it, or set partition.policy leave_one_out, which "
            "needs none"
        )

    generator = random_stream(config.seed, OFFLINE)
    chosen = None if prompts is None else prompts.rows(contexts)
    what, held, n = "drawing base samples for Z", None, 0
    while n < most:
        more = most if asked.samples is not None else max(n, 2, FIRST // len(contexts))
        more = min(more, most - n)
        samples = draw(base, more, generator=generator, prompts=chosen, what=what)
        log_base = samples.log_prob.reshape(len(contexts), more)
        n += more
        part = BaseSamples(contexts, log_base, reader.read(samples), n == most)
        held = part if held is None else _joined(held, part)
        yield held


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
    if config.partition.policy != "column":  # which knows what these samples do not show
        require_mass(config.target, rows, names)
    estimate = estimate_partition(rows, drawn.log_base.double().cpu())
    wanted = config.partition.error if config.partition.samples is None else None
    return Offline(drawn.contexts, rows.shape[1], estimate, wanted)


def _joined(first: BaseSamples, second: BaseSamples) -> BaseSamples:
    """Put two rounds of the same contexts together, context by context."""
    contexts, n = first.log_base.shape
    places = torch.arange(contexts * n).reshape(contexts, n)
    later = contexts * n + torch.arange(second.log_base.numel()).reshape(contexts, -1)
    order = torch.cat([places, later], 1).flatten()
    one, two = first.reading, second.reading

    def rows(before: Sequence[_Row], after: Sequence[_Row]) -> list[_Row]:
        both = [*before, *after]
        return [both[place] for place in order.tolist()]

    reading = Reading(
        rows(one.texts, two.texts),
        rows(one.prompts, two.prompts),
        rows(one.completions, two.completions),
        rows(one.tokens, two.tokens),
        torch.cat([one.features, two.features])[order.to(one.features.device)],
        torch.cat([one.listed, two.listed])[order.to(one.listed.device)],
        {name: rows(column, two.columns[name]) for name, column in one.columns.items()},
    )
    log_base = torch.cat([first.log_base, second.log_base], 1)
    return BaseSamples(first.contexts, log_base, reading, second.last)


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
