"""Target constructors and the fit of their multipliers, against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from support.libraries import Library, to_numpy
from support.strategies import log_probs

from fdpg_ref import (
    FORWARD_KL,
    REVERSE_KL,
    MultipliersNotConverged,
    UnattainableMoments,
    constrained,
    exact_divergence,
    exact_log_partition,
    exponential_family,
    fit_multipliers,
    reward_tilted,
)

INF = math.inf
BASE = np.log([0.4, 0.3, 0.2, 0.06, 0.04])
FEATURES = np.array([[0.0, 1.0], [1.0, 0.5], [0.0, -2.0], [1.0, 3.0], [1.0, 0.0]])


# ------------------------------------------------------------------ constructors


def test_reward_tilted_divides_by_beta(xp: Library):
    reward = [1.0, 0.0, -2.0, 0.5, -INF]
    score = reward_tilted(xp.array(BASE), xp.array(reward), beta=0.25)
    expected = [a + 4 * r for a, r in zip(BASE.tolist(), reward, strict=True)]
    np.testing.assert_allclose(to_numpy(score), expected, rtol=4 * xp.eps)


def test_constrained_excludes_with_minus_infinity(xp: Library):
    satisfied = [True, False, True, True, False]
    score = to_numpy(constrained(xp.array(BASE), xp.booleans(satisfied)))
    assert np.isneginf(score).tolist() == [not b for b in satisfied]
    # Z is the base's mass of the constraint, here 0.4 + 0.2 + 0.06.
    log_z = exact_log_partition(constrained(xp.array(BASE), xp.booleans(satisfied)))
    assert float(log_z) == pytest.approx(math.log(0.66), rel=4 * xp.eps)


def test_constrained_is_the_limit_of_tilts_by_its_indicator():
    satisfied = np.array([True, False, True, True, False])
    sharp = reward_tilted(BASE, satisfied.astype(float), beta=0.01)  # e^-100 on the others
    hard = constrained(BASE, satisfied)
    np.testing.assert_allclose(
        np.exp(log_softmax(sharp)), np.exp(log_softmax(hard)), rtol=1e-13, atol=1e-40
    )


def test_exponential_family_sums_over_features(xp: Library):
    multipliers = [2.0, -0.5]
    score = exponential_family(xp.array(BASE), xp.array(FEATURES), xp.array(multipliers))
    expected = [a + 2.0 * f[0] - 0.5 * f[1] for a, f in zip(BASE, FEATURES, strict=True)]
    np.testing.assert_allclose(to_numpy(score), expected, rtol=8 * xp.eps)


def test_constructors_keep_contexts_apart(xp: Library):
    base = xp.array([BASE, BASE[::-1].copy()])
    stacked = xp.array([FEATURES, 2 * FEATURES])
    score = exponential_family(base, stacked, xp.array([1.0, 1.0]))
    assert score.shape == (2, 5)
    expected = BASE[::-1] + 2 * FEATURES.sum(axis=1)
    np.testing.assert_allclose(to_numpy(score)[1], expected, rtol=8 * xp.eps, atol=4 * xp.eps)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match="beta"):
        reward_tilted(BASE, np.zeros(5), beta=beta)


def test_a_constraint_must_be_boolean():
    with pytest.raises(TypeError, match="bool"):
        constrained(BASE, np.array([1.0, 0.0, 1.0, 1.0, 0.0]))


# ------------------------------------------------------------------ fit_multipliers


@given(st.floats(1e-4, 0.999), st.floats(0.01, 0.99))
def test_one_binary_feature_has_a_closed_form(rate, moment):
    log_base = np.log([rate, 1 - rate])
    fit = fit_multipliers(log_base, np.array([[1.0], [0.0]]), np.array([moment]))
    expected = math.log(moment * (1 - rate) / (rate * (1 - moment)))
    # The moment is met to 1e-10; its slope in lambda, mu (1 - mu), is at least 0.0099.
    assert fit.multipliers[0] == pytest.approx(expected, abs=1e-7)
    assert fit.moments[0] == pytest.approx(moment, abs=1e-9)


def test_the_multiplier_of_an_even_split_of_a_rare_feature():
    """A base rate of 7.4 % and a moment of one half: log(0.926 / 0.074) = 2.5268."""
    fit = fit_multipliers(np.log([0.074, 0.926]), np.array([[1.0], [0.0]]), np.array([0.5]))
    assert fit.multipliers[0] == pytest.approx(2.5268, abs=5e-5)


def test_fit_meets_its_moments_in_every_library(xp: Library):
    moments = xp.array([0.7, 0.4])
    fit = fit_multipliers(xp.array(BASE), xp.array(FEATURES), moments)
    assert fit.multipliers.dtype == xp.dtype
    p = np.exp(log_softmax(BASE + FEATURES @ to_numpy(fit.multipliers)))
    # float32 multipliers of order one are rounded by 1e-7 and move the moments by as much.
    tolerance = max(1e-9, 8 * xp.eps)
    np.testing.assert_allclose(p @ FEATURES, [0.7, 0.4], rtol=0, atol=tolerance)
    np.testing.assert_allclose(to_numpy(fit.moments), [0.7, 0.4], rtol=0, atol=tolerance)
    log_score = exponential_family(xp.array(BASE), xp.array(FEATURES), fit.multipliers)
    assert float(fit.log_z) == pytest.approx(float(exact_log_partition(log_score)), rel=4 * xp.eps)


@given(log_probs(5), log_probs(5))
def test_fit_agrees_with_scipy_on_any_attainable_moments(log_base, log_other):
    """Moments of a distribution with full support are attainable by construction."""
    _ = assume(log_other.min() > -12)
    _ = assume(log_base.min() > -12)
    moments = np.exp(log_other) @ FEATURES
    fit = fit_multipliers(log_base, FEATURES, moments)

    def dual(multipliers):
        return logsumexp(log_base + (FEATURES - moments) @ multipliers)

    start = np.zeros(2)
    reference = scipy.optimize.minimize(dual, start, method="BFGS", options={"gtol": 1e-9})
    assert dual(to_numpy(fit.multipliers)) <= reference.fun + 1e-12
    np.testing.assert_allclose(fit.moments, moments, rtol=0, atol=1e-8)


def test_certificate():
    moments = np.array([0.7, 0.4])
    fit = fit_multipliers(BASE, FEATURES, moments)
    assert fit.gradient_norm <= 1e-10
    assert fit.iterations == len(fit.dual_values) - 1
    assert all(b <= a + 1e-14 for a, b in zip(fit.dual_values, fit.dual_values[1:], strict=False))
    assert fit.dual_values[0] == pytest.approx(0, abs=1e-15)
    log_p = log_softmax(exponential_family(BASE, FEATURES, fit.multipliers))
    least_kl = exact_divergence(log_p, BASE, divergence=REVERSE_KL)
    assert fit.dual_values[-1] == pytest.approx(-float(least_kl), rel=1e-12)


@given(st.floats(0.05, 0.6))
def test_pythagoras(step):
    """KL(c‖a) = KL(c‖p) + KL(p‖a) for every c with the moments, so p is the nearest of them."""
    moments = np.array([0.7, 0.4])
    log_p = log_softmax(BASE + FEATURES @ fit_multipliers(BASE, FEATURES, moments).multipliers)
    p = np.exp(log_p)
    # A direction that changes neither the total mass nor a moment, scaled to keep c positive.
    constraints = np.vstack([np.ones(5), FEATURES.T])
    direction = np.linalg.svd(constraints)[2][-1]
    log_c = np.log(p + step * direction * np.min(p / np.abs(direction)))
    whole = exact_divergence(log_c, BASE, divergence=REVERSE_KL)
    legs = [
        exact_divergence(*pair, divergence=REVERSE_KL) for pair in ((log_c, log_p), (log_p, BASE))
    ]
    assert whole == pytest.approx(sum(legs), rel=1e-9)
    # The same with the arguments exchanged does not hold: the direction matters.
    swapped = [
        float(exact_divergence(*pair, divergence=FORWARD_KL))
        for pair in ((log_c, BASE), (log_c, log_p), (log_p, BASE))
    ]
    assert abs(swapped[0] - swapped[1] - swapped[2]) > 1e-6 * step**2


def test_outcomes_outside_the_support_do_not_count():
    log_base = np.array([*BASE[:4], -INF])
    features = np.vstack([FEATURES[:4], [[50.0, -70.0]]])
    fit = fit_multipliers(log_base, features, np.array([0.5, 0.3]))
    inner = fit_multipliers(BASE[:4], FEATURES[:4], np.array([0.5, 0.3]))
    np.testing.assert_allclose(fit.multipliers, inner.multipliers, rtol=1e-8)


def test_collinear_features_with_agreeing_moments_are_served():
    doubled = np.column_stack([FEATURES[:, 0], 2 * FEATURES[:, 0]])
    fit = fit_multipliers(BASE, doubled, np.array([0.7, 1.4]))
    np.testing.assert_allclose(fit.moments, [0.7, 1.4], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("features", "moments", "names"),
    [
        pytest.param(FEATURES[:, :1], [1.0], "moment 0 is 1", id="on the boundary"),
        pytest.param(FEATURES[:, :1], [1.2], "moment 0 is 1.2", id="outside"),
        pytest.param(FEATURES, [0.5, -2.5], "moment 1 is -2.5", id="the second outside"),
        pytest.param(np.ones((5, 1)), [0.5], "moment 0 is 0.5", id="a constant feature"),
        pytest.param(
            np.column_stack([FEATURES[:, 0], 1 - FEATURES[:, 0]]),
            [0.6, 0.6],
            r"feature\[0\].*feature\[1\]",
            id="contradictory",
        ),
        pytest.param(
            np.column_stack([FEATURES[:, 0], 2 * FEATURES[:, 0]]),
            [0.7, 0.9],
            r"feature\[0\].*feature\[1\]",
            id="collinear",
        ),
        pytest.param(
            np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]),
            [0.6, 0.6],  # two exclusive events cannot have 1.2 together
            r"feature\[0\].*feature\[1\]",
            id="each attainable, both not",
        ),
        pytest.param(
            np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]),
            [0.6, 0.4],  # together they leave nothing to the other three outcomes
            r"feature\[0\].*feature\[1\]",
            id="on a face",
        ),
    ],
)
def test_unattainable_moments_are_a_named_error(features, moments, names):
    with pytest.raises(UnattainableMoments, match=names):
        _ = fit_multipliers(BASE, np.asarray(features, dtype=float), np.array(moments))


def test_too_few_iterations_say_so():
    with pytest.raises(MultipliersNotConverged, match="1 Newton step"):
        _ = fit_multipliers(BASE, FEATURES, np.array([0.97, 2.5]), max_iterations=1)


def test_extreme_but_attainable_moments_converge():
    rate = 8e-6  # the rarest of the published lexical constraints
    fit = fit_multipliers(np.log([rate, 1 - rate]), np.array([[1.0], [0.0]]), np.array([0.9999]))
    expected = math.log(0.9999 * (1 - rate) / (rate * 0.0001))
    assert fit.multipliers[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("log_base", "features", "moments", "match"),
    [
        (BASE, np.full((5, 1), np.nan), [0.5], "features"),
        (BASE, FEATURES[:, :1], [np.inf], "moments"),
        (np.full(5, -INF), FEATURES[:, :1], [0.5], "log_base"),
        (np.full(5, np.nan), FEATURES[:, :1], [0.5], "log_base"),
    ],
)
def test_fit_reads_values_and_names_the_bad_ones(log_base, features, moments, match):
    with pytest.raises(ValueError, match=match):
        _ = fit_multipliers(log_base, features, np.array(moments))
