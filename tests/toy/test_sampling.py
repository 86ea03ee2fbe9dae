"""Samples of another law: weights, quasi-rejection and the better proposal (F6)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import support.toy_slow as slow
from support.toy_cases import FIXED

from fdpg_ref import DIVERGENCES, TOTAL_VARIATION, forward_kl_gain, truncated_log_weights
from fdpg_ref.related import quasi_rejection
from toy.estimators.estimates import CEILING
from toy.verify.claims import sampling
from toy.verify.records import judge

WORLD = slow.world_of(FIXED)
MIXTURE = [(pi + a) / 2 for pi, a in zip(WORLD.policy, WORLD.base, strict=True)]
each_divergence = pytest.mark.parametrize("name", sorted(DIVERGENCES))


@each_divergence
def test_weights(name: str):
    divergence, signal = DIVERGENCES[name], slow.SIGNALS[name]
    truth = slow.gradient(WORLD, name)
    mean, lost = np.zeros(4), np.zeros(4)
    for q, pi, p, score in zip(MIXTURE, WORLD.policy, WORLD.target, WORLD.scores, strict=True):
        mean += q * min(pi / q, CEILING) * signal(pi / p) * np.array(score)
        lost += q * max(pi / q - CEILING, 0) * signal(pi / p) * np.array(score)
    np.testing.assert_allclose(mean, truth - lost, rtol=1e-11, atol=1e-13)
    assert np.linalg.norm(lost) > 1e-3 * np.linalg.norm(truth)
    np.testing.assert_allclose(
        sampling._truncated(FIXED, divergence).value, mean, rtol=1e-11, atol=1e-13
    )
    np.testing.assert_allclose(
        sampling._truncation_bias(FIXED, divergence).truth, mean, rtol=1e-11, atol=1e-13
    )
    stale = np.sum(
        [
            a * signal(pi / p) * np.array(score)
            for a, pi, p, score in zip(
                WORLD.base, WORLD.policy, WORLD.target, WORLD.scores, strict=True
            )
        ],
        axis=0,
    )
    np.testing.assert_allclose(
        sampling._ignored(FIXED, divergence).value, stale, rtol=1e-11, atol=1e-13
    )


def test_truncation_is_of_the_weight_and_not_of_its_logarithm():
    weights = np.exp(truncated_log_weights(np.log([0.5, 1.4, 9.0]), ceiling=CEILING))
    np.testing.assert_allclose(weights, [0.5, 1.4, 1.5], rtol=1e-14)


@each_divergence
def test_self_normalised_rate(name: str):
    """The limit of n times the bias, by the delta method, and batches of 20 to confirm it."""
    signal, truth = slow.SIGNALS[name], slow.gradient(WORLD, name)
    q, pi = np.array(MIXTURE), np.array(WORLD.policy)
    w = pi / q
    terms = w * np.array([signal(a / b) for a, b in zip(WORLD.policy, WORLD.target, strict=True)])
    terms = terms[:, None] * np.array(WORLD.scores)
    # E[A/W] for means A of w c s and W of w: g + (g Var w - Cov(w, w c s)) / n + O(1/n^2).
    variance = np.sum(q * (w - 1) ** 2)
    covariance = (q * (w - 1)) @ (terms - truth)
    limit = truth * variance - covariance
    world = sampling.mixed_world(FIXED)
    distances = []
    for n in (10, 20, 40):
        bias = sampling._off_policy(name, "self_normalised", n).moments(world).mean - truth
        distances.append(float(np.linalg.norm(n * bias - limit)))
    # Halved with each doubling of n, but for terms of the next order.
    assert distances[1] / distances[0] == pytest.approx(0.5, abs=0.15)
    assert distances[2] / distances[1] == pytest.approx(0.5, abs=0.08)
    assert judge([sampling._self_normalised_rate(FIXED, DIVERGENCES[name])]).verdict == "exact"


def test_quasi_rejection():
    """Acceptance and law over all pairs of samples, by a loop; qualities by the textbook sum."""
    log_beta = 0.5
    rate = 0.0
    for batch in itertools.product(range(4), repeat=2):
        mass = math.prod(WORLD.base[x] for x in batch)
        accepted = [
            min(1.0, WORLD.unnormalised[x] / (math.exp(log_beta) * WORLD.base[x])) for x in batch
        ]
        rate += mass * math.fsum(accepted) / 2
    capped = [
        min(p, math.exp(log_beta) * a) for p, a in zip(WORLD.unnormalised, WORLD.base, strict=True)
    ]
    assert rate == pytest.approx(math.fsum(capped) / math.exp(log_beta), rel=1e-13)
    assert 0 < sum(c == p for c, p in zip(capped, WORLD.unnormalised, strict=True)) < 4
    found = sampling._acceptance(FIXED)
    assert float(found.value) == pytest.approx(rate, rel=1e-12)
    law = np.array(capped) / math.fsum(capped)
    np.testing.assert_allclose(sampling._accepted_law(FIXED).value, law, rtol=1e-12)
    for compare in (sampling._between, sampling._trade, sampling._acceptance):
        assert judge([compare(FIXED)]).verdict == "exact"
    for divergence in DIVERGENCES.values():
        assert judge([sampling._quality(FIXED, divergence)]).verdict == "exact"


def test_quality_of_rejection_by_hand():
    """Half of the samples are 0 and half 1; P is (1, 3): beta = 2 caps the second at 1."""
    log_q = np.log([0.5, 0.5])
    found = quasi_rejection(
        np.log([1.0, 3.0]), log_q, log_beta=math.log(2), divergence=TOTAL_VARIATION
    )
    np.testing.assert_allclose(np.exp(found.log_acceptance), [1.0, 1.0])
    # p_beta = (1/2, 1/2) against p = (1/4, 3/4).
    assert float(found.divergence.mean) == pytest.approx(0.25, rel=1e-12)
    assert float(found.acceptance_rate) == 1.0


def test_better_proposal():
    counts = sampling._counts(FIXED)
    assert counts.sum() == sampling._COPIES
    assert counts.min() >= 1
    drawn = np.repeat(np.arange(4), counts)
    q = counts / sampling._COPIES
    gain = forward_kl_gain(FIXED.log_policy[drawn], np.log(q)[drawn], FIXED.log_score[drawn])
    expected = math.fsum(
        p * math.log(pi / b) for p, pi, b in zip(WORLD.target, WORLD.policy, q, strict=True)
    )
    assert float(gain) == pytest.approx(expected, rel=1e-12)
    for compare in (sampling._gain, sampling._gain_sign):
        assert judge([compare(FIXED)]).verdict == "exact"
