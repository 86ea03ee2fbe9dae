"""Reductions in log space, the elementary kernels, log_ratio and the mass-mismatch correction."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracles
from support.libraries import Library, to_numpy
from support.strategies import logits

from fdpg_ref import (
    DIVERGENCES,
    exact_divergence_from_probabilities,
    log_mean_exp,
    log_ratio,
    log_softmax,
    logsumexp,
    numerics,
)
from toy.lesson.nearly_equal import DISTANCES, measure, nearly_equal_pair

INF = math.inf


@given(values=logits(5, holes=True))
def test_logsumexp_and_its_relatives_are_slow_sums(xp: Library, values):
    stored = to_numpy(xp.array(values))
    total = oracles.log(mpmath.fsum(oracles.exp(stored)))
    # A sum near 1000 nats has a spacing of 1000 eps; five terms add a few eps of their own.
    tolerance: dict[str, Any] = {"rtol": 4 * xp.eps, "atol": 8 * xp.eps}
    x = xp.array(values)
    np.testing.assert_allclose(to_numpy(logsumexp(x)), total, **tolerance)
    np.testing.assert_allclose(to_numpy(log_mean_exp(x)), total - math.log(5), **tolerance)
    exact = [
        float(v - mpmath.log(mpmath.fsum(oracles.exp(stored)))) for v in map(mpmath.mpf, stored)
    ]
    np.testing.assert_allclose(to_numpy(log_softmax(x)), exact, **tolerance)


def test_reductions_keep_the_contexts_apart(xp: Library):
    x = xp.array([[0.0, 1.0, -INF], [1000.0, -1000.0, 999.0]])
    assert logsumexp(x).shape == (2,)
    assert logsumexp(x, keepdims=True).shape == (2, 1)
    assert logsumexp(x, axis=0).shape == (3,)
    expected = [math.log1p(math.e), 1000 + math.log1p(math.exp(-1))]
    np.testing.assert_allclose(to_numpy(logsumexp(x)), expected, rtol=4 * xp.eps)


def test_the_empty_sum_is_minus_infinity_and_nan_stays_nan(xp: Library):
    assert float(logsumexp(xp.array([-INF, -INF]))) == -INF
    assert float(logsumexp(xp.array([0.0, INF]))) == INF
    assert math.isnan(float(logsumexp(xp.array([0.0, math.nan]))))
    assert np.all(np.isnan(to_numpy(log_softmax(xp.array([-INF, -INF])))))


@pytest.mark.parametrize("digits", ["float64", "float32"])
def test_expm1_and_phi_at_tiny_and_moderate_arguments(digits):
    tiny = np.finfo(digits).tiny
    x = np.array([0.0, tiny, -tiny, 1e-20, -1e-9, 1e-4, -0.5, 0.999, 1.0, -1.001, 30.0], digits)
    exact = [mpmath.expm1(mpmath.mpf(float(v))) for v in x]
    eps = np.finfo(digits).eps
    np.testing.assert_allclose(numerics.expm1(x), [float(e) for e in exact], rtol=2 * eps, atol=0)
    # phi is x^2/2 near zero: below the smallest float where x < 1e-160, hence the absolute part.
    phi = [float(e - mpmath.mpf(float(v))) for e, v in zip(exact, x, strict=True)]
    np.testing.assert_allclose(numerics.phi(x), phi, rtol=4 * eps, atol=tiny)


# ------------------------------------------------------------------ log_ratio


@given(st.lists(st.tuples(st.floats(1e-30, 1.0), st.floats(1e-30, 1.0)), min_size=1))
def test_log_ratio_of_any_two_probabilities(pairs):
    policy, target = np.array(pairs).T
    expected = [
        float(mpmath.log(mpmath.mpf(q) / mpmath.mpf(p)))
        for q, p in zip(policy.tolist(), target.tolist(), strict=True)
    ]
    # Far from one, two logarithms of up to 69 nats are subtracted: their spacing is 1.4e-14.
    np.testing.assert_allclose(log_ratio(policy, target), expected, rtol=1e-15, atol=3e-14)


def test_log_ratio_of_neighbouring_floats_does_not_cancel(xp: Library):
    target = xp.array([0.1, 0.3, 0.7])
    policy = target * (1 + 4 * xp.eps)
    pairs = zip(to_numpy(policy).tolist(), to_numpy(target).tolist(), strict=True)
    expected = [float(mpmath.log(mpmath.mpf(q) / mpmath.mpf(p))) for q, p in pairs]
    assert all(0 < u < 10 * xp.eps for u in expected)
    np.testing.assert_allclose(to_numpy(log_ratio(policy, target)), expected, rtol=3 * xp.eps)


def test_log_ratio_at_the_edges(xp: Library):
    policy, target = xp.array([0.0, 0.5, 0.0]), xp.array([0.5, 0.0, 0.0])
    assert to_numpy(log_ratio(policy, target)).tolist() == [-INF, INF, INF]


# ------------------------------------------------------------------ nearly equal distributions


@pytest.mark.parametrize("distance", [1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_nearly_equal_distributions_from_probabilities(name, distance):
    policy, target = nearly_equal_pair(distance)
    exact = oracles.divergence(name, oracles.normalised(policy), oracles.normalised(target))
    divergence = DIVERGENCES[name]
    value = exact_divergence_from_probabilities(policy, target, divergence=divergence)
    # Measured 1e-16 to 2e-15 (a sum of 1,000 terms, each a few ulp). Without the correction for the
    # mass mismatch of 1e-16 the error at d = 1e-12 is 1e-4 and more.
    assert abs(value / exact - 1) < 4e-15


def test_mass_mismatch_is_taken_out_whichever_side_has_it():
    """Scaling either side by a rounding-sized factor leaves the divergence as it was."""
    policy, target = nearly_equal_pair(1e-8)
    for name, divergence in DIVERGENCES.items():
        for q, p in ((policy * (1 + 1e-13), target), (policy, target * (1 - 1e-13))):
            exact = oracles.divergence(name, oracles.normalised(q), oracles.normalised(p))
            value = exact_divergence_from_probabilities(q, p, divergence=divergence)
            # The correction is exact to first order in the mismatch, 1e-5 of the ratios here.
            assert abs(value / exact - 1) < 1e-12, name


def test_the_comparison_shows_what_others_lose():
    rows = {(row.quantity, row.implementation): row for row in measure()}
    for quantity in ("KL", "JS"):
        assert max(rows[quantity, "fdpg_ref, from probabilities"].errors) < 4e-15
        # From logarithms of 7 nats on average, each rounded by 4e-16: that over d, averaged down.
        for error, distance in zip(
            rows[quantity, "fdpg_ref, from log-probabilities"].errors, DISTANCES, strict=True
        ):
            assert error < 4e-16 / distance
    others = [row for (_, name), row in rows.items() if not name.startswith("fdpg_ref")]
    assert len(others) == 5
    for row in others:
        assert not row.errors[-1] < 0.5, row  # at d = 1e-12 none has one right digit
