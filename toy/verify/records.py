"""A verified claim, and how its verdict is measured.

A verdict is never stored: it follows from enumerated means alone, and a claim holds when the
measured verdict is the claimed one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

EXACT, PROPORTIONAL, BIASED = "exact", "proportional", "biased"

# Rounding: float64 sums of at most 4^5 terms whose log-ratios span some 20 nats.
ROUNDING = 1e-10
# A bias is claimed only where it is beyond doubt: seven orders of magnitude above rounding.
CLEAR_BIAS = 1e-3


# The sections of the theory, in the order of the report, each with its headline.
FACTS: Mapping[str, str] = MappingProxyType(
    {
        "theorem": "∇D_f(π‖p) = E_π[f′(π/p) ∇log π], for any generator, with no extra term",
        "definition": "what the core computes is the definition of D_f",
        "F1": "the mean of signal × score is the gradient",
        "F2": "a constant baseline moves no mean",
        "F3": "leave-one-out is unbiased; the batch mean shrinks by (n−1)/n",
        "F4": "covariances in closed form, and the best constant baseline",
        "F5": "what an estimate of Z does to the gradient",
        "F6": "off-policy samples and their weights",
        "F7": "the dictionary of KL penalties",
        "F8": "estimating the value: “k3 for every f”",
        "F9": "sequences: chain rule, tokens, ratios, Rao-Blackwell",
        "F10": "1/length weights",
        "F11": "all divergences agree to second order",
        "F12": "the reward −f(t)/t alone is not enough",
        "F13": "inequalities and invariances",
        "F14": "VarGrad and trajectory balance",
        "F15": "truncated top-k “KLs” to a teacher",
        "targets": "RLHF, GDC and DPG are f-DPG with a certain target and divergence",
        "families": "alpha, skew Jensen-Shannon, user-defined f, conventions",
        "measurement": "which samples show what a policy dropped",
        "sampling": "quasi-rejection and the better proposal",
        "sequences": "ends of sequences and truncated sampling",
    }
)
# Sections that open their claims: the theorem, and the numbered facts.
NUMBERED = ("theorem", *(f"F{number}" for number in range(1, 16)))


class Comparison(NamedTuple):
    """One enumerated mean beside the truth, on one problem.

    Attributes
    ----------
    value, truth : (...) arrays
        The mean of the estimator, and what it is claimed to estimate.
    factor : float or None
        The predicted factor of proportionality, computed on its own; None where none is predicted.
    scale : float or None
        The size that errors are relative to; None for the norm of the truth.
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
    fact : str
        The section of the theory it belongs to, a key of `FACTS`.
    claim : str
        The statement, opened by the number of its section where it has one.
    divergence, estimator : str or None
        The subject of the claim; None where it is about neither.
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

    fact: str
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
    def composition(self) -> str:
        """The subject of the claim: the divergence and the estimator."""
        divergence = (self.divergence or "every f").replace("_", " ")
        return f"{divergence}: {self.estimator}" if self.estimator else divergence

    @property
    def evidence(self) -> str:
        """How it was settled."""
        return f"verified by exact enumeration over {self.problems} problems"

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
        One per problem. Where a factor is predicted, proportionality means *that* factor. Where
        none is, no factor is fitted, since one number can always be explained by another.

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
    fact: str,
    statement: str,
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
        fact=fact,
        claim=f"{fact}: {statement}" if fact in NUMBERED else statement,
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
