"""A base, a target and its contexts: what training and evaluation both work on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fdpg_ref import DIVERGENCES, InfiniteDivergence, find_divergence
from lm.config.run import RunConfig, resolve
from lm.device.amp import Amp
from lm.errors import RunError
from lm.policy.causal import CausalPolicy, load_policy
from lm.policy.checks import check_score
from lm.policy.drawing import draw
from lm.policy.prompts import Prompts
from lm.policy.sampling import Samples
from lm.target.decoded import Reader, Reading, prompt_key
from lm.target.listed import ListedSupport, find_support
from lm.target.partition import SHARE_TO_WARN, Partition, PartitionEstimate, estimate_partition
from lm.target.prompt_file import read_prompts
from lm.target.targets import (
    Target,
    build_target,
    custom_target,
    describe_target,
    require_mass,
    reward_alone,
    teacher_target,
)
from lm.target.teacher import check_teacher

# Streams of random numbers, so that measuring more often never changes the training.
TRAINING, OFFLINE, EVALUATION, EVALUATION_BASE, PROMPT_ORDER, EVALUATED_CONTEXTS = range(6)


class Listing(NamedTuple):
    """The listed names as the base and the target see them.

    Attributes
    ----------
    support
        The names.
    log_base
        Shape (names,), float64: log a on the list, in nats.
    reading
        The names as texts, with the target's features (names, features), float64.
    """

    support: ListedSupport
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


@dataclass(frozen=True)
class Problem:
    """Everything about a run that does not change while it trains.

    Parameters
    ----------
    base
        The frozen model a.
    target
        The target p = P/Z.
    reader
        Turns samples into texts and features.
    listing
        The listed names, for a model that spells them and has no prompts; else None.
    prompts
        All contexts; None without prompts, which is one context: the start token.
    prompt_texts
        Their texts, in the same order.
    evaluated
        Shape (c,), int64: the contexts that evaluations look at.
    log_z
        Shape (contexts,), float64: log Z that normalises the target in measurements, in nats:
        exact, or the offline estimate; NaN for contexts that no part of the run needs it for.
    offline
        The offline estimate from base samples; None if Z is exact and nobody asked for one.
    """

    base: CausalPolicy
    target: Target
    reader: Reader
    listing: Listing | None
    prompts: Prompts | None
    prompt_texts: tuple[str, ...]
    evaluated: Tensor
    log_z: Tensor
    offline: Offline | None

    @property
    def contexts(self) -> int:
        """Number of contexts; 1 without prompts."""
        return len(self.log_z)

    def read(self, samples: Samples) -> Reading:
        """Decode samples and evaluate the target's features on them."""
        return self.reader.read(samples)

    def log_score(self, log_base: Tensor, reading: Reading) -> Tensor:
        """Return log P of samples, shape (n,); NaN or +inf stops with the sample's text.

        Parameters
        ----------
        log_base
            Shape (n,): log a(x) in nats; -inf where the base's transform cuts x off.
        reading
            The n samples, of whatever contexts.

        Returns
        -------
        Tensor
            Nats; -inf excludes a sample.
        """
        log_score = self.target.log_score_of(log_base, reading)
        check_score(log_base, log_score, reading.texts, holes=self.base.transform.truncates)
        return log_score

    @property
    def anchor(self) -> CausalPolicy | None:
        """The model that the target leans on; None if that is the policy itself, as it is now."""
        return None if self.target.config.kind == "reward" else self.base

    @cached_property
    def list_log_score(self) -> Tensor:
        """The listed names' log P, shape (names,), nats: the same at every evaluation."""
        assert self.listing is not None
        return self.log_score(self.listing.log_base, self.listing.reading)

    def warnings(self) -> list[str]:
        """Return what is wrong with the offline estimate, one sentence each."""
        if self.offline is None:
            return []
        shares = self.offline.estimate.largest_share
        heavy = (shares > SHARE_TO_WARN).nonzero()[:, 0]
        if len(heavy) == 0:
            return []
        worst = int(shares.argmax())
        of = f" of {self.offline.samples} base samples"
        where = ""
        if self.prompts is not None:
            prompt = self.prompt_texts[int(self.offline.contexts[worst])]
            where = f" for {len(heavy)} of {len(shares)} prompts (worst: {prompt!r})"
        return [
            f"one sample{of} makes up {float(shares[worst]):.0%} of the offline Zhat{where} "
            f"(warning above {SHARE_TO_WARN:.0%}): use more partition.samples"
        ]


