"""What a verified claim is, and how a verdict is measured.

A verdict is never stored: it follows from enumerated means alone, and a claim holds when the
measured verdict is the claimed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

EXACT, PROPORTIONAL, BIASED = "exact", "proportional", "biased"

# Rounding: float64 sums of at most 4^5 terms whose log-ratios span some 20 nats.
ROUNDING = 1e-10
# A bias is claimed only where it is beyond doubt: seven orders of magnitude above rounding.
CLEAR_BIAS = 1e-3


class Comparison(NamedTuple):
    """One enumerated mean beside the truth, on one problem.

    Attributes
    ----------
    value, truth : (...) arrays
        The mean of the estimator, and what it is claimed to estimate.
    factor : float or None
        The predicted factor of proportionality, computed on its own; None where none is predicted.
    scale : float or None
        What errors are relative to; None for the norm of the truth.
    """

    value: Float[np.ndarray, "..."]
    truth: Float[np.ndarray, "..."]
    factor: float | None = None
    scale: float | None = None


def at_most(value: float, bound: float) -> Comparison:
    """Return the comparison of an inequality: the excess over the bound, relative to the bound."""
    return Comparison(np.asarray(max(value - bound, 0.0)), np.asarray(0.0), scale=abs(bound) or 1.0)


class Verdict(NamedTuple):
    """A measured verdict: exact, proportional (with its factor) or biased."""

    verdict: str
    factor: float | None
    max_relative_error: float


@dataclass(frozen=True)
class Record:
    """One claim with its measured verdict.

    Attributes
    ----------
    claim : str
        The statement, opened by its number in the theory (F1 ... F13) where it has one.
    divergence, estimator : str or None
        What it is about; None where it is about neither.
    claimed : str
        The verdict that the theory predicts.
    verdict : str
        The verdict that enumeration measured.
    factor : float or None
        The enumerated factor where one is predicted and found (of the first problem, where it
        depends on the problem); always there for a proportional estimator.
    max_relative_error : float
        Largest relative error over all problems; for a proportional estimator after its factor.
    problems : int
        Number of problems enumerated.
    test_id : str
        The pytest node that guards the claim.
    """

    claim: str
    divergence: str | None
    estimator: str | None
    claimed: str
    verdict: str
    factor: float | None
    max_relative_error: float
    problems: int
    test_id: str

    @property
    def holds(self) -> bool:
        """Whether the measured verdict is the claimed one, a bias beyond doubt included."""
        doubtful = self.claimed == BIASED and not self.max_relative_error > CLEAR_BIAS
        return self.verdict == self.claimed and not doubtful


def judge(comparisons: Sequence[Comparison]) -> Verdict:
    """Measure a verdict over several problems.

    Parameters
    ----------
    comparisons : sequence of Comparison
        One a problem. Where a factor is predicted, proportionality means *that* factor; where none
        is, no factor is fitted, since one number can always be explained by another.

    Returns
    -------
    Verdict
        Exact if every mean equals the truth to rounding; proportional if every mean is its
        predicted factor times the truth to rounding; biased otherwise, NaN included.
    """
    direct = max(_relative_error(c, 1.0) for c in comparisons)
    predicted = [c.factor for c in comparisons if c.factor is not None]
    has_factor = len(predicted) == len(comparisons)
    measured = _measured_factor(comparisons[0]) if has_factor else None
    if direct <= ROUNDING:
        return Verdict(EXACT, measured, direct)
    if has_factor:
        scaled = max(map(_relative_error, comparisons, predicted))
        if scaled <= ROUNDING:
            return Verdict(PROPORTIONAL, measured, scaled)
    return Verdict(BIASED, None, direct)


def record(
    claim: str,
    comparisons: Sequence[Comparison],
    *,
    test_id: str,
    claimed: str = EXACT,
    divergence: str | None = None,
    estimator: str | None = None,
) -> Record:
    """Return the record of a claim, its verdict measured from the comparisons."""
    measured = judge(comparisons)
    return Record(
        claim=claim,
        divergence=divergence,
        estimator=estimator,
        claimed=claimed,
        verdict=measured.verdict,
        factor=measured.factor,
        max_relative_error=measured.max_relative_error,
        problems=len(comparisons),
        test_id=test_id,
    )


def _relative_error(comparison: Comparison, factor: float) -> float:
    expected = factor * np.asarray(comparison.truth)
    difference = float(np.linalg.norm(np.ravel(comparison.value - expected)))
    scale = float(np.linalg.norm(np.ravel(expected)))
    if comparison.scale is not None:
        scale = comparison.scale
    error = difference / scale if scale else difference
    # max() passes over NaN depending on its place; an infinite error cannot be passed over.
    return error if np.isfinite(error) else np.inf


def _measured_factor(comparison: Comparison) -> float:
    value, truth = np.ravel(comparison.value), np.ravel(comparison.truth)
    return float(value @ truth / (truth @ truth))
