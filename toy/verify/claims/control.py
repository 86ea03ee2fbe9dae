"""More of F8: the core's control variate, and what "k3 for every f" descends in the loss."""

from __future__ import annotations

import numpy as np

from fdpg_ref import FDivergence, exact_divergence
from fdpg_ref.related import controlled_terms, optimal_control_weight
from toy.oracle import GENERATORS, curvature, gradient_of, slope, slope_at_one
from toy.verify.cases import Case, cases
from toy.verify.records import BIASED, EXACT, Comparison, at_most
from toy.verify.register import Claims

CLAIMS = Claims("tests/toy/test_control.py", cases, test="test_controlled_terms")
_WEIGHTS = (-2.5, 0.0, 0.3, 1.0)
# Ranges of the log-ratio, in nats, on which the signal is looked at.
_RANGES = (3.0, 6.0, 9.0)


def _rises(name: str) -> bool:
    """Tell from the textbook generator whether g'(t) - g(t)/t rises with t everywhere."""
    # An even number of points: none is t = 1, where there may be a kink.
    t = np.exp(np.linspace(-max(_RANGES), max(_RANGES), 180))
    bend, signal = t**2 * curvature(name, t), t * (slope(name, t) - slope_at_one(name))
    value = GENERATORS[name](t) - slope_at_one(name) * (t - 1)
    rounding = 1e-12 * (np.abs(bend) + np.abs(signal) + np.abs(value))
    return bool(np.all(bend - signal + value >= -rounding))


def loss_signal(name: str, t: np.ndarray, lam: float = 0.0) -> np.ndarray:
    """Return g' - g/t + lam/t, the signal of g(t)/t + lam (1 - 1/t) differentiated in the loss."""
    at_one = slope_at_one(name)
    generator = GENERATORS[name](t) - at_one * (t - 1)
    return slope(name, t) - at_one - generator / t + lam / t


@CLAIMS.each("F8", "the core's controlled terms have mean D_f for every weight", "controlled_terms")
def _unbiased(case: Case, divergence: FDivergence) -> Comparison:
    logs = case.log_policy, case.log_target
    means = [
        np.exp(case.log_policy) @ controlled_terms(*logs, divergence=divergence, weight=weight)
        for weight in _WEIGHTS
    ]
    exact = exact_divergence(*logs, divergence=divergence)
    return Comparison(np.array(means), np.full(len(_WEIGHTS), exact))


def _variance(case: Case, divergence: FDivergence, weight: float) -> float:
    terms = controlled_terms(case.log_policy, case.log_target, divergence=divergence, weight=weight)
    probs = np.exp(case.log_policy)
    return float(probs @ (terms - probs @ terms) ** 2)


@CLAIMS.each("F8", "the core's best weight has the least variance", "best control weight")
def _best(case: Case, divergence: FDivergence) -> Comparison:
    logs = case.log_policy, case.log_target
    best = optimal_control_weight(*logs, divergence=divergence, log_mass=case.log_policy)
    probs, inverse = np.exp(case.log_policy), np.exp(case.log_target - case.log_policy)
    # A parabola of curvature 2 Var(1/t): one to either side of the least it has risen by Var(1/t).
    rise = float(probs @ (inverse - probs @ inverse) ** 2)
    low, least, high = (
        _variance(case, divergence, float(best[0]) + step) for step in (-1.0, 0.0, 1.0)
    )
    return Comparison(np.array([low, high]), np.full(2, least + rise))


@CLAIMS.each(
    "F8",
    "g(t)/t + lam (1 - 1/t) in the loss has the signal g' - g/t + lam/t",
    "k3 for every f, in the loss",
)
def _in_the_loss(case: Case, divergence: FDivergence) -> Comparison:
    name, lam = divergence.name, 0.3
    at_one = slope_at_one(name)
    probs, target = np.exp(case.log_policy), np.exp(case.log_target)

    def value(policy: np.ndarray) -> complex:
        t = policy / target
        generator = GENERATORS[name](t) - at_one * (t - 1)
        return complex(np.sum(probs * (generator / t + lam * (1 - 1 / t))))

    signal = loss_signal(name, probs / target, lam)
    return Comparison(
        (probs * signal) @ case.scores,
        gradient_of(case.problem.family, case.problem.start, value),
        # Terms of both signs: the gradient may be far smaller than they are.
        scale=float(np.linalg.norm((probs * np.abs(signal)) @ np.abs(case.scores))),
    )


@CLAIMS.each(
    "F8",
    "in the loss at lam = 0 it descends an f-divergence only where t^2 g'' - t g' + g is never "
    "negative, as for RKL and Pearson",
    "g(t)/t in the loss: is its signal monotone?",
    test="test_monotone",
    claimed=lambda name: EXACT if _rises(name) else BIASED,
    problems=lambda: _RANGES,
)
def _falls(wide: float, divergence: FDivergence) -> Comparison:
    """Return by how much the signal falls in all, relative to how far it rises above t = 1."""
    u = np.linspace(-wide, wide, 181)
    signal = loss_signal(divergence.name, np.exp(u))
    falls = -float(np.sum(np.minimum(np.diff(signal), 0.0)))
    return at_most(falls / float(np.max(np.abs(signal[u >= 0]))), 0.0)
