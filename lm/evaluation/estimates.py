"""What is estimated of a policy: features, divergences, entropies, weights, each by name.

Every function returns `lm.evaluation.entries.Estimates`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fdpg_ref import (
    REVERSE_KL,
    Estimate,
    FDivergence,
    divergence_terms,
    exact_divergence,
    find_divergence,
)
from lm.evaluation.entries import Entry, Estimates, entry, estimate_entry, split_entries
from lm.evaluation.evidence import Evidence, Points
from lm.evaluation.statistics import (
    SplitSum,
    effective_share,
    exact_error,
    ratio_of_means,
    sample_mean,
    z_score,
)
from lm.evaluation.two_sides import OUTSIDE
from lm.target.listed import Listing
from lm.target.partition import estimate_partition
from lm.target.problem import Problem

CUT_OFF = "the policy keeps tokens that the base's transform cuts off"


def feature_entries(problem: Problem, evidence: Evidence) -> Estimates:
    """Return E_pi[phi] of each feature of the target: exact where it lives on the list."""
    on_list = evidence.on_list if problem.target.config.on_list else None
    estimates: Estimates = {}
    for column, name in enumerate(problem.target.features):
        sampled = sample_mean(evidence.features[..., column])
        if on_list is None:
            estimates[f"feature/{name}"] = {"sampled": estimate_entry(sampled)}
            continue
        values = _listing(problem).reading.features[:, column]
        exact = float(on_list.log_policy.exp() @ values)
        error = exact_error(values, [on_list.log_policy], evidence.features.shape[1])
        z = z_score(float(sampled.mean) - exact, error)
        estimates[f"feature/{name}"] = {
            "exact": entry(exact),
            "sampled": entry(float(sampled.mean), float(sampled.standard_error), z=z),
        }
    return estimates


def divergence_entries(problem: Problem, evidence: Evidence, names: tuple[str, ...]) -> Estimates:
    """Return D_f(policy, target) for each named f; infinite ones say why."""
    config = problem.target.config
    if config.kind == "constrained" and config.on_list and problem.listing is not None:
        return {name: _hard_entries(problem, evidence, find_divergence(name)) for name in names}
    return {
        name: split_entries(_divergence_sum(evidence, find_divergence(name)), OUTSIDE)
        for name in names
    }


def base_distance_entries(problem: Problem, evidence: Evidence) -> Estimates:
    """Return KL(pi||a) and KL(p||a)."""
    to_base = evidence.with_points(lambda points: points._replace(log_target=points.log_base))
    split = _divergence_sum(to_base, REVERSE_KL)
    of_policy = split_entries(split, CUT_OFF)
    blackwell = sample_mean(evidence.prefix_kl)
    of_policy["rao_blackwell"] = estimate_entry(blackwell, against=_comparable(evidence, split))
    return {"kl_policy_base": of_policy, "kl_target_base": _target_from_base(problem, evidence)}


def entropy_entries(
    evidence: Evidence, vocabulary_size: int, of_teacher: Estimate | None = None
) -> Estimates:
    """Return entropies of policy and target, per sequence and per token, and the length.

    Parameters
    ----------
    evidence
        Of the evaluation.
    vocabulary_size
        Of the policy.
    of_teacher
        The entropy of a target that is a model, from its own samples: base and policy may hardly
        ever say what it says, so that their weights would be heavy.
    """
    split = _entropy_sum(evidence)
    own = split_entries(split)
    blackwell = sample_mean(evidence.prefix_entropy)
    own["rao_blackwell"] = estimate_entry(blackwell, against=_comparable(evidence, split))
    of_target = evidence.with_points(lambda points: points._replace(log_policy=points.log_target))
    target, lengths = _entropy_sum(of_target), evidence.lengths
    per_token = ratio_of_means(evidence.prefix_entropy, lengths)
    scale = math.log(vocabulary_size)
    normalised = entry(float(per_token.mean) / scale, float(per_token.standard_error) / scale)
    by = "sampled" if target.combined is None else "list_and_remainder"
    if of_teacher is not None:
        by = "rao_blackwell"
    return {
        "entropy": own,
        "entropy_target": {by: estimate_entry(of_teacher or target.best)},
        "entropy_per_token": {"rao_blackwell": estimate_entry(per_token)},
        "entropy_normalised": {"rao_blackwell": normalised},
        "length": {"sampled": estimate_entry(sample_mean(lengths))},
    }


def weight_entries(problem: Problem, evidence: Evidence) -> Estimates:
    """Return log Z, its health, the effective sample size, and the policy's mass on the list."""
    policy, exact = evidence.from_policy, problem.target.log_z
    estimates: Estimates = {"log_z": {} if exact is None else {"exact": entry(exact)}}
    if evidence.on_list is not None:
        mass = float(evidence.on_list.log_policy.exp().sum())
        estimates["list_mass"] = {"exact": entry(mass)}

    # Weights P/pi of the policy's samples, in contexts where one has target mass.
    log_z = problem.log_z[problem.evaluated][:, None]
    log_weights = policy.log_target + log_z - policy.log_policy
    reached = torch.isfinite(log_weights).any(-1)
    if not bool(reached.any()):
        reason = "no sample has any target mass"
        estimates["log_z"]["sampled"] = entry(-math.inf, reason=reason)
        return estimates
    log_weights = log_weights[reached]
    estimate = estimate_partition(log_weights, torch.zeros_like(log_weights))

    # The error of a mean of logarithms, each of which errs by its Zhat's relative error.
    error = float(estimate.relative_standard_error.norm()) / len(log_weights)
    mean, z = float(estimate.log_z.mean()), None
    if exact is not None and evidence.on_list is not None:
        z = z_score(math.exp(mean - exact) - 1.0, _error_of_z(evidence))
    elif exact is not None:
        ratio = math.exp(mean - exact)
        z = z_score(ratio - 1.0, ratio * error)

    # Write down.
    missed = int((~reached).sum())
    reason = f"without {missed} contexts: no sample has any target mass" if missed else None
    estimates["log_z"]["sampled"] = entry(mean, error, z=z, reason=reason)
    estimates["largest_share"] = {"sampled": entry(float(estimate.largest_share.max()))}
    estimates["ess_share"] = {"sampled": estimate_entry(effective_share(log_weights))}
    return estimates


