"""Values of divergences (definition, dual, F8, F11 to F13) against textbook sums."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import support.toy_slow as slow
from hypothesis import given
from hypothesis import strategies as st
from support import oracles, strategies
from support.toy_cases import FIXED, ordinary_cases

from fdpg_ref import (
    DIVERGENCES,
    divergence_terms,
    dual,
    estimate_divergence,
    exact_divergence,
    exact_divergence_from_probabilities,
)
from toy import oracle
from toy.verify.cases import Case
from toy.verify.claims.values import CLAIMS
from toy.verify.records import judge

NAMES = sorted(DIVERGENCES)
each_divergence = pytest.mark.parametrize("name", NAMES)


def claim_named(estimator: str):
    return next(claim for claim in CLAIMS.listed if claim.estimator == estimator)


def textbook(case: Case, name: str) -> float:
    """Return D_f with 60 digits from the exponentials of the case's logarithms, normalised."""
    policy = oracles.normalised([mpmath.exp(float(x)) for x in case.log_policy])
    target = oracles.normalised([mpmath.exp(float(x)) for x in case.log_target])
    return float(oracles.divergence(name, policy, target))


@each_divergence
@given(case=ordinary_cases())
def test_definition(name: str, case: Case):
    expected = textbook(case, name)
    value = exact_divergence(case.log_policy, case.log_target, divergence=DIVERGENCES[name])
    policy, target = np.exp(case.log_policy), np.exp(case.log_target)
    by_definition = oracle.definition(policy, target, divergence=name).real
    # Log-probabilities of a few nats carry 1e-15 each, against a mean square of 1e-18 at the least.
    assert float(value) == pytest.approx(expected, rel=1e-11, abs=1e-15)
    assert by_definition == pytest.approx(expected, rel=1e-11, abs=1e-14)


@each_divergence
def test_definition_with_a_hole(name: str):
    policy, target = np.array([0.5, 0.3, 0.2]), np.array([0.9, 0.1, 0.0])
    t = policy[:2] / target[:2]
    slope = DIVERGENCES[name].slope_at_infinity
    value = oracle.definition(policy, target, divergence=name).real
    log_target = np.array([math.log(0.9), math.log(0.1), -math.inf])
    core = exact_divergence(np.log(policy), log_target, divergence=DIVERGENCES[name])
    if math.isinf(slope):
        assert math.isinf(value)
        assert math.isinf(float(core))
        return
    plain = [float(oracles.TEXTBOOK[name].f(mpmath.mpf(float(x)))) for x in t]
    outside = float(oracles.TEXTBOOK[name].f_slope_at_infinity) * 0.2
    assert value == pytest.approx(0.9 * plain[0] + 0.1 * plain[1] + outside, rel=1e-12)
    assert float(core) == pytest.approx(value, rel=1e-12)


@each_divergence
@given(case=ordinary_cases())
def test_dual(name: str, case: Case):
    swapped = dual(DIVERGENCES[name])
    value = exact_divergence(case.log_target, case.log_policy, divergence=swapped)
    assert float(value) == pytest.approx(textbook(case, name), rel=1e-11, abs=1e-15)


@each_divergence
@given(case=ordinary_cases())
def test_divergence_terms(name: str, case: Case):
    divergence = DIVERGENCES[name]
    total = 0.0
    for pi, p, q in zip(case.log_policy, case.log_target, case.log_base, strict=True):
        one = [np.array([x]) for x in (pi, p, q)]
        term = float(divergence_terms(*one, divergence=divergence)[0])
        assert term >= 0
        total += math.exp(q) * term
    assert total == pytest.approx(textbook(case, name), rel=1e-10, abs=1e-14)


@each_divergence
def test_divergence_estimate(name: str):
    mean, squared_error, mean_of_square = 0.0, 0.0, 0.0
    for batch in itertools.product(range(4), repeat=3):
        drawn = list(batch)
        mass = math.exp(math.fsum(FIXED.log_base[drawn]))
        estimate = estimate_divergence(
            FIXED.log_policy[drawn],
            FIXED.log_target[drawn],
            FIXED.log_base[drawn],
            divergence=DIVERGENCES[name],
        )
        mean += mass * float(estimate.mean)
        mean_of_square += mass * float(estimate.mean) ** 2
        squared_error += mass * float(estimate.standard_error) ** 2
    assert mean == pytest.approx(textbook(FIXED, name), rel=1e-12)
    assert squared_error == pytest.approx(mean_of_square - mean**2, rel=1e-10)
    for estimator in ("divergence estimate", "its squared standard error"):
        claim = claim_named(estimator)
        assert judge([claim.compare(FIXED, DIVERGENCES[name])]).verdict == "exact"


@each_divergence
def test_control_variate(name: str):
    book = oracles.TEXTBOOK[name]
    values, inverses, probs = [], [], np.exp(FIXED.log_policy)
    for pi, p in zip(probs, np.exp(FIXED.log_target), strict=True):
        values.append(float(book.generator(math.log(pi / p))) * p / pi)
        inverses.append(p / pi)
    value, inverse = np.array(values), np.array(inverses)
    for multiplier in (-1.0, 0.0, 0.3, 1.0):
        mean = probs @ (value + multiplier * (1 - inverse))
        assert mean == pytest.approx(textbook(FIXED, name), rel=1e-11)

    def variance(multiplier: float) -> float:
        terms = value + multiplier * (1 - inverse)
        return float(probs @ (terms - probs @ terms) ** 2)

    deviations = inverse - probs @ inverse
    best = float(probs @ (deviations * value) / (probs @ deviations**2))
    for step in (0.01, 0.1, 1.0):
        assert variance(best) < min(variance(best - step), variance(best + step))
    for estimator in ("k3 for every f", "k3 for every f: best lam"):
        comparison = claim_named(estimator).compare(FIXED, DIVERGENCES[name])
        assert judge([comparison]).verdict == "exact"


