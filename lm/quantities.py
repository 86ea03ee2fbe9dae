"""What is measured: from log-probabilities on the list and on samples to named estimates.

Every function returns ``{quantity: {estimator: entry}}``, the scheme that `lm.evaluate` documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fdpg_ref import (
    DIVERGENCES,
    REVERSE_KL,
    FDivergence,
    divergence_terms,
    exact_divergence,
    mean_and_standard_error,
)
from lm.metrics import (
    Entry,
    SplitSum,
    distinct_n,
    distinct_share,
    effective_share,
    entry,
    estimate_entry,
    over_groups,
    ratio_of_means,
    self_bleu,
    split_sum,
)
from lm.partition import estimate_partition
from lm.problem import Problem

Estimates = dict[str, dict[str, Entry]]


class Points(NamedTuple):
    """Texts with their log-probabilities in nats, float64: the list, or one sample.

    The proposal of both samples is their balanced mixture (a + pi)/2.
    """

    log_policy: Tensor
    log_base: Tensor
    log_target: Tensor
    log_proposal: Tensor
    listed: Tensor


class Evidence(NamedTuple):
    """Everything one evaluation has in hand.

    Attributes
    ----------
    on_list, from_base, from_policy
        The listed names, n samples of the base and n samples of the policy.
    features
        Shape (n, features): the target's features of the policy's samples.
    sequences
        Tokens of the policy's samples, without padding.
    prefix_kl, prefix_entropy
        Shape (n,), nats: sums over the positions of each policy sample of KL(pi||a) and of the
        entropy of the next token given the prefix (their means are the sequence's own, by the
        chain rule: Rao-Blackwell).
    """

    on_list: Points
    from_base: Points
    from_policy: Points
    features: Tensor
    sequences: list[list[int]]
    prefix_kl: Tensor
    prefix_entropy: Tensor


def feature_entries(problem: Problem, evidence: Evidence) -> Estimates:
    """Return E_pi[phi] of each feature of the target: exact where it lives on the list."""
    on_list = evidence.on_list.log_policy.exp() @ problem.list_features
    estimates: Estimates = {}
    for column, name in enumerate(problem.target.features):
        sampled = mean_and_standard_error(evidence.features[:, column])
        if problem.target.config.on_list:
            exact = float(on_list[column])
            estimates[f"feature/{name}"] = {
                "exact": entry(exact),
                "sampled": estimate_entry(sampled, against=exact),
            }
        else:
            estimates[f"feature/{name}"] = {"sampled": estimate_entry(sampled)}
    return estimates


def divergence_entries(problem: Problem, evidence: Evidence, names: tuple[str, ...]) -> Estimates:
    """Return D_f(policy, target) for each named f; infinite ones say why."""
    config = problem.target.config
    if config.kind == "constrained" and config.on_list:
        return {name: _hard_entries(problem, evidence, DIVERGENCES[name]) for name in names}
    return {
        name: _split_entries(
            _divergence_sum(evidence, DIVERGENCES[name]), "mass outside the target"
        )
        for name in names
    }


def base_distance_entries(problem: Problem, evidence: Evidence) -> Estimates:
    """Return KL(pi||a) and KL(p||a)."""
    to_base = _replace(evidence, lambda points: points._replace(log_target=points.log_base))
    split = _divergence_sum(to_base, REVERSE_KL)
    blackwell = mean_and_standard_error(evidence.prefix_kl)
    of_policy = _split_entries(split)
    of_policy["rao_blackwell"] = estimate_entry(blackwell, against=split.combined)
    return {"kl_policy_base": of_policy, "kl_target_base": _target_from_base(problem, evidence)}


def entropy_entries(evidence: Evidence, vocabulary_size: int) -> Estimates:
    """Return entropies of policy and target, per sequence and per token, and the length."""
    split = _entropy_sum(evidence)
    own = _split_entries(split)
    blackwell = mean_and_standard_error(evidence.prefix_entropy)
    own["rao_blackwell"] = estimate_entry(blackwell, against=split.combined)
    of_target = _replace(evidence, lambda points: points._replace(log_policy=points.log_target))
    lengths = torch.tensor([len(s) for s in evidence.sequences], dtype=torch.float64)
    per_token = ratio_of_means(evidence.prefix_entropy, lengths)
    scale = math.log(vocabulary_size)
    normalised = entry(float(per_token.mean) / scale, float(per_token.standard_error) / scale)
    return {
        "entropy": own,
        "entropy_target": {"list_and_remainder": estimate_entry(_entropy_sum(of_target).combined)},
        "entropy_per_token": {"rao_blackwell": estimate_entry(per_token)},
        "entropy_normalised": {"rao_blackwell": normalised},
        "length": {"sampled": estimate_entry(mean_and_standard_error(lengths))},
    }


def diversity_entries(evidence: Evidence, group: int) -> Estimates:
    """Return the distinct share, Distinct-n and Self-BLEU over tokens, within groups of samples."""
    split = _distinct_sum(evidence, group)
    sampled = over_groups(evidence.sequences, group, distinct_share)
    estimates: Estimates = {
        "distinct_share": {
            "list_and_remainder": estimate_entry(split.combined),
            "sampled": estimate_entry(sampled, against=split.combined),
        },
        "self_bleu": {"sampled": estimate_entry(over_groups(evidence.sequences, group, self_bleu))},
    }
    for n in (1, 2, 3):
        share = over_groups(evidence.sequences, group, lambda part, n=n: distinct_n(part, n))
        estimates[f"distinct_{n}"] = {"sampled": estimate_entry(share)}
    return estimates


def weight_entries(problem: Problem, evidence: Evidence) -> Estimates:
    """Return log Z, its health, the effective sample size, and the policy's mass on the list."""
    policy, log_z = evidence.from_policy, problem.log_z
    estimates: Estimates = {
        "list_mass": {"exact": entry(float(evidence.on_list.log_policy.exp().sum()))},
        "log_z": {"exact": entry(log_z)} if problem.target.log_z is not None else {},
    }
    log_score = policy.log_target + log_z
    log_weights = log_score - policy.log_policy
    if not bool(torch.isfinite(log_weights).any()):
        reason = "no sample has any target mass"
        estimates["log_z"]["sampled"] = entry(-math.inf, reason=reason)
        return estimates
    estimate = estimate_partition(log_score, policy.log_policy)
    ratio, error = math.exp(estimate.log_z - log_z), estimate.relative_standard_error
    known = problem.target.log_z is not None and error > 0
    z = (ratio - 1.0) / (ratio * error) if known else None
    estimates["log_z"]["sampled"] = entry(estimate.log_z, error, z=z)
    estimates["largest_share"] = {"sampled": entry(estimate.largest_share)}
    estimates["ess_share"] = {"sampled": estimate_entry(effective_share(log_weights))}
    return estimates


