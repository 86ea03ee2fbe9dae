"""Fit a target to its base: on the list where that is exact, on base samples where it is not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fdpg_ref import (
    MultiplierFit,
    MultipliersNotConverged,
    UnattainableMoments,
    exact_log_partition,
    fit_multipliers,
)
from lm.config import RunConfig
from lm.config.target import TargetConfig
from lm.device.streams import TRIAL, random_stream
from lm.phases import phase
from lm.policy.checks import check_score
from lm.policy.prompts import Prompts
from lm.policy.protocol import Policy
from lm.target.bounds import largest_log_weight
from lm.target.decoded import Reader
from lm.target.listed import Listing
from lm.target.offline import BaseSamples, Offline, estimate_offline
from lm.target.targets import NoMass, Target, log_score, require_mass, wanted_moments
from lm.target.teacher import load_teacher

# Where a weight may be as large as it likes, fewer base samples say nothing of a rare large one.
UNBOUNDED = 1024


def fit_target(
    config: RunConfig,
    base: Policy,
    listing: Listing | None,
    drawn: BaseSamples | None,
    evaluated: Tensor,
    *,
    prompts: tuple[str, ...],
) -> Target:
    """Build the target of a run.

    Parameters
    ----------
    config
        A resolved configuration.
    base
        The frozen base model.
    listing
        The listed names; None where there is no list.
    drawn
        Base samples; None where nothing needs them.
    evaluated
        Shape (c,), int64: the contexts of the evaluations.
    prompts
        The texts of all contexts; none without prompts.

    Raises
    ------
    UnattainableMoments, ValueError
        The target cannot be built on this base.
    """
    # Kinds without anything to fit.
    if config.target.kind == "custom":
        return without_features(config.target)
    if config.target.kind == "teacher":
        return without_features(config.target, 0.0, load_teacher(config, base))
    if config.target.kind == "reward":
        return reward_alone(config.target)

    # The list, where the features live on it.
    if listing is not None and config.target.on_list:
        return build_target(config.target, *listing.with_remainder(), exact=True)

    # Base samples stand for the base, each with the same mass.
    assert drawn is not None
    features = drawn.reading.features.double().cpu()
    uniform = torch.full_like(drawn.log_base, -math.log(drawn.log_base.shape[1])).double().cpu()
    # One fixed prompt is one context, in which moments are fitted as without any.
    if len(prompts) <= 1:
        return build_target(config.target, uniform[0], features, exact=False, prompts=prompts)

    # Nothing is fitted with prompts: this only says what the target's features are expected to be.
    seen = torch.isin(drawn.contexts, evaluated)
    names = [prompts[context] for context in drawn.contexts[seen].tolist()]
    rows, shares = features.reshape(*uniform.shape, -1)[seen], uniform[seen]
    whole = torch.ones(len(rows), dtype=torch.bool)
    if config.partition.policy == "column" and config.target.kind == "constrained":
        # A column knows Z of prompts that no sample meets; the target's features are the others'.
        met = (rows != 0).all(-1).any(-1)
        whole = met if bool(met.any()) else whole
    chosen = [name for name, kept in zip(names, whole.tolist(), strict=True) if kept]
    target = build_target(config.target, shares[whole], rows[whole], exact=False, prompts=chosen)
    return replace(target, base_moments=_mean_moments(torch.softmax(shares, -1), rows))


def fit_on_samples(
    config: RunConfig,
    base: Policy,
    listing: Listing | None,
    draws: Iterable[BaseSamples],
    evaluated: Tensor,
    *,
    prompts: tuple[str, ...],
) -> tuple[Target, Offline]:
    """Build the target and estimate its Z, on base samples until these are enough.

    Parameters
    ----------
    config, base, listing, evaluated, prompts
        As for `fit_target`.
    draws
        More and more base samples; each of them holds those before.

    Returns
    -------
    Target, Offline
        From as many as partition.error takes, or from the last.

    Raises
    ------
    UnattainableMoments, MultipliersNotConverged, ValueError
        The target cannot be built even on the last.
    """
    for drawn in draws:
        try:
            target = fit_target(config, base, listing, drawn, evaluated, prompts=prompts)
            offline = estimate_offline(config, target, drawn, prompts)
        except (UnattainableMoments, MultipliersNotConverged, NoMass):
            # What no sample shows yet, more of them may.
            if drawn.last:
                raise
            continue
        if drawn.last or _is_precise(config, base, listing, target, offline):
            return target, offline
    raise ValueError("no base samples were drawn")


def _is_precise(
    config: RunConfig, base: Policy, listing: Listing | None, target: Target, offline: Offline
) -> bool:
    """Return whether Z of every context is known to within `partition.error`, or stated.

    Samples of equal weight have no spread, also where a rare heavy text is missing among them. So
    one more sample of the largest possible weight must not move Zhat by more, either.
    """
    if config.partition.policy == "column":
        return True
    log_z, errors, _ = offline.estimate
    bound = largest_log_weight(target, listing, most_tokens=base.max_new_tokens)
    if bound is None:
        unseen = 0.0 if log_z.numel() * offline.samples >= UNBOUNDED else math.inf
    else:
        unseen = float((torch.exp(bound - log_z) / offline.samples).max())
    # Not the other way round: an error that is NaN is not small.
    return float(errors.max()) <= config.partition.error and unseen <= config.partition.error


@torch.no_grad()
def try_functions(config: RunConfig, base: Policy, reader: Reader, prompts: Prompts | None) -> None:
    """Call a target's functions on two texts of the base, before many are drawn for them.

    Parameters
    ----------
    config
        Names them.
    base, reader
        Who writes the texts and who reads them.
    prompts
        All contexts; None without prompts.

    Raises
    ------
    RunError
        A function fails, or does not return two finite numbers.
    """
    if config.target.on_list or config.target.is_normalised:
        return
    with phase("trying the target's functions on two texts"):
        first = None if prompts is None else prompts.rows(slice(0, 1))
        samples = base.sample(2, generator=random_stream(config.seed, TRIAL), prompts=first)
        reading = reader.read(samples)
        if config.target.score is not None:
            score = without_features(config.target).log_score_of(samples.log_prob, reading)
            check_score(samples.log_prob, score, reading.texts, holes=base.transform.truncates)


def build_target(
    config: TargetConfig,
    log_base: Tensor,
    features: Tensor,
    *,
    exact: bool,
    prompts: Sequence[str] = (),
) -> Target:
    """Fit the target on a finite support that stands for the base.

    Parameters
    ----------
    config
        Kind, features and what is wanted of them.
    log_base
        Shape (..., n): either log a of the listed names and, last, of everything unlisted (exact),
        or -log n for each of n base samples, of each context where there are several.
    features
        Shape (..., n, features): phi of each point; zero for the unlisted rest.
    exact
        Whether the support is the list, so that its sum is Z.
    prompts
        The contexts' texts, for the message of an error.

    Returns
    -------
    Target
        Its ``log_z`` is set only if the support is exact.

    Raises
    ------
    UnattainableMoments
        No multipliers give the wanted moments on this support.
    ValueError
        A hard constraint that no point of the support, or of a context's, satisfies.
    """
    log_base, features = log_base.double(), features.double()
    base_moments = _mean_moments(torch.softmax(log_base, -1), features)
    weights, fit = _weights(config, log_base, features, base_moments)
    scores = log_score(config, weights, log_base, features)
    require_mass(config, scores, prompts)
    log_z = exact_log_partition(scores)
    moments = _mean_moments(torch.exp(scores - log_z[..., None]), features)
    return Target(config, weights, base_moments, moments, float(log_z) if exact else None, fit)


def without_features(
    config: TargetConfig, log_z: float | None = None, teacher: Policy | None = None
) -> Target:
    """Return a target with no features and nothing to fit: a function of texts, or a model.

    Parameters
    ----------
    config
        Of kind custom or teacher.
    log_z
        Known for a model: 0.
    teacher
        The model.
    """
    nothing = torch.zeros(0, dtype=torch.float64)
    return Target(config, nothing, nothing, nothing, log_z, None, teacher)


def reward_alone(config: TargetConfig) -> Target:
    """Return plain reward maximisation: reverse KL to the policy's own tilt, pi e^r.

    The signal log pi - log(pi e^r) is -r, so its gradient is that of -E_pi[r]. Where a penalty
    anchors the target to the base, here nothing does; the constant log Z of the tilt is left out.
    """
    reward = torch.tensor(list(config.reward.values()), dtype=torch.float64)
    nothing = torch.full_like(reward, torch.nan)
    return Target(config, reward, nothing, nothing, 0.0, None)


def _weights(
    config: TargetConfig, log_base: Tensor, features: Tensor, base_moments: Tensor
) -> tuple[Tensor, MultiplierFit | None]:
    if config.kind == "exponential_family":
        try:
            fit = fit_multipliers(log_base, features, wanted_moments(config, base_moments))
        except UnattainableMoments as error:
            names = ", ".join(f"{k} is {name}" for k, name in enumerate(config.features))
            raise UnattainableMoments(f"{error} (feature {names})") from error
        return fit.multipliers, fit
    if config.kind == "reward_tilted":
        return torch.tensor(list(config.reward.values()), dtype=features.dtype), None
    return torch.ones(len(config.constraints), dtype=features.dtype), None


def _mean_moments(probabilities: Tensor, features: Tensor) -> Tensor:
    """Return E[phi] of each context's points, averaged over contexts, shape (features,)."""
    moments = torch.einsum("...n,...nk->...k", probabilities, features)
    return moments.reshape(-1, moments.shape[-1]).mean(0)
