"""Claims about values: what a divergence is (F11, F13), and how one is estimated (F8).

Also F12, which is about a gradient but needs the value of f: the reward -f(t)/t is not enough.
"""

from __future__ import annotations

import numpy as np

from fdpg_ref import (
    FDivergence,
    divergence_terms,
    dual,
    estimate_divergence,
    exact_divergence,
    exact_divergence_from_probabilities,
    log_ratio,
)
from toy.exact import batch_expectation
from toy.oracle import GENERATORS, definition
from toy.verify.cases import Case, cases
from toy.verify.records import BIASED, EXACT, Comparison, at_most
from toy.verify.register import Claims

CLAIMS = Claims("tests/toy/test_values.py", cases)

# Any multiplier of the control variate is unbiased; this one is neither zero nor best.
_MULTIPLIER = 0.3
# Relative distance of policy and target in F11. The ratio differs from 1 by about this much, and
# the formulas from linear inputs lose nothing at it.
_NEARLY = 1e-12


@CLAIMS.each(
    "definition", "the core's D_f is sum p f(pi/p) of the textbook", test="test_definition"
)
def _defined(case: Case, divergence: FDivergence) -> Comparison:
    return Comparison(_exact(case, divergence), _definition(case, divergence))


@CLAIMS.each("definition", "the dual divergence swaps policy and target", test="test_dual")
def _dual(case: Case, divergence: FDivergence) -> Comparison:
    swapped = exact_divergence(case.log_target, case.log_policy, divergence=dual(divergence))
    return Comparison(swapped, _definition(case, divergence))


@CLAIMS.each(
    "F8",
    "p g(pi/p)/q from samples of any q has mean D_f",
    "divergence terms",
    test="test_divergence_terms",
)
def _importance_terms(case: Case, divergence: FDivergence) -> Comparison:
    terms = divergence_terms(case.log_policy, case.log_target, case.log_base, divergence=divergence)
    return Comparison(np.exp(case.log_base) @ terms, _definition(case, divergence))


@CLAIMS.each(
    "F8",
    "the estimate of D_f from a batch of any q is unbiased",
    "divergence estimate",
    test="test_divergence_estimate",
)
def _estimate(case: Case, divergence: FDivergence) -> Comparison:
    def mean_of_batch(drawn: np.ndarray) -> np.ndarray:
        logs = case.log_policy[drawn], case.log_target[drawn], case.log_base[drawn]
        return estimate_divergence(*logs, divergence=divergence).mean

    value = batch_expectation(case.log_base, 2, mean_of_batch)
    return Comparison(value, _definition(case, divergence))


@CLAIMS.each(
    "F8",
    "the squared standard error of that estimate is unbiased for its variance",
    "its squared standard error",
    test="test_divergence_estimate",
)
def _squared_error(case: Case, divergence: FDivergence) -> Comparison:
    def squared_error_of_batch(drawn: np.ndarray) -> np.ndarray:
        logs = case.log_policy[drawn], case.log_target[drawn], case.log_base[drawn]
        return estimate_divergence(*logs, divergence=divergence).standard_error ** 2

    terms = divergence_terms(case.log_policy, case.log_target, case.log_base, divergence=divergence)
    probs = np.exp(case.log_base)
    variance = probs @ (terms - probs @ terms) ** 2
    return Comparison(batch_expectation(case.log_base, 3, squared_error_of_batch), variance / 3)


@CLAIMS.each(
    "F8",
    "g(t)/t + lam (1 - 1/t) from samples of pi has mean D_f for every lam",
    "k3 for every f",
    test="test_control_variate",
)
def _control_variate(case: Case, divergence: FDivergence) -> Comparison:
    value, inverse = _inverse_terms(case, divergence)
    terms = value + _MULTIPLIER * (1 - inverse)
    return Comparison(np.exp(case.log_policy) @ terms, _definition(case, divergence))


@CLAIMS.each(
    "F8",
    "its variance is least at lam = Cov(g/t, 1/t)/Var(1/t)",
    "k3 for every f: best lam",
    test="test_control_variate",
)
def _best_control_variate(case: Case, divergence: FDivergence) -> Comparison:
    probs = np.exp(case.log_policy)
    value, inverse = _inverse_terms(case, divergence)

    def covariance(x: np.ndarray, y: np.ndarray) -> float:
        return float(probs @ ((x - probs @ x) * (y - probs @ y)))

    # The variance is a parabola in the multiplier, so two values beside the best one must exceed
    # the least variance by the same known amount.
    best = covariance(value, inverse) / covariance(inverse, inverse)
    sides = [value + (best + step) * (1 - inverse) for step in (-1.0, 0.0, 1.0)]
    low, least, high = (covariance(side, side) for side in sides)
    rise = covariance(inverse, inverse)
    return Comparison(np.array([low, high]), np.full(2, least + rise))