def build_problem(
    config: RunConfig, base: CausalPolicy, prompts: Sequence[str] | None = None
) -> Problem:
    """Fit the target to the base: exactly over the list, or else on base samples.

    Parameters
    ----------
    config
        A resolved configuration.
    base
        The frozen base model, with any vocabulary.
    prompts
        The texts of all contexts; None reads the configuration's prompts.file, if it names one.

    Returns
    -------
    Problem
        With log Z of every context that the run needs, exact or estimated.

    Raises
    ------
    UnattainableMoments, ValueError
        The target cannot be built on this base.
    RunError
        A feature or a score fails; the model does not fit what was asked for.
    InfiniteDivergence
        A custom target has holes and the divergence an infinite slope.
    """
    if prompts is None and config.prompts.file is not None:
        prompts = read_prompts(config.prompts.file)
    texts = tuple(prompts or ())
    contexts = None
    if texts:
        rows = base.vocabulary.encode_prompts(list(texts))
        contexts = Prompts.from_ids(rows, pad_id=base.ids.pad_id)
    support = None if texts else find_support(base)
    if config.partition.policy == "exact" and support is None and not config.target.is_normalised:
        raise RunError(
            "partition.policy exact sums over the listed names, but this model does not spell "
            "them: set partition.policy frozen"
        )
    names = () if support is None else support.names
    keys = [] if contexts is None else map(prompt_key, *map(Tensor.tolist, contexts))
    by_tokens = dict(zip(keys, texts, strict=True))
    reader = Reader(base, config.target.features, frozenset(names), by_tokens)
    listing = None if support is None else _listing(support, base, config.target.features)
    evaluated = _evaluated(config, max(1, len(texts)))
    everywhere = config.partition.policy in {"frozen", "past_only"}
    on_list = listing is not None and config.target.on_list
    drawn = None
    if everywhere or not (on_list or config.target.is_normalised):
        wanted = torch.arange(max(1, len(texts))) if everywhere else evaluated
        drawn = _draw_base(config, base, reader, contexts, wanted)
    target = _fit(config, base, listing, drawn, evaluated, prompts=texts)
    offline = None if drawn is None else _estimate(config, target, drawn, texts)
    log_z = torch.full((max(1, len(texts)),), math.nan, dtype=torch.float64)
    if target.log_z is not None:
        log_z[:] = target.log_z
    elif offline is not None:
        log_z[offline.contexts] = offline.estimate.log_z
    return Problem(base, target, reader, listing, contexts, texts, evaluated, log_z, offline)


def measured_problem(config: RunConfig, base: CausalPolicy, trained: Problem) -> Problem:
    """Return the problem that a run is measured on: its own, or that of ``config.measure``.

    Parameters
    ----------
    config
        A resolved configuration.
    base
        The frozen base model.
    trained
        The problem that the run descends.

    Returns
    -------
    Problem
        Never one without a target.
    """
    if config.measure is None:
        return trained
    # What is measured decides neither what is descended nor where its Z comes from.
    other = replace(
        config,
        target=config.measure,
        measure=None,
        divergence="jensen_shannon",
        partition=replace(config.partition, policy="auto"),
    )
    return build_problem(resolve(other), base, trained.prompt_texts or None)


def build_partition(config: RunConfig, problem: Problem) -> Partition:
    """Return the source of Z that training uses.

    Parameters
    ----------
    config
        A resolved configuration.
    problem
        Holds the exact and the offline values.

    Returns
    -------
    Partition
        Its state starts on samples that are never trained on.
    """
    policy = config.partition.policy
    if policy == "exact":
        return Partition(policy, problem.log_z, torch.full_like(problem.log_z, math.inf))
    if policy in {"frozen", "past_only"} and problem.offline is not None:
        log_z = problem.offline.estimate.log_z
        weight = torch.full_like(log_z, float(problem.offline.samples))
        return Partition(policy, log_z, weight, config.partition.forgetting)
    return Partition(policy)


def describe_problem(problem: Problem) -> dict[str, Any]:
    """Return what a run is about, as target.json holds it: numbers, lists and words.

    Parameters
    ----------
    problem
        Of the run.

    Returns
    -------
    dict
        Kind, beta, score, features, number of prompts, log Z (with prompts the mean over those of
        the evaluations), its source, the offline estimate and the certificate of the multipliers.
    """
    target, offline = problem.target, problem.offline
    return {
        "kind": target.config.kind,
        "beta": target.config.beta,
        "score": target.config.score,
        "features": describe_target(target),
        "contexts": len(problem.prompt_texts),
        "log_z": float(problem.log_z[problem.evaluated].mean()),
        "log_z_source": "exact" if target.log_z is not None else "offline",
        "offline": None if offline is None else _describe_offline(offline),
        "fit": None
        if target.fit is None
        else {
            "multipliers": target.fit.multipliers.tolist(),
            "gradient_norm": float(target.fit.gradient_norm),
            "iterations": int(target.fit.iterations),
            "dual_values": [float(value) for value in target.fit.dual_values],
            "moment_errors": [float(value) for value in target.fit.moment_errors],
        },
        "warnings": problem.warnings(),
    }


