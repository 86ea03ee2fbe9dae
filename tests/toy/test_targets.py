"""The identities of the targets: RLHF, GDC pointwise and distributional, DPG, contexts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import support.toy_slow as slow
from hypothesis import assume, given
from hypothesis import strategies as st
from support.toy_cases import FIXED, ordinary_cases

from fdpg_ref import (
    DIVERGENCES,
    FORWARD_KL,
    REVERSE_KL,
    constrained,
    exact_divergence,
    exact_log_partition,
    exponential_family,
    fit_multipliers,
    reward_tilted,
    score_signal,
)
from toy.verify.cases import Case
from toy.verify.claims import targets
from toy.verify.records import judge

_REWARDS = st.lists(st.floats(-2, 2), min_size=3, max_size=3).map(np.array)


def kl(first: np.ndarray, second: np.ndarray) -> float:
    """Return KL(first||second) of log-probabilities, term by term."""
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(first, second, strict=True))


def test_every_claim_is_exact_on_the_fixed_case():
    for claim in targets.CLAIMS.listed:
        assert judge([claim.compare(FIXED)]).verdict == "exact", claim


@given(case=ordinary_cases(), reward=_REWARDS, beta=st.floats(0.3, 3))
def test_rlhf(case: Case, reward: np.ndarray, beta: float):
    log_score = reward_tilted(case.log_base, reward, beta=beta)
    log_z = float(exact_log_partition(log_score))
    log_target = log_score - log_z
    probs = np.exp(case.log_policy)
    penalised = reward - beta * (case.log_policy - case.log_base)
    # The values are sums of at most a dozen terms of order ten.
    value = beta * log_z - beta * kl(case.log_policy, log_target)
    assert probs @ penalised == pytest.approx(value, rel=1e-12, abs=1e-12)
    signal = score_signal(case.log_policy, log_target, divergence=REVERSE_KL)
    np.testing.assert_allclose(-beta * signal, penalised - beta * log_z, rtol=1e-11, atol=1e-12)
    world = slow.world_of(case)._replace(unnormalised=np.exp(log_score).tolist())
    ascent = sum(
        pi * r * np.array(score)
        for pi, r, score in zip(probs, penalised, world.scores, strict=True)
    )
    np.testing.assert_allclose(ascent, -beta * slow.gradient(world, "reverse_kl"), atol=1e-12)


@given(case=ordinary_cases(), kept=st.lists(st.booleans(), min_size=3, max_size=3))
def test_pointwise(case: Case, kept: list[bool]):
    _ = assume(any(kept))
    satisfied = np.array(kept)
    log_score = constrained(case.log_base, satisfied)
    mass = math.fsum(math.exp(x) for x, keep in zip(case.log_base, kept, strict=True) if keep)
    assert math.exp(float(exact_log_partition(log_score))) == pytest.approx(mass, rel=1e-13)
    for beta in (0.1, 0.02):
        soft = reward_tilted(case.log_base, satisfied.astype(float), beta=beta) - 1 / beta
        # What is excluded keeps e^{-1/beta} of its mass; b = 1 loses the digits of 1/beta.
        error = np.abs(np.exp(soft) - np.exp(log_score))
        assert np.all(error <= np.exp(case.log_base) * (math.exp(-1 / beta) + 1e-13))


def fitted(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, the moments of the case's target, and the fitted log-probabilities."""
    features = np.array([[1.0, -1.0], [0.0, 0.5], [0.0, 1.0], [1.0, 2.0]])
    moments = np.exp(case.log_target) @ features
    fit = fit_multipliers(case.log_base, features, moments, tolerance=1e-12)
    log_score = exponential_family(case.log_base, features, fit.multipliers)
    return features, moments, log_score - float(exact_log_partition(log_score))