def kept_mass_entries(evidence: Evidence) -> Estimates:
    """Return the mass per token that a truncating transform keeps, as a geometric mean."""
    if evidence.log_kept_mass is None:
        return {}
    per_token = ratio_of_means(evidence.log_kept_mass, evidence.lengths)
    value = math.exp(float(per_token.mean))
    return {"kept_mass": {"sampled": entry(value, value * float(per_token.standard_error))}}


def _hard_entries(
    problem: Problem, evidence: Evidence, divergence: FDivergence
) -> dict[str, Entry]:
    # All of the target is on the list: unlisted texts are one atom without target mass.
    assert evidence.on_list is not None
    log_policy = _listing(problem).support.with_remainder(evidence.on_list.log_policy)
    nothing = log_policy.new_full((1,), -math.inf)
    log_target = torch.cat([evidence.on_list.log_target, nothing])
    exact = float(exact_divergence(log_policy, log_target, divergence=divergence))
    if math.isinf(exact):
        return {"exact": entry(exact, reason="policy mass where the hard constraint has none")}
    split = _divergence_sum(evidence, divergence)
    sampled = estimate_entry(split.sampled)
    if math.isfinite(split.z):
        sampled["z"] = split.z
    return {"exact": entry(exact), "sampled": sampled}


def _target_from_base(problem: Problem, evidence: Evidence) -> dict[str, Entry]:
    if problem.listing is None or not problem.target.config.on_list:
        base = evidence.from_base
        terms = divergence_terms(
            base.log_target, base.log_base, base.log_base, divergence=REVERSE_KL
        )
        return {"sampled": estimate_entry(sample_mean(terms))}
    # p/a is constant off the list, so that lumping the rest changes nothing.
    log_base, atoms = problem.listing.with_remainder()
    log_target = problem.target.log_score(log_base, atoms) - problem.log_z
    exact = exact_divergence(log_target, log_base, divergence=REVERSE_KL)
    return {"exact": entry(float(exact))}


def _divergence_sum(evidence: Evidence, divergence: FDivergence) -> SplitSum:
    def terms(points: Points) -> Tensor:
        return divergence_terms(
            points.log_policy, points.log_target, points.log_proposal, divergence=divergence
        )

    return evidence.sum_over_texts(
        lambda on_list: divergence.density(on_list.log_policy, on_list.log_target),
        terms,
    )


def _error_of_z(evidence: Evidence) -> float:
    """Return the standard error of Zhat/Z from the policy's samples; NaN where it is not normal.

    The variance of p/pi is an exact sum over the listed names, plus an estimate of the rest: a
    policy that misses target mass cannot see the variance of its own weights.
    """

    def terms(points: Points) -> Tensor:
        return torch.exp(2 * points.log_target - points.log_policy - points.log_proposal)

    assert evidence.on_list is not None
    on_list, n = evidence.on_list, evidence.from_policy.listed.numel()
    weights = torch.exp(on_list.log_target - on_list.log_policy)
    if math.isnan(exact_error(weights, [on_list.log_policy], n)):
        return math.nan
    second = evidence.sum_over_texts(
        lambda on_list: torch.exp(2 * on_list.log_target - on_list.log_policy),
        terms,
    ).best
    return math.sqrt(max(float(second.mean) - 1.0, 0.0) / n)


def _entropy_sum(evidence: Evidence) -> SplitSum:
    def terms(points: Points) -> Tensor:
        # exp(-800) is 0 in float64, so the masses meet as a ratio; 0 log 0 = 0.
        terms = -points.log_policy * torch.exp(points.log_policy - points.log_proposal)
        return terms.where(points.log_policy > -torch.inf, 0.0)

    return evidence.sum_over_texts(
        lambda on_list: torch.special.entr(on_list.log_policy.exp()), terms
    )


def _listing(problem: Problem) -> Listing:
    assert problem.listing is not None
    return problem.listing


def _comparable(evidence: Evidence, split: SplitSum) -> Estimate | None:
    """Return the better estimate where a z-score against it means something.

    With several contexts most of both standard errors is which contexts there are, which both
    estimators share: a z would be near zero whatever is wrong.
    """
    return split.best if len(evidence.prefix_kl) == 1 else None