@pytest.mark.parametrize("name", [n for n in NAMES if DIVERGENCES[n].curvature is not None])
@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-12])
def test_second_order(name: str, distance: float):
    target = np.array([0.5, 0.3, 0.2])
    policy = target + distance * np.array([0.3, -0.2, -0.1])
    values = [
        float(exact_divergence_from_probabilities(policy, target, divergence=DIVERGENCES[n]))
        for n in (name, "forward_kl")
    ]
    ratio = values[0] / (float(oracles.TEXTBOOK[name].curvature or 0.0) * values[1])
    # The third-order term is at most the relative distance, here below `distance`, times a few.
    assert abs(ratio - 1) < 3 * distance + 1e-14


def test_second_order_has_no_meaning_at_a_kink():
    assert DIVERGENCES["total_variation"].curvature is None


@each_divergence
def test_reward_alone(name: str):
    book, world = oracles.TEXTBOOK[name], slow.world_of(FIXED)
    alone, complete = np.zeros(4), np.zeros(4)
    for pi, p, score in zip(world.policy, world.target, world.scores, strict=True):
        t = mpmath.mpf(pi / p)
        reward = float(book.f(t) / t)
        derivative = float(t * mpmath.diff(lambda s: book.f(s) / s, t))
        alone += pi * reward * np.array(score)
        complete += pi * (reward + derivative) * np.array(score)
    truth = slow.gradient(world, name)
    np.testing.assert_allclose(complete, truth, rtol=1e-10, atol=1e-12)
    relative = np.linalg.norm(alone - truth) / np.linalg.norm(truth)
    assert bool(relative < 1e-12) is (name == "reverse_kl")
    claim = claim_named("reward -f/t")
    np.testing.assert_allclose(
        claim.compare(FIXED, DIVERGENCES[name]).value, alone, rtol=1e-10, atol=1e-12
    )


@each_divergence
@given(
    pair=strategies.log_prob_pairs(min_size=3, max_size=5),
    odds=st.floats(0.05, 0.95),
    order=st.permutations(range(5)),
)
def test_inequalities(name: str, pair, odds: float, order: list[int]):
    divergence = DIVERGENCES[name]

    def value(policy: np.ndarray, target: np.ndarray) -> float:
        # Pearson's p (pi/p)^2 overflows, rightly, where logits are a thousand apart.
        with np.errstate(over="ignore"):
            return float(exact_divergence(policy, target, divergence=divergence))

    policy, target = pair
    whole = value(policy, target)
    assert whole >= 0
    bound = divergence.value_at_zero + divergence.slope_at_infinity
    assert whole <= bound * (1 + 1e-12)
    total_variation = float(
        exact_divergence(policy, target, divergence=DIVERGENCES["total_variation"])
    )
    if name in ("forward_kl", "reverse_kl"):  # Pinsker
        assert whole >= 2 * total_variation**2 * (1 - 1e-9)
    merged = [np.append(x[:-2], np.logaddexp(x[-2], x[-1])) for x in pair]
    assert value(*merged) <= whole * (1 + 1e-9) + 1e-15
    kept = [i for i in order if i < len(policy)]
    assert value(policy[kept], target[kept]) == pytest.approx(whole, rel=1e-9, abs=1e-15)
    halves = [np.concatenate([x + math.log(odds), x + math.log1p(-odds)]) for x in pair]
    # Splitting rounds each logarithm anew: 1e-16 of a nat up to a thousand.
    assert value(*halves) == pytest.approx(whole, rel=1e-6, abs=1e-12)


@each_divergence
@given(
    first=strategies.ordinary_pairs(min_size=4, max_size=4),
    second=strategies.ordinary_pairs(min_size=4, max_size=4),
    weight=st.floats(0.05, 0.95),
)
def test_joint_convexity(name: str, first, second, weight: float):
    divergence = DIVERGENCES[name]
    mixture = [
        np.logaddexp(math.log(weight) + x, math.log1p(-weight) + y)
        for x, y in zip(first, second, strict=True)
    ]
    chord = weight * float(exact_divergence(*first, divergence=divergence))
    chord += (1 - weight) * float(exact_divergence(*second, divergence=divergence))
    value = float(exact_divergence(*mixture, divergence=divergence))
    assert value <= chord * (1 + 1e-12) + 1e-14


@each_divergence
@given(case=ordinary_cases())
def test_zero_only_at_the_target(name: str, case: Case):
    divergence = DIVERGENCES[name]
    assert float(exact_divergence(case.log_policy, case.log_policy, divergence=divergence)) == 0
    distance = float(np.max(np.abs(case.log_policy - case.log_target)))
    if distance > 1e-6:
        assert float(exact_divergence(case.log_policy, case.log_target, divergence=divergence)) > 0
