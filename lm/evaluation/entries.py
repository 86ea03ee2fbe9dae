"""Estimates as a record holds them, and warnings about what they say.

``{quantity: {estimator: entry}}`` is the scheme of `lm.run.records`.
"""

from __future__ import annotations

import math
from typing import Any

from fdpg_ref import Estimate
from fdpg_ref.display import divergence_called
from lm.evaluation.statistics import SplitSum, z_score
from lm.target.partition import SHARE_TO_WARN

Number = float | str | None
# One estimator's entry: value, and where they exist standard_error, z and reason.
Entry = dict[str, Number]
Estimates = dict[str, dict[str, Entry]]


def entry(
    value: float,
    standard_error: float | None = None,
    *,
    z: float | None = None,
    reason: str | None = None,
) -> Entry:
    """Return one estimator's entry: numbers that JSON can hold, an infinity as the word inf."""
    fields: Entry = {"value": value if math.isfinite(value) else str(value)}
    if standard_error is not None and math.isfinite(standard_error):
        fields["standard_error"] = standard_error
    if z is not None and math.isfinite(z):
        fields["z"] = z
    if reason is not None:
        fields["reason"] = reason
    return fields


def estimate_entry(estimate: Estimate, *, against: Estimate | float | None = None) -> Entry:
    """Return the entry of a core `Estimate`, with its z-score against a better or exact value."""
    mean, error = float(estimate.mean), float(estimate.standard_error)
    if against is None:
        return entry(mean, error)
    known = Estimate(against, 0.0) if isinstance(against, (int, float)) else against
    z = z_score(mean - float(known.mean), math.hypot(error, float(known.standard_error)))
    return entry(mean, error, z=z)


def split_entries(split: SplitSum, reason: str | None = None) -> dict[str, Entry]:
    """Return the entries of a sum over all texts; the reason is why it may be infinite."""
    by = "sampled" if split.combined is None else "list_and_remainder"
    best = estimate_entry(split.best)
    if best["value"] == "inf":
        return {by: entry(math.inf, reason=reason)}
    sampled = estimate_entry(split.sampled)
    if math.isfinite(split.z):
        sampled["z"] = split.z
    return {by: best, "sampled": sampled}


def bound_warnings(estimates: dict[str, dict[str, Any]]) -> list[str]:
    """Return what lies outside its mathematical bounds; an exact value outside raises.

    Parameters
    ----------
    estimates
        ``estimates[quantity][estimator]`` entries, as in a record.

    Returns
    -------
    list of str
        One sentence for each importance estimate more than 5 standard errors out of bounds.

    Raises
    ------
    ArithmeticError
        An exact value is out of bounds beyond rounding: the computation itself is wrong.
    """
    warnings = []
    for quantity, entries in estimates.items():
        divergence = divergence_called(quantity)
        if divergence is None or math.isinf(divergence.upper_bound):
            continue
        highest = divergence.upper_bound
        for estimator, fields in entries.items():
            value, slack = float(fields["value"]), 5 * float(fields.get("standard_error", 0.0))
            excess = max(-value, value - highest)
            message = f"{quantity} ({estimator}) is {value:.6g}, outside [0, {highest:.6g}]"
            if estimator == "exact" and excess > 1e-6:
                raise ArithmeticError(message)
            if excess > max(slack, 1e-6):
                warnings.append(f"{message} by more than 5 standard errors")
    return warnings


def share_warnings(estimates: Estimates) -> list[str]:
    """Return a sentence if one sample makes up too much of the sampled Zhat."""
    shares = estimates.get("largest_share", {})
    share = float(shares["sampled"]["value"] or 0.0) if shares else 1.0
    if share <= SHARE_TO_WARN:
        return []
    return [
        f"one sample makes up {share:.0%} of the sampled Zhat (warning above {SHARE_TO_WARN:.0%}): "
        "estimates that divide by it rest on that sample"
    ]
