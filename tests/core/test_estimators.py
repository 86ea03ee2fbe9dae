"""Signals, coefficients, baselines, values and diagnostics, by enumeration and slow loops."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from support import oracles
from support.libraries import Library, to_numpy
from support.strategies import log_prob_pairs, ordinary_pairs

from fdpg_ref import (
    DIVERGENCES,
    FORWARD_KL,
    JENSEN_SHANNON,
    PEARSON_CHI2,
    REVERSE_KL,
    TOTAL_VARIATION,
    batch_mean,
    constrained,
    divergence_terms,
    effective_sample_size,
    estimate_divergence,
    exact_divergence,
    exact_log_partition,
    init_running_baseline,
    largest_share,
    leave_one_out,
    mean_and_standard_error,
    relative_standard_error,
    reward_tilted,
    score_coefficients,
    score_signal,
    update_running_baseline,
)

INF = math.inf
# One asymmetric problem with large log-ratios: symmetric ones cannot see an exchanged argument.
LOGITS = np.array([0.3, -1.1, 1.6])
TARGET = np.array([0.05, 0.7, 0.25])
PROPOSAL = np.array([0.5, 0.2, 0.3])
LOG_POLICY = log_softmax(LOGITS)
POLICY = np.exp(LOG_POLICY)
SCORES = np.eye(3) - POLICY  # row x holds grad log pi(x) of a softmax: e_x - pi


def exact_gradient(name: str) -> np.ndarray:
    """Differentiate the textbook D_f(softmax(logits)||TARGET) numerically, in 60 digits."""
    target = [mpmath.mpf(float(p)) for p in TARGET]

    def value(*logits):
        weights = [mpmath.exp(z) for z in logits]
        return oracles.divergence(name, [w / sum(weights) for w in weights], target)

    orders = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    point = tuple(map(mpmath.mpf, LOGITS.tolist()))
    return np.array([float(mpmath.diff(value, point, order)) for order in orders])


GRADIENTS = {name: exact_gradient(name) for name in DIVERGENCES}


@pytest.fixture(params=list(DIVERGENCES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# ------------------------------------------------------------------ the gradient (F1, F2, F3, F6)


def test_mean_coefficient_times_score_is_the_gradient(name, xp: Library):
    log_policy, log_target = xp.array(LOG_POLICY), xp.array(np.log(TARGET))
    signal = score_signal(log_policy, log_target, divergence=DIVERGENCES[name])
    for baseline in (0.0, 0.7, xp.array([0.7])):
        coefficients = to_numpy(score_coefficients(signal, baseline=baseline))
        gradient = (POLICY * coefficients) @ SCORES
        # Three terms of size up to |signal| <= 200 (Neyman), each good to a few eps.
        tolerance = 8 * xp.eps * np.max(np.abs(coefficients))
        np.testing.assert_allclose(gradient, GRADIENTS[name], rtol=0, atol=tolerance)


def test_importance_weights_make_any_proposal_exact(name, xp: Library):
    log_policy, log_target = xp.array(LOG_POLICY), xp.array(np.log(TARGET))
    signal = score_signal(log_policy, log_target, divergence=DIVERGENCES[name])
    log_weights = log_policy - xp.array(np.log(PROPOSAL))
    coefficients = to_numpy(score_coefficients(signal, baseline=0.3, log_weights=log_weights))
    gradient = (PROPOSAL * coefficients) @ SCORES
    tolerance = 16 * xp.eps * np.max(np.abs(coefficients))
    np.testing.assert_allclose(gradient, GRADIENTS[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("proposal", [POLICY, PROPOSAL], ids=["on-policy", "off-policy"])
def test_leave_one_out_is_unbiased_over_all_batches(name, proposal, n):
    gradient, shrunk = np.zeros(3), np.zeros(3)
    everything = score_signal(LOG_POLICY, np.log(TARGET), divergence=DIVERGENCES[name])
    log_weights = LOG_POLICY - np.log(proposal)
    for batch, probability in oracles.batches(proposal.tolist(), n):
        drawn = list(batch)
        signal = everything[drawn]
        options: dict[str, Any] = {"log_weights": log_weights[drawn]}
        c = score_coefficients(signal, baseline=leave_one_out(signal), **options)
        gradient += probability * np.mean(c[:, None] * SCORES[drawn], axis=0)
        c = score_coefficients(signal, baseline=batch_mean(signal), **options)
        shrunk += probability * np.mean(c[:, None] * SCORES[drawn], axis=0)
    scale = np.max(np.abs(everything))
    np.testing.assert_allclose(gradient, GRADIENTS[name], rtol=1e-10, atol=1e-13 * scale)
    if proposal is POLICY:  # exactly (n-1)/n of the gradient, and so biased
        expected = (n - 1) / n * GRADIENTS[name]
        np.testing.assert_allclose(shrunk, expected, rtol=1e-10, atol=1e-13 * scale)


def test_signal_outside_the_target_is_the_slope_at_infinity(name, xp: Library):
    log_policy, log_target = xp.array([-1.0, -2.0, -INF]), xp.array([-1.0, -INF, -INF])
    signal = to_numpy(score_signal(log_policy, log_target, divergence=DIVERGENCES[name]))
    slope = DIVERGENCES[name].slope_at_infinity
    np.testing.assert_allclose(signal, [0.0, slope, slope], rtol=2 * xp.eps)


def test_signal_lets_nan_through(name, xp: Library):
    nan, one = xp.array([math.nan]), xp.array([-1.0])
    for pair in ((nan, one), (one, nan), (nan, xp.array([-INF]))):
        assert np.isnan(to_numpy(score_signal(*pair, divergence=DIVERGENCES[name]))).all()


def test_a_sample_of_weight_zero_has_coefficient_zero(xp: Library):
    signal = xp.array([INF, 2.0])  # an infinite slope, at a sample the policy cannot draw
    values = score_coefficients(signal, baseline=1.0, log_weights=xp.array([-INF, math.log(3)]))
    np.testing.assert_allclose(to_numpy(values), [0.0, 3.0], rtol=4 * xp.eps)


@given(pair=log_prob_pairs(holes=True))
def test_finite_slopes_give_finite_coefficients_at_holes(pair):
    log_policy, log_target = pair
    for divergence in (TOTAL_VARIATION, JENSEN_SHANNON, FORWARD_KL):
        signal = score_signal(log_policy, log_target, divergence=divergence)
        # Where the policy has mass and the target none, the price is the finite slope.
        outside = (log_policy > -INF) & np.isneginf(log_target)
        assert np.all(signal[outside] == divergence.slope_at_infinity)
        assert not np.any(np.isnan(signal))


# ------------------------------------------------------------------ baselines


@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=6))
def test_leave_one_out_is_the_mean_of_the_others(xp: Library, values):
    stored = to_numpy(xp.array(values)).tolist()
    np.testing.assert_allclose(
        to_numpy(leave_one_out(xp.array(values))),
        oracles.leave_one_out(stored),
        rtol=0,
        atol=8 * xp.eps * sum(map(abs, values)),
    )


def test_leave_one_out_centres_like_a_rescaled_batch_mean(xp: Library):
    signal = xp.array([[1.0, 5.0, -3.0, 2.0], [0.5, 0.5, 0.5, 0.5]])
    apart = to_numpy(signal - leave_one_out(signal))
    together = to_numpy(signal - batch_mean(signal))
    assert batch_mean(signal).shape == (2, 1)
    np.testing.assert_allclose(apart, 4 / 3 * together, rtol=8 * xp.eps)


def test_running_baseline_is_the_mean_of_the_past(xp: Library):
    state = init_running_baseline(xp.array([1.0, 3.0]))
    assert float(state.mean[0]) == 2.0
    state = update_running_baseline(state, xp.array([8.0, 8.0, 8.0]))
    assert state.weight == 5
    assert float(state.mean[0]) == pytest.approx((1 + 3 + 24) / 5, rel=4 * xp.eps)
    state = update_running_baseline(state, xp.array([0.0, 0.0]), forgetting=0.4)
    # Five samples of mean 5.6 count as two, next to two of mean zero.
    assert state.weight == 4
    assert float(state.mean[0]) == pytest.approx(2.8, rel=4 * xp.eps)


@pytest.mark.parametrize("forgetting", [0.0, 1.01])
def test_running_baseline_refuses_a_meaningless_factor(forgetting):
    with pytest.raises(ValueError, match=f"forgetting is {forgetting}"):
        _ = update_running_baseline(
            init_running_baseline(np.ones(2)), np.ones(2), forgetting=forgetting
        )


# ------------------------------------------------------------------ identities of the targets


@given(pair=ordinary_pairs(min_size=4, max_size=4), beta=st.floats(0.1, 10.0))
def test_kl_control_is_reverse_kl_to_the_tilted_base(pair, beta):
    """E_pi[r] - beta KL(pi‖a) = beta log Z - beta KL(pi‖p), and the signals agree pointwise."""
    log_policy, log_base = pair
    reward = np.array([1.0, -0.5, 0.25, 2.0])
    log_score = reward_tilted(log_base, reward, beta=beta)
    log_z = exact_log_partition(log_score)
    kl_base = exact_divergence(log_policy, log_base, divergence=REVERSE_KL)
    kl_target = exact_divergence(log_policy, log_score - log_z, divergence=REVERSE_KL)
    left = np.exp(log_policy) @ reward - beta * kl_base
    assert left == pytest.approx(beta * (log_z - kl_target), rel=1e-10, abs=1e-11)
    signal = score_signal(log_policy, log_score - log_z, divergence=REVERSE_KL)
    penalised = reward - beta * (log_policy - log_base) - beta * log_z
    np.testing.assert_allclose(-beta * signal, penalised, rtol=1e-10, atol=1e-11)


@given(pair=ordinary_pairs(min_size=4, max_size=4))
def test_dpg_is_forward_kl_and_its_centred_signal_is_the_gdc_baseline(pair):
    """signal = 1 - p/pi: DPG's weight P/pi less the baseline B = Z, divided by -Z."""
    log_policy, log_score = pair[0], pair[1] + 1.7
    log_z = exact_log_partition(log_score)
    signal = score_signal(log_policy, log_score - log_z, divergence=FORWARD_KL)
    z = np.exp(log_z)
    gdc = (np.exp(log_score - log_policy) - z) / z
    scale = np.max(np.abs(gdc)) + 1
    np.testing.assert_allclose(-signal, gdc, rtol=0, atol=1e-13 * scale)


