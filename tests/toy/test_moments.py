"""Second moments of the estimators (F4) and the algebra of the leave-one-out baseline (F3)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import support.toy_slow as slow
from hypothesis import given
from support.toy_cases import FIXED, ordinary_cases

from fdpg_ref import DIVERGENCES, batch_mean, leave_one_out
from toy.exact import estimator_moments
from toy.verify.cases import Case
from toy.verify.claims.moments import CLAIMS
from toy.verify.records import judge

NAMES = sorted(DIVERGENCES)


def loop_moments(coefficients, n: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance over all batches of the fixed case, batch by batch."""
    world = slow.world_of(FIXED)
    mean, second = np.zeros(4), np.zeros((4, 4))
    for batch in itertools.product(range(4), repeat=n):
        mass = math.prod(world.policy[x] for x in batch)
        own = coefficients(world, slow.SIGNALS[name], world.policy, batch, ())
        estimate = sum(c * np.array(world.scores[x]) / n for x, c in zip(batch, own, strict=True))
        mean += mass * estimate
        second += mass * np.outer(estimate, estimate)
    return mean, second - np.outer(mean, mean)


@pytest.mark.parametrize("name", NAMES)
def test_covariances(name: str):
    claims = {claim.estimator: claim for claim in CLAIMS.listed}
    divergence = DIVERGENCES[name]
    for estimator, coefficients, n in [
        ("covariance, no baseline", slow.plain, 2),
        ("covariance, LOO baseline", slow.leave_one_out, 3),
    ]:
        _, covariance = loop_moments(coefficients, n, name)
        comparison = claims[estimator].compare(FIXED, divergence)
        # The loop subtracts g g^T from second moments up to 1e3 times larger.
        scale = 1e-13 * np.max(np.abs(covariance)) + 1e-13
        np.testing.assert_allclose(comparison.value, covariance, rtol=1e-11, atol=scale)
        np.testing.assert_allclose(comparison.truth, covariance, rtol=1e-11, atol=scale)


@pytest.mark.parametrize("name", NAMES)
def test_estimator_moments(name: str):
    mean, covariance = loop_moments(slow.plain, 2, name)
    world = slow.world_of(FIXED)
    signal = np.array(slow.plain(world, slow.SIGNALS[name], world.policy, range(4), ()))
    moments = estimator_moments(FIXED.log_policy, signal, FIXED.scores, n=2)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(moments.covariance, covariance, rtol=1e-11, atol=1e-12)


def test_estimator_moments_ignores_what_is_never_drawn():
    log_proposal = np.array([np.log(0.25), np.log(0.75), -np.inf])
    coefficients = np.array([1.0, 2.0, np.inf])
    moments = estimator_moments(log_proposal, coefficients, np.array([[1.0], [0.0], [5.0]]))
    # One in four samples gives 1, the others 0: mean 1/4, variance 3/16.
    np.testing.assert_allclose(moments.mean, [0.25])
    np.testing.assert_allclose(moments.covariance, [[3 / 16]])


@pytest.mark.parametrize("name", NAMES)
def test_best_constant_baseline(name: str):
    world = slow.world_of(FIXED)
    signal = np.array(slow.plain(world, slow.SIGNALS[name], world.policy, range(4), ()))
    probs, lengths = np.array(world.policy), np.sum(np.array(world.scores) ** 2, axis=1)
    best = np.sum(probs * signal * lengths) / np.sum(probs * lengths)

    def trace(constant: float) -> float:
        moments = estimator_moments(FIXED.log_policy, signal - constant, FIXED.scores)
        return float(np.trace(moments.covariance))

    for step in (0.01, 0.1, 1.0):
        assert trace(best) < min(trace(best - step), trace(best + step))
    claim = next(c for c in CLAIMS.listed if c.estimator == "best constant baseline")
    assert judge([claim.compare(FIXED, DIVERGENCES[name])]).verdict == "exact"


@given(case=ordinary_cases())
def test_sample_by_sample(case: Case):
    signal = case.log_policy - case.log_target
    for n in (2, 3):
        for batch in itertools.product(range(3), repeat=n):
            own = signal[list(batch)]
            peers = [np.mean(np.delete(own, i)) for i in range(n)]
            np.testing.assert_allclose(own - leave_one_out(own), own - peers, atol=1e-13)
            np.testing.assert_allclose(
                own - leave_one_out(own), n / (n - 1) * (own - batch_mean(own)), atol=1e-13
            )