def test_moments():
    features, moments, log_fitted = fitted(FIXED)
    # The certificate: gradient norm at most 1e-12.
    np.testing.assert_allclose(np.exp(log_fitted) @ features, moments, atol=2e-12)
    whole = kl(FIXED.log_target, FIXED.log_base)
    parts = kl(FIXED.log_target, log_fitted) + kl(log_fitted, FIXED.log_base)
    assert parts == pytest.approx(whole, rel=1e-11)
    least = kl(log_fitted, FIXED.log_base)
    assert least < kl(FIXED.log_target, FIXED.log_base)
    # The one direction that moves neither mass nor moments, by hand: orthogonal to all three.
    direction = np.linalg.svd(np.column_stack([np.ones(4), features]).T)[2][-1]
    for step in (1e-3, -1e-3, 1e-2, -1e-2):
        other = np.log(np.exp(log_fitted) + step * direction)
        assert kl(other, FIXED.log_base) > least


def test_dual_derivatives():
    features, moments, _ = fitted(FIXED)
    point, step = np.array([0.2, -0.4]), 1e-5

    def dual(multipliers: np.ndarray) -> float:
        log_score = exponential_family(FIXED.log_base, features, multipliers)
        return float(exact_log_partition(log_score)) - float(multipliers @ moments)

    def mean(multipliers: np.ndarray) -> np.ndarray:
        weights = np.exp(exponential_family(FIXED.log_base, features, multipliers))
        return weights @ features / np.sum(weights)

    probs = np.exp(exponential_family(FIXED.log_base, features, point))
    probs = probs / np.sum(probs)
    covariance = features.T @ (probs[:, None] * features) - np.outer(mean(point), mean(point))
    for i, unit in enumerate(np.eye(2)):
        slope = (dual(point + step * unit) - dual(point - step * unit)) / (2 * step)
        curve = (mean(point + step * unit) - mean(point - step * unit)) / (2 * step)
        # Central differences err by step^2 = 1e-10 and by rounding / step = 1e-11.
        assert slope == pytest.approx((mean(point) - moments)[i], abs=1e-9)
        np.testing.assert_allclose(curve, covariance[i], atol=1e-9)


@given(case=ordinary_cases(), moment=st.floats(0.05, 0.95))
def test_binary_multiplier(case: Case, moment: float):
    feature = np.array([1.0, 0.0, 0.0])
    mean = math.exp(case.log_base[0])
    fit = fit_multipliers(case.log_base, feature[:, None], np.array([moment]), tolerance=1e-12)
    closed = math.log(moment * (1 - mean) / (mean * (1 - moment)))
    # A gradient within 1e-12 puts lambda within 1e-12 over the variance, at least 0.0475 there.
    assert float(fit.multipliers[0]) == pytest.approx(closed, abs=1e-10)


@given(case=ordinary_cases())
def test_dpg(case: Case):
    world = slow.world_of(case)
    dpg = sum(
        pi * (p / pi) * np.array(score)
        for pi, p, score in zip(world.policy, world.target, world.scores, strict=True)
    )
    truth = slow.gradient(world, "forward_kl")
    np.testing.assert_allclose(-dpg, truth, atol=1e-12)
    signal = score_signal(case.log_policy, case.log_target, divergence=FORWARD_KL)
    for weight, pi, own in zip(world.unnormalised, world.policy, signal, strict=True):
        # 1 - p/pi is a difference: its error is that of p/pi, at most e^6 here.
        assert world.z - weight / pi == pytest.approx(
            world.z * own, rel=1e-12, abs=1e-12 * weight / pi
        )


def test_conditional():
    rng = np.random.default_rng(8)
    logits, scores = rng.normal(size=(3, 4)) * 2, rng.normal(size=(3, 4)) * 2
    log_policy = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    log_target = scores - exact_log_partition(scores)[:, None]
    for divergence in DIVERGENCES.values():
        together = exact_divergence(log_policy, log_target, divergence=divergence)
        signals = score_signal(log_policy, log_target, divergence=divergence)
        for context in range(3):
            pair = log_policy[context], log_target[context]
            apart = exact_divergence(*pair, divergence=divergence)
            assert float(together[context]) == pytest.approx(float(apart), rel=1e-14)
            np.testing.assert_array_equal(
                signals[context], score_signal(*pair, divergence=divergence)
            )