def test_a_hard_constraint_prices_violations_at_one_under_forward_kl():
    log_score = constrained(LOG_POLICY, np.array([True, False, True]))
    log_target = log_score - exact_log_partition(log_score)
    signal = score_signal(LOG_POLICY, log_target, divergence=FORWARD_KL)
    # With pi = a: 1 - p/pi is 1 on violations and 1 - 1/Z elsewhere.
    z = POLICY[0] + POLICY[2]
    np.testing.assert_allclose(signal, [1 - 1 / z, 1.0, 1 - 1 / z], rtol=1e-14)
    kl = exact_divergence(LOG_POLICY, log_target, divergence=FORWARD_KL)
    assert kl == pytest.approx(-math.log(z), rel=1e-14)
    assert exact_divergence(LOG_POLICY, log_target, divergence=REVERSE_KL) == INF


# ------------------------------------------------------------------ values


def test_exact_divergence_sums_the_last_axis_of_each_context(name, xp: Library):
    pairs = [(LOG_POLICY, np.log(TARGET)), (np.log(TARGET), np.log(PROPOSAL))]
    policy, target = (xp.array(side) for side in zip(*pairs, strict=True))
    values = to_numpy(exact_divergence(policy, target, divergence=DIVERGENCES[name]))
    expected = [
        float(oracles.divergence(name, *(oracles.normalised(np.exp(x)) for x in pair)))
        for pair in pairs
    ]
    # A float32 log-probability of 3 nats is off by 1e-7, which the ratio (at most 3 nats) carries.
    np.testing.assert_allclose(values, expected, rtol=30 * xp.eps)


