"""The control variate of divergence values, and what it descends in the loss (F8)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import support.toy_slow as slow
from support import oracles
from support.toy_cases import FIXED

from fdpg_ref import DIVERGENCES
from fdpg_ref.related import controlled_terms, optimal_control_weight
from toy.verify.claims import control
from toy.verify.records import judge

WORLD = slow.world_of(FIXED)
each_divergence = pytest.mark.parametrize("name", sorted(DIVERGENCES))


def value(name: str, t: float) -> float:
    """Return g(t)/t by the textbook."""
    return float(oracles.TEXTBOOK[name].generator(math.log(t))) / t


@each_divergence
def test_controlled_terms(name: str):
    divergence, pair = DIVERGENCES[name], (FIXED.log_policy, FIXED.log_target)
    t = np.array(WORLD.policy) / np.array(WORLD.target)
    probs = np.array(WORLD.policy)
    values = np.array([value(name, x) for x in t])
    exact = math.fsum(probs * values)
    for weight in (-2.5, 0.0, 0.3, 1.0):
        terms = controlled_terms(*pair, divergence=divergence, weight=weight)
        np.testing.assert_allclose(terms, values + weight * (1 - 1 / t), rtol=1e-11, atol=1e-14)
        assert probs @ terms == pytest.approx(exact, rel=1e-11)
    best = float(optimal_control_weight(*pair, divergence=divergence, log_mass=pair[0])[0])
    mean = probs @ (1 / t)
    covariance = probs @ (values * (1 / t - mean))
    assert best == pytest.approx(covariance / (probs @ (1 / t - mean) ** 2), rel=1e-10)
    for compare in (control._unbiased, control._best, control._in_the_loss):
        assert judge([compare(FIXED, divergence)]).verdict == "exact", compare.__name__
    # g' - g/t + lam/t, contracted by a loop.
    signal = [slow.SIGNALS[name](x) - value(name, x) + 0.3 / x for x in t]
    expected = np.sum(
        [p * c * np.array(s) for p, c, s in zip(probs, signal, WORLD.scores, strict=True)], axis=0
    )
    np.testing.assert_allclose(
        control._in_the_loss(FIXED, divergence).truth, expected, rtol=1e-10, atol=1e-13
    )


@each_divergence
def test_monotone(name: str):
    u = np.linspace(-9, 9, 401)
    signal = [slow.SIGNALS[name](math.exp(x)) - value(name, math.exp(x)) for x in u]
    np.testing.assert_allclose(control.loss_signal(name, np.exp(u)), signal, rtol=1e-9, atol=1e-12)
    # Below t = 1 the signals of heavy tails reach 1e8: only the other side has a common scale.
    above = np.array(signal)[u >= 0]
    falls = np.min(np.diff(above)) < -1e-9 * np.max(np.abs(above))
    assert bool(falls) is not control._rises(name)
    comparisons = [control._falls(wide, DIVERGENCES[name]) for wide in control._RANGES]
    assert (judge(comparisons).verdict == "biased") is bool(falls)


def test_of_the_nine_reverse_kl_and_pearson_alone_have_a_monotone_signal():
    rising = ("reverse_kl", "pearson_chi2")
    others = ("forward_kl", "total_variation", "jensen_shannon", "neyman_chi2")
    for name in (*rising, *others, "squared_hellinger", "jeffreys", "le_cam"):
        assert control._rises(name) is (name in rising)
