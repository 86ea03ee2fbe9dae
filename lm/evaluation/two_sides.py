"""Divergences from both sides: samples of the target beside samples of the policy alone.

Samples of a policy cannot show what the policy dropped, and their standard error cannot know of it.
The published way to measure KL(p‖pi) weighs samples of the policy by P/pi. Here it stands beside
estimates with samples of p and of pi in equal parts: their mixture (p + pi)/2 covers both, and no
weight exceeds two. The mean of log p - log pi over samples of p alone would do for KL(p‖pi); the
mixture's error is smaller where the two are close, and the same where they are far.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fdpg_ref import Estimate, FDivergence, divergence_terms, find_divergence
from lm.evaluation.entries import Entry, Estimates, entry, estimate_entry
from lm.evaluation.evidence import Evidence, Points
from lm.evaluation.statistics import exact_error, sample_mean, two_strata, z_score
from lm.target.partition import estimate_partition

FROM_TARGET, FROM_POLICY = "target_samples", "policy_samples"
OUTSIDE = "policy mass outside the target"
NO_MASS = "no sample of the policy has any target mass"


class TargetSide(NamedTuple):
    """Samples of the target under the policy.

    Attributes
    ----------
    rows
        Shape (c,), int64: the rows of an evaluation's contexts that the samples belong to.
    points
        Shape (c, n).
    log_z_error
        Standard error of log Z where p is normalised by the estimate of a single context; else 0.
    """

    rows: Tensor
    points: Points
    log_z_error: float


def two_sided_entries(
    evidence: Evidence, side: TargetSide | None, names: tuple[str, ...]
) -> Estimates:
    """Return the divergences by samples of the target and by samples of the policy alone.

    Parameters
    ----------
    evidence
        Of the evaluation.
    side
        Samples of the target; None if there are none.
    names
        Of the divergences.

    Returns
    -------
    Estimates
        By name; and ``unseen_share``, the share of the target of which as many samples of the
        policy as this evaluation draws are expected to show less than one.
    """
    policy = evidence.from_policy
    if side is not None:
        policy = Points(*(values[side.rows] for values in policy))
    found: Estimates = {}
    for name in names:
        divergence = find_divergence(name)
        own = found[name] = {FROM_POLICY: _from_policy(policy, divergence)}
        if side is not None:
            own[FROM_TARGET] = _from_mixture(side, policy, evidence.on_list, divergence)
        # That no sample shows it does not make it finite.
        if math.isinf(_on_list(evidence.on_list, divergence)):
            found[name] = {by: entry(math.inf, reason=OUTSIDE) for by in own}
    if side is not None:
        share = unseen_share(side.points, policy.log_policy.shape[1])
        found["unseen_share"] = {FROM_TARGET: share}
    return found


def _from_policy(points: Points, divergence: FDivergence) -> Entry:
    """Weigh samples of the policy by P/pi, with Z estimated from the same samples."""
    # log_target is normalised; whatever constant it has cancels.
    weights = points.log_target - points.log_policy
    if not bool(torch.isfinite(weights).any(-1).all()):
        return entry(math.inf, reason=NO_MASS)
    log_z = estimate_partition(points.log_target, points.log_policy).log_z[:, None]
    terms = divergence_terms(
        points.log_policy, points.log_target - log_z, points.log_policy, divergence=divergence
    )
    found = sample_mean(terms)
    if not bool(torch.isfinite(found.mean)):
        return entry(math.inf, reason=OUTSIDE)
    return estimate_entry(found)


def _from_mixture(
    side: TargetSide, policy: Points, on_list: Points | None, divergence: FDivergence
) -> Entry:
    """Return a divergence with samples of p and of pi, in equal parts of (p + pi)/2."""
    both = [_terms(points, divergence) for points in (side.points, policy)]
    found = two_strata(*both)
    if not bool(torch.isfinite(found.mean)):
        return entry(math.inf, reason=OUTSIDE)
    if side.log_z_error > 0:
        # Where p is normalised by an estimate, this is what its error amounts to.
        ends = [
            two_strata(
                *(_terms(_shifted(points, by), divergence) for points in (side.points, policy))
            )
            for by in (-side.log_z_error, side.log_z_error)
        ]
        slope = (ends[1].mean - ends[0].mean) / 2
        found = Estimate(found.mean, torch.hypot(found.standard_error, slope))
    if on_list is None:
        return estimate_entry(found)

    # As for the other estimators: the listed part against its exact value.
    # A name that neither can draw adds nothing.
    drawn = torch.logaddexp(on_list.log_policy, on_list.log_target) > -torch.inf
    values = torch.zeros_like(on_list.log_policy)
    values[drawn] = _terms(Points(*(column[drawn] for column in on_list)), divergence)
    parts = zip(both, (side.points, policy), strict=True)
    listed = sum(float(terms.where(own.listed, 0.0).mean()) for terms, own in parts) / 2
    laws = (on_list.log_target, on_list.log_policy)
    sizes = [terms.numel() for terms in both]
    errors = [exact_error(values, [law], n) for law, n in zip(laws, sizes, strict=True)]
    z = z_score(listed - _on_list(on_list, divergence), math.hypot(*errors) / 2)
    return entry(float(found.mean), float(found.standard_error), z=z)


def _terms(points: Points, divergence: FDivergence) -> Tensor:
    log_mixture = torch.logaddexp(points.log_policy, points.log_target) - math.log(2.0)
    return divergence_terms(
        points.log_policy, points.log_target, log_mixture, divergence=divergence
    )


def _on_list(on_list: Points | None, divergence: FDivergence) -> float:
    """Return the listed names' part of a divergence, an exact sum; 0 where there is no list."""
    if on_list is None:
        return 0.0
    return float(divergence.density(on_list.log_policy, on_list.log_target).sum())


def _shifted(points: Points, by: float) -> Points:
    return points._replace(log_target=points.log_target + by)


def unseen_share(points: Points, n: int) -> Entry:
    """Return the share of p where pi/p is least, as far as n samples of pi expect less than one.

    Parameters
    ----------
    points
        Samples of the target, shape (contexts, own).
    n
        Samples of the policy in each context.
    """
    ratios = torch.exp(points.log_policy - points.log_target).sort(-1).values
    own = ratios.shape[-1]
    # E_p[1 pi/p] over the part is the policy's mass there.
    expected = ratios.cumsum(-1) * (n / own)
    unseen = (expected < 1.0).double()
    return estimate_entry(sample_mean(unseen))