def test_infinite_values_where_mass_has_an_infinite_price(name, xp: Library):
    full, holed = xp.array(np.log([0.5, 0.25, 0.25])), xp.array([math.log(0.5)] * 2 + [-INF])
    divergence = DIVERGENCES[name]
    for policy, target, price in (
        (holed, full, divergence.value_at_zero),
        (full, holed, divergence.slope_at_infinity),
    ):
        value = float(exact_divergence(policy, target, divergence=divergence))
        assert (value == INF) == (price == INF)


@given(ordinary_pairs(min_size=3, max_size=3))
def test_divergence_terms_are_unbiased_and_nonnegative(pair):
    log_policy, log_target = pair
    for divergence in DIVERGENCES.values():
        terms = divergence_terms(log_policy, log_target, np.log(PROPOSAL), divergence=divergence)
        assert np.all(terms >= 0)
        exact = exact_divergence(log_policy, log_target, divergence=divergence)
        assert PROPOSAL @ terms == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_divergence_terms_do_not_underflow_with_sequence_probabilities(xp: Library):
    """800 nats are an ordinary sequence; its ratios are not tiny at all."""
    shift = xp.array([800.0])
    policy, target, proposal = xp.array([-1.0]), xp.array([-2.0]), xp.array([-1.5])
    near = divergence_terms(policy, target, proposal, divergence=REVERSE_KL)
    far = divergence_terms(policy - shift, target - shift, proposal - shift, divergence=REVERSE_KL)
    # A spacing of 800 eps in each logarithm.
    np.testing.assert_allclose(to_numpy(far), to_numpy(near), rtol=4 * 800 * xp.eps)