def _hard_entries(
    problem: Problem, evidence: Evidence, divergence: FDivergence
) -> dict[str, Entry]:
    # All of the target is on the list: unlisted texts are one atom without target mass.
    log_policy = problem.support.with_remainder(evidence.on_list.log_policy)
    nothing = log_policy.new_full((1,), -math.inf)
    log_target = torch.cat([evidence.on_list.log_target, nothing])
    exact = float(exact_divergence(log_policy, log_target, divergence=divergence))
    if math.isinf(exact):
        return {"exact": entry(exact, reason="policy mass where the hard constraint has none")}
    sampled = _divergence_sum(evidence, divergence).sampled
    return {"exact": entry(exact), "sampled": estimate_entry(sampled, against=exact)}


def _target_from_base(problem: Problem, evidence: Evidence) -> dict[str, Entry]:
    if not problem.target.config.on_list:
        base = evidence.from_base
        terms = divergence_terms(
            base.log_target, base.log_base, base.log_base, divergence=REVERSE_KL
        )
        return {"sampled": estimate_entry(mean_and_standard_error(terms))}
    # p/a is constant off the list, so that lumping the rest changes nothing.
    log_base = problem.support.with_remainder(problem.list_log_base)
    features = problem.list_features
    atoms = torch.cat([features, features.new_zeros(1, features.shape[1])])
    log_target = problem.target.log_score(log_base, atoms) - problem.log_z
    exact = exact_divergence(log_target, log_base, divergence=REVERSE_KL)
    return {"exact": entry(float(exact))}


def _divergence_sum(evidence: Evidence, divergence: FDivergence) -> SplitSum:
    on_list = evidence.on_list

    def terms(points: Points) -> Tensor:
        return divergence_terms(
            points.log_policy, points.log_target, points.log_proposal, divergence=divergence
        )

    return _split(evidence, divergence.density(on_list.log_policy, on_list.log_target), terms)


def _entropy_sum(evidence: Evidence) -> SplitSum:
    def terms(points: Points) -> Tensor:
        return _entropy_mass(points.log_policy) * torch.exp(-points.log_proposal)

    return _split(evidence, _entropy_mass(evidence.on_list.log_policy), terms)


def _distinct_sum(evidence: Evidence, group: int) -> SplitSum:
    # The expected number of different texts among m samples is sum_x [1 - (1 - pi(x))^m].
    def share(log_policy: Tensor) -> Tensor:
        return -torch.expm1(group * torch.log1p(-log_policy.exp().clamp(max=1.0))) / group

    def terms(points: Points) -> Tensor:
        return share(points.log_policy) * torch.exp(-points.log_proposal)

    return _split(evidence, share(evidence.on_list.log_policy), terms)


def _entropy_mass(log_prob: Tensor) -> Tensor:
    return torch.special.entr(log_prob.exp())


def _replace(evidence: Evidence, change: Callable[[Points], Points]) -> Evidence:
    return evidence._replace(
        on_list=change(evidence.on_list),
        from_base=change(evidence.from_base),
        from_policy=change(evidence.from_policy),
    )


def _split(evidence: Evidence, list_terms: Tensor, terms: Callable[[Points], Tensor]) -> SplitSum:
    return split_sum(
        list_terms,
        terms(evidence.from_base),
        terms(evidence.from_policy),
        base_listed=evidence.from_base.listed,
        policy_listed=evidence.from_policy.listed,
    )


def _split_entries(split: SplitSum, reason: str | None = None) -> dict[str, Entry]:
    combined = estimate_entry(split.combined)
    if combined["value"] == "inf":
        return {"list_and_remainder": entry(math.inf, reason=reason)}
    sampled = estimate_entry(split.sampled)
    if math.isfinite(split.z):
        sampled["z"] = split.z
    return {"list_and_remainder": combined, "sampled": sampled}
