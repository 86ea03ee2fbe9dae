"""Control variates, trajectory balance, quasi-rejection and weights, by enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.special import log_softmax
from support import oracles
from support.libraries import Library, to_numpy
from support.strategies import ordinary_pairs

from fdpg_ref import (
    DIVERGENCES,
    FORWARD_KL,
    REVERSE_KL,
    TOTAL_VARIATION,
    exact_divergence,
    forward_kl_gain,
    leave_one_out,
    optimal_baseline,
    score_coefficients,
    score_signal,
    self_normalised_log_weights,
    truncated_log_weights,
)
from fdpg_ref.related import (
    controlled_terms,
    conventions,
    log_ratio_penalty,
    optimal_control_weight,
    per_prefix_kl,
    quasi_rejection,
    vargrad_loss,
)

INF = math.inf
LOG_POLICY = log_softmax(np.array([0.3, -1.1, 1.6]))
POLICY = np.exp(LOG_POLICY)
LOG_TARGET = np.log([0.05, 0.7, 0.25])
SCORES = np.eye(3) - POLICY


@pytest.fixture(params=list(DIVERGENCES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# ------------------------------------------------------------------ control variates (F8, F9)


@given(ordinary_pairs(min_size=3, max_size=3))
def test_controlled_terms_are_unbiased_for_every_weight(pair):
    for divergence in DIVERGENCES.values():
        exact = exact_divergence(*pair, divergence=divergence)
        for weight in (0.0, 1.0, -2.5):
            terms = controlled_terms(*pair, divergence=divergence, weight=weight)
            # The control has mean zero, by terms of size up to the target's share: e^12.
            scale = np.exp(pair[0]) @ np.abs(terms) + 1
            assert np.exp(pair[0]) @ terms == pytest.approx(exact, rel=1e-9, abs=1e-12 * scale)
        assert np.all(controlled_terms(*pair, divergence=divergence) >= 0)


def test_reverse_kl_terms_are_k3_and_k1(xp: Library):
    u = LOG_POLICY - LOG_TARGET
    pair = xp.array(LOG_POLICY), xp.array(LOG_TARGET)
    k3 = to_numpy(controlled_terms(*pair, divergence=REVERSE_KL))
    k1 = to_numpy(controlled_terms(*pair, divergence=REVERSE_KL, weight=1.0))
    np.testing.assert_allclose(k3, np.exp(-u) - 1 + u, rtol=40 * xp.eps)
    np.testing.assert_allclose(k1, u, rtol=40 * xp.eps)


def test_optimal_control_weight_has_the_least_variance(name):
    pair = LOG_POLICY, LOG_TARGET
    divergence = DIVERGENCES[name]
    best = optimal_control_weight(*pair, divergence=divergence, log_mass=LOG_POLICY)

    def variance(weight: float) -> float:
        terms = controlled_terms(*pair, divergence=divergence, weight=weight)
        return float(POLICY @ terms**2 - (POLICY @ terms) ** 2)

    least = variance(float(best[0]))
    for step in (-0.1, 0.1):
        assert variance(float(best[0]) + step) > least
    # A parabola is symmetric about its minimum.
    assert variance(float(best[0]) + 1) == pytest.approx(variance(float(best[0]) - 1), rel=1e-9)


def test_per_prefix_kl_obeys_the_chain_rule(xp: Library):
    """The mean sum of per-prefix KLs is the KL of whole sequences; the mask leaves nothing in."""
    rng = np.random.default_rng(3)
    policy, target = (log_softmax(rng.normal(size=(3, 2)), axis=-1) for _ in range(2))
    # Token 1 ends; rows: the empty prefix, then after "0", then after "00".
    sequences = [(1,), (0, 1), (0, 0, 1), (0, 0, 0)]
    tables = [np.zeros((4, 3, 2)) + math.log(0.5) for _ in range(2)]
    mask = np.zeros((4, 3), dtype=bool)
    logs = np.zeros((2, 4))
    for i, sequence in enumerate(sequences):
        for t, token in enumerate(sequence):
            mask[i, t] = True
            for side, table in enumerate((policy, target)):
                tables[side][i, t] = table[t]
                logs[side, i] += table[t, token]
    sides = xp.array(tables[0]), xp.array(tables[1])
    values = to_numpy(per_prefix_kl(*sides, xp.booleans(mask)))
    exact = exact_divergence(logs[0], logs[1], divergence=REVERSE_KL)
    assert np.exp(logs[0]) @ values == pytest.approx(float(exact), rel=60 * xp.eps)
    with pytest.raises(ValueError, match=r"\(3,\).*\(4, 3, 2\)"):
        per_prefix_kl(*sides, xp.booleans(mask[0]))


# ------------------------------------------------------------------ trajectory balance (F7, F14)


def test_penalties_have_the_signal_as_their_derivative(name):
    u = torch.tensor([-12.0, -1.4, -0.01, 0.3, 2.2, 9.0], dtype=torch.float64, requires_grad=True)
    divergence = DIVERGENCES[name]
    (slope,) = torch.autograd.grad(log_ratio_penalty(u, divergence=divergence).sum(), u)
    np.testing.assert_allclose(slope, divergence.signal(u.detach()), rtol=1e-10)


def test_penalties_of_the_kl_divergences_are_k2_and_k3(xp: Library):
    u = xp.array([-3.0, -0.2, 0.0, 0.5, 4.0])
    v = to_numpy(u)
    # 320 quadrature terms of one sign.
    reverse = to_numpy(log_ratio_penalty(u, divergence=REVERSE_KL))
    np.testing.assert_allclose(reverse, v**2 / 2, rtol=300 * xp.eps)
    forward = to_numpy(log_ratio_penalty(u, divergence=FORWARD_KL))
    expected = v - 1 + np.exp(-v)
    np.testing.assert_allclose(forward, expected, rtol=300 * xp.eps, atol=4 * xp.eps)


def test_vargrad_is_reverse_kl_with_a_leave_one_out_baseline():
    """Sample by sample, and for any constant in log Z."""
    drawn = [0, 2, 1, 2]
    log_policy = torch.tensor(LOG_POLICY[drawn], requires_grad=True)
    log_target = torch.tensor(LOG_TARGET[drawn])
    loss = vargrad_loss(log_policy - (log_target + 7.3))
    (gradient,) = torch.autograd.grad(loss, log_policy)
    signal = score_signal(log_policy.detach(), log_target, divergence=REVERSE_KL)
    coefficients = score_coefficients(signal, baseline=leave_one_out(signal))
    np.testing.assert_allclose(gradient, coefficients / 4, rtol=1e-12)


# ------------------------------------------------------------------ quasi-rejection


def test_quasi_rejection_between_proposal_and_target():
    """Every outcome as often as q says: then the estimates are the exact sums."""
    counts = np.array([4, 6, 10])
    proposal, score = counts / 20, 3.0 * np.exp(LOG_TARGET)
    drawn = np.repeat([0, 1, 2], counts)
    pair = np.log(score)[drawn], np.log(proposal)[drawn]
    beta = 1.4
    capped = np.minimum(score, beta * proposal)
    found = quasi_rejection(*pair, log_beta=math.log(beta), divergence=TOTAL_VARIATION)
    np.testing.assert_allclose(found.acceptance_rate, capped.sum() / beta, rtol=1e-12)
    np.testing.assert_allclose(np.exp(found.log_score), capped[drawn], rtol=1e-12)
    expected = np.minimum(1, score / (beta * proposal))[drawn]
    np.testing.assert_allclose(np.exp(found.log_acceptance), expected, rtol=1e-12)
    exact = np.abs(capped / capped.sum() - score / score.sum()).sum() / 2
    assert float(found.divergence.mean) == pytest.approx(exact, rel=1e-12)
    # A large beta accepts rarely and exactly: p_beta is p. A small one accepts everything: q.
    far = quasi_rejection(*pair, log_beta=20.0, divergence=TOTAL_VARIATION)
    assert float(far.divergence.mean) == pytest.approx(0, abs=1e-15)
    near = quasi_rejection(*pair, log_beta=-20.0, divergence=TOTAL_VARIATION)
    assert float(near.acceptance_rate) == 1.0


# ------------------------------------------------------------------ weights and baselines


def test_truncated_weights_are_bounded_and_the_rest_untouched(xp: Library):
    weights = np.exp(
        to_numpy(truncated_log_weights(xp.array(np.log([0.5, 2.0, 9.0])), ceiling=3.0))
    )
    np.testing.assert_allclose(weights, [0.5, 2.0, 3.0], rtol=8 * xp.eps)
    with pytest.raises(ValueError, match="ceiling is 0"):
        truncated_log_weights(xp.array([0.0]), ceiling=0.0)


def test_self_normalised_weights_average_to_one_at_any_scale(xp: Library):
    for shift in (0.0, 500.0):
        raw = xp.array([0.3 + shift, -1.0 + shift, -INF])
        weights = np.exp(to_numpy(self_normalised_log_weights(raw)))
        assert weights.mean() == pytest.approx(1, rel=1000 * xp.eps)  # a spacing of 500 eps
        assert weights[0] / weights[1] == pytest.approx(math.exp(1.3), rel=1000 * xp.eps)


def test_forward_kl_gain_is_the_difference_of_two_divergences():
    counts = np.array([4, 6, 10])
    log_proposal = np.log(counts / 20)
    drawn = np.repeat([0, 1, 2], counts)
    gain = forward_kl_gain(LOG_POLICY[drawn], log_proposal[drawn], LOG_TARGET[drawn] + 2.0)
    before, after = (
        exact_divergence(x, LOG_TARGET, divergence=FORWARD_KL) for x in (log_proposal, LOG_POLICY)
    )
    assert float(gain) == pytest.approx(float(before - after), rel=1e-12)


def test_optimal_baseline_minimises_the_total_variance(name):
    signal = score_signal(LOG_POLICY, LOG_TARGET, divergence=DIVERGENCES[name])
    norms = np.sum(SCORES**2, axis=1)
    best = float(optimal_baseline(signal, norms, log_mass=LOG_POLICY)[0])

    def variance(baseline: float) -> float:
        return float(POLICY @ ((signal - baseline) ** 2 * norms))

    assert variance(best + 1) == pytest.approx(variance(best - 1), rel=1e-10)
    assert variance(best) < min(variance(best + 0.1), variance(best - 0.1))


def test_conventions_are_bijections():
    for there, back in (
        (conventions.alpha_from_amari, conventions.amari_from_alpha),
        (conventions.alpha_from_alpha_dpg, conventions.alpha_dpg_from_alpha),
        (conventions.weight_from_gkd_beta, conventions.gkd_beta_from_weight),
    ):
        for value in (-0.5, 0.25, 0.75):
            assert back(there(value)) == value
    assert conventions.alpha_from_amari(-1.0) == 0.0
    assert conventions.weight_from_gkd_beta(0.1) == 0.9


def test_batches_of_the_oracle_are_a_distribution():
    """Guards the oracle that other files enumerate with."""
    assert sum(p for _, p in oracles.batches(POLICY.tolist(), 3)) == pytest.approx(1, rel=1e-14)