def test_estimate_is_the_mean_of_the_terms_with_its_standard_error(xp: Library):
    drawn = [0, 2, 1, 1, 0, 2, 2]
    sides = [xp.array(np.log(p)[drawn]) for p in (POLICY, TARGET, PROPOSAL)]
    estimate = estimate_divergence(*sides, divergence=JENSEN_SHANNON)
    terms = to_numpy(divergence_terms(*sides, divergence=JENSEN_SHANNON)).tolist()
    mean = math.fsum(terms) / 7
    variance = math.fsum((t - mean) ** 2 for t in terms) / 6
    assert float(estimate.mean) == pytest.approx(mean, rel=8 * xp.eps)
    assert float(estimate.standard_error) == pytest.approx(math.sqrt(variance / 7), rel=20 * xp.eps)


def test_sampled_estimate_lies_within_five_standard_errors():
    rng = np.random.default_rng(0)
    drawn = rng.choice(3, size=20_000, p=PROPOSAL)
    sides = [np.log(p)[drawn] for p in (POLICY, TARGET, PROPOSAL)]
    for name, divergence in DIVERGENCES.items():
        mean, error = estimate_divergence(*sides, divergence=divergence)
        exact = exact_divergence(LOG_POLICY, np.log(TARGET), divergence=divergence)
        assert abs(mean - exact) < 5 * error, name


# ------------------------------------------------------------------ diagnostics


@given(values=st.lists(st.floats(-20, 20), min_size=2, max_size=8), shift=st.floats(-900, 900))
def test_diagnostics_are_slow_loops_and_ignore_the_scale(values, shift):
    w = oracles.exp(values)
    n, total, squares = len(w), mpmath.fsum(w), mpmath.fsum(x * x for x in w)
    mean = total / n
    spread = mpmath.sqrt(mpmath.fsum((x - mean) ** 2 for x in w) / (n - 1))
    log_weights = np.array(values) + shift
    # Adding the shift rounds each logarithm by up to 1e-13.
    assert effective_sample_size(log_weights) == pytest.approx(float(total**2 / squares), rel=1e-11)
    assert largest_share(log_weights) == pytest.approx(float(max(w) / total), rel=1e-11)
    relative = float(spread / (mean * mpmath.sqrt(n)))
    assert relative_standard_error(log_weights) == pytest.approx(relative, rel=1e-10, abs=1e-12)


def test_diagnostics_at_the_ends(xp: Library):
    equal, one = xp.array([[3.0] * 4]), xp.array([[-INF, 1000.0, -INF, -INF]])
    for weights, size, share, error in ((equal, 4.0, 0.25, 0.0), (one, 1.0, 1.0, 1.0)):
        # exp of a difference of 1000 nats
        allowed: dict[str, Any] = {"rtol": 2000 * xp.eps, "atol": 8 * xp.eps}
        np.testing.assert_allclose(to_numpy(effective_sample_size(weights)), [size], **allowed)
        np.testing.assert_allclose(to_numpy(largest_share(weights)), [share], **allowed)
        np.testing.assert_allclose(to_numpy(relative_standard_error(weights)), [error], **allowed)


def test_mean_and_standard_error_by_hand(xp: Library):
    estimate = mean_and_standard_error(xp.array([[1.0, 3.0], [2.0, 2.0]]))
    assert to_numpy(estimate.mean).tolist() == [2.0, 2.0]
    np.testing.assert_allclose(to_numpy(estimate.standard_error), [1.0, 0.0], rtol=4 * xp.eps)


def test_relative_standard_error_is_that_of_the_partition_estimate():
    rng = np.random.default_rng(1)
    log_weights = rng.normal(0, 1, 50)
    weights = np.exp(log_weights)
    expected = weights.std(ddof=1) / math.sqrt(50) / weights.mean()
    assert relative_standard_error(log_weights) == pytest.approx(expected, rel=1e-12)


def test_pearson_divergence_is_the_price_of_importance_sampling():
    """n / ESS -> 1 + chi2(pi‖q) for samples of q: exact when the batch is q itself."""
    counts = (10 * PROPOSAL).astype(int)  # 5, 2 and 3 samples
    drawn = np.repeat([0, 1, 2], counts)
    size = effective_sample_size((LOG_POLICY - np.log(PROPOSAL))[drawn])
    chi2 = exact_divergence(LOG_POLICY, np.log(PROPOSAL), divergence=PEARSON_CHI2)
    assert 10 / size == pytest.approx(1 + chi2, rel=1e-12)
    assert logsumexp(LOG_POLICY) == pytest.approx(0, abs=1e-15)