@CLAIMS.each(
    "F11",
    "D_f/(g''(1) KL) -> 1 as pi -> p",
    test="test_second_order",
    # Total variation has a kink at t = 1 and no second order.
    where=lambda divergence: divergence.curvature is not None,
)
def _second_order(case: Case, divergence: FDivergence) -> Comparison:
    target = np.exp(case.log_target)
    direction = np.where(np.arange(target.size) % 2, 1.0, -0.5)
    assert divergence.curvature is not None  # by the "where" of the claim
    moved = target * (1 + _NEARLY * (direction - target @ direction))
    value = exact_divergence_from_probabilities(moved, target, divergence=divergence)
    # To second order KL is half the variance of the log-ratio (its mean is of second order itself,
    # apart from the rounding of the masses, which is no part of a divergence).
    u = log_ratio(moved, target)
    kl = target @ (u - target @ u / np.sum(target)) ** 2 / 2
    return Comparison(value / divergence.curvature, kl)


@CLAIMS.each(
    "F12",
    "the reward -f(t)/t alone is not enough (but for reverse KL)",
    "reward -f/t",
    test="test_reward_alone",
    claimed=lambda name: EXACT if name == "reverse_kl" else BIASED,
)
def _reward_alone(case: Case, divergence: FDivergence) -> Comparison:
    reward, _ = _textbook_reward(case, divergence)
    mean = (np.exp(case.log_policy) * reward) @ case.scores
    return Comparison(mean, case.gradients[divergence.name])


@CLAIMS.each("F12", "... with t (f/t)' it is", "reward -f/t - t (f/t)'", test="test_reward_alone")
def _reward_and_derivative(case: Case, divergence: FDivergence) -> Comparison:
    reward, derivative = _textbook_reward(case, divergence)
    mean = (np.exp(case.log_policy) * (reward + derivative)) @ case.scores
    return Comparison(mean, case.gradients[divergence.name])


@CLAIMS.each("F13", "merging outcomes never increases D_f", test="test_inequalities")
def _merged(case: Case, divergence: FDivergence) -> Comparison:
    logs = case.log_policy, case.log_target
    merged = [np.append(log[:-2], np.logaddexp(log[-2], log[-1])) for log in logs]
    coarse = exact_divergence(*merged, divergence=divergence)
    return at_most(float(coarse), float(_exact(case, divergence)))


@CLAIMS.each("F13", "splitting and permuting leave D_f alone", test="test_inequalities")
def _split(case: Case, divergence: FDivergence) -> Comparison:
    logs = case.log_policy, case.log_target
    # Each outcome falls in two with the same odds in both distributions, in another order.
    odds = np.log(np.linspace(0.1, 0.9, case.log_policy.size))
    halves = [np.concatenate([log + odds, log + np.log1p(-np.exp(odds))])[::-1] for log in logs]
    return Comparison(exact_divergence(*halves, divergence=divergence), _exact(case, divergence))


@CLAIMS.each("F13", "D_f is jointly convex", test="test_inequalities")
def _mixed(case: Case, divergence: FDivergence) -> Comparison:
    weight = 0.3
    mixtures = [
        np.logaddexp(np.log(weight) + log, np.log1p(-weight) + log[::-1])
        for log in (case.log_policy, case.log_target)
    ]
    other = exact_divergence(case.log_policy[::-1], case.log_target[::-1], divergence=divergence)
    bound = weight * _exact(case, divergence) + (1 - weight) * other
    return at_most(float(exact_divergence(*mixtures, divergence=divergence)), float(bound))


@CLAIMS.each("F13", "D_f is at most g(0) + g'(inf)", test="test_inequalities")
def _bounded(case: Case, divergence: FDivergence) -> Comparison:
    bound = divergence.value_at_zero + divergence.slope_at_infinity
    return at_most(float(_exact(case, divergence)), bound)


def _exact(case: Case, divergence: FDivergence) -> np.ndarray:
    return exact_divergence(case.log_policy, case.log_target, divergence=divergence)


def _definition(case: Case, divergence: FDivergence) -> np.ndarray:
    policy, target = np.exp(case.log_policy), np.exp(case.log_target)
    return np.asarray(definition(policy, target, divergence=divergence.name).real)


def _inverse_terms(case: Case, divergence: FDivergence) -> tuple[np.ndarray, np.ndarray]:
    inverse = np.exp(case.log_target - case.log_policy)
    return divergence.generator(case.log_policy - case.log_target) * inverse, inverse


def _textbook_reward(case: Case, divergence: FDivergence) -> tuple[np.ndarray, np.ndarray]:
    """Return f(t)/t and t (f/t)', the latter by a complex step, for the textbook f."""
    t = np.exp(case.log_policy - case.log_target)
    step = 1e-30
    moved = t * (1 + 1j * step)
    ratio = GENERATORS[divergence.name](moved) / moved
    return np.real(ratio), np.imag(ratio) / step