def random_stream(seed: int, stream: int, step: int = 0) -> torch.Generator:
    """Return a generator on the CPU that depends on the seed, the purpose and the step."""
    state = np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) % 2**63)


class _Drawn(NamedTuple):
    """Base samples of some contexts: log a of shape (c, n), and their reading, c x n rows."""

    contexts: Tensor
    log_base: Tensor
    reading: Reading


def _listing(support: ListedSupport, base: CausalPolicy, features: tuple[str, ...]) -> Listing:
    return Listing(support, support.log_prob(base), support.reading(features))


def _evaluated(config: RunConfig, contexts: int) -> Tensor:
    """Choose the contexts of the evaluations, at random and the same ones every time."""
    order = torch.randperm(contexts, generator=random_stream(config.seed, EVALUATED_CONTEXTS))
    # A standard error needs two samples of each.
    most = min(config.evaluation.contexts, config.evaluation.samples // 2)
    return order[:most].sort().values


def _draw_base(
    config: RunConfig,
    base: CausalPolicy,
    reader: Reader,
    prompts: Prompts | None,
    contexts: Tensor,
) -> _Drawn:
    n = config.partition.samples // len(contexts)
    if n < 2:
        raise RunError(
            f"partition.samples is {config.partition.samples}, which leaves less than two base "
            f"samples for each of {len(contexts)} prompts: raise it, or set partition.policy "
            "leave_one_out, which needs none"
        )
    generator = random_stream(config.seed, OFFLINE)
    chosen = None if prompts is None else prompts.rows(contexts)
    samples = draw(base, n, generator=generator, prompts=chosen)
    return _Drawn(contexts, samples.log_prob.reshape(len(contexts), n), reader.read(samples))


def _fit(
    config: RunConfig,
    base: CausalPolicy,
    listing: Listing | None,
    drawn: _Drawn | None,
    evaluated: Tensor,
    *,
    prompts: tuple[str, ...],
) -> Target:
    if config.target.kind == "custom":
        return custom_target(config.target)
    if config.target.kind == "teacher":
        return teacher_target(config.target, _load_teacher(config, base))
    if config.target.kind == "reward":
        return reward_alone(config.target)
    if listing is not None and config.target.on_list:
        features = listing.reading.features
        atoms = torch.cat([features, features.new_zeros(1, features.shape[1])])
        log_base = listing.support.with_remainder(listing.log_base)
        return build_target(config.target, log_base, atoms, exact=True)
    assert drawn is not None
    features = drawn.reading.features.double().cpu()
    uniform = torch.full_like(drawn.log_base, -math.log(drawn.log_base.shape[1])).double().cpu()
    if not prompts:
        return build_target(config.target, uniform[0], features, exact=False)
    # Nothing is fitted with prompts: this only says what the target's features are expected to be.
    seen = torch.isin(drawn.contexts, evaluated)
    names = [prompts[context] for context in drawn.contexts[seen].tolist()]
    rows = features.reshape(*uniform.shape, -1)[seen]
    return build_target(config.target, uniform[seen], rows, exact=False, prompts=names)


def _load_teacher(config: RunConfig, base: CausalPolicy) -> CausalPolicy:
    teacher = load_policy(
        config.target.teacher or "",
        max_new_tokens=config.max_new_tokens,
        dtype=Amp(config.precision, str(base.device)).weights_dtype,
        device=str(base.device),
        transform=base.transform,
    )
    check_teacher(teacher, base)
    return teacher


def _estimate(
    config: RunConfig, target: Target, drawn: _Drawn, prompts: tuple[str, ...]
) -> Offline:
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


def _describe_offline(offline: Offline) -> dict[str, Any]:
    fields = offline.estimate._asdict()
    if len(offline.contexts) == 1:
        return {
            **{name: float(value) for name, value in fields.items()},
            "samples": offline.samples,
        }
    return {
        "contexts": offline.contexts.tolist(),
        "samples": offline.samples,
        **{name: value.tolist() for name, value in fields.items()},
    }
