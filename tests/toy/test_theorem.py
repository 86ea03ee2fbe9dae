"""The theorem, the normalised generator, a wrong Z and Pinsker, against loops (F5, F13)."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import support.toy_slow as slow
from support import oracles
from support.toy_cases import FIXED

from fdpg_ref import DIVERGENCES
from toy.oracle import GENERATORS
from toy.verify.cases import cases
from toy.verify.claims import theorem
from toy.verify.records import judge

WORLD = slow.world_of(FIXED)


def bend(name: str, t: float) -> float:
    """Return t f''(t) by numerical differentiation of the textbook's f, with 60 digits."""
    return t * float(mpmath.diff(oracles.TEXTBOOK[name].f, mpmath.mpf(t), 2))


def contracted(values) -> np.ndarray:
    return np.sum(
        [pi * v * np.array(s) for pi, v, s in zip(WORLD.policy, values, WORLD.scores, strict=True)],
        axis=0,
    )


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_theorem(name: str):
    divergence = DIVERGENCES[name]
    t = [pi / p for pi, p in zip(WORLD.policy, WORLD.target, strict=True)]
    signal = slow.SIGNALS[name]
    truth = slow.gradient(WORLD, name)
    # Any generator: f' moves by a constant.
    value = theorem._any_generator(FIXED, divergence).value
    np.testing.assert_allclose(value, truth, rtol=1e-11, atol=1e-13)
    # The extra term, by hand.
    extra = contracted([signal(x) + bend(name, x) for x in t])
    found = theorem._extra_term(FIXED, divergence).value
    np.testing.assert_allclose(found, extra, rtol=1e-11, atol=1e-13)
    # On the alpha family t f'' = t^(a-1) = 1 + (a - 1) signal: the gradient times alpha.
    factor = 1.0 if name == "total_variation" else slow.ALPHA.get(name)
    error = 1.0 if factor is None else float(np.linalg.norm(extra - factor * truth))
    assert (error < 1e-12) is (factor is not None)
    for x in t:
        h = 1e-6 * x
        slope = x * (signal(x + h) - signal(x - h)) / (2 * h)
        assert bend(name, x) == pytest.approx(slope, rel=1e-7, abs=1e-9)
    # Z off by e^0.7: the gradient of f(ct)/c, of which f'(ct) is the derivative.
    rescaled = contracted([signal(x * math.exp(0.7)) for x in t])
    comparison = theorem._rescaled(FIXED, divergence)
    np.testing.assert_allclose(comparison.value, rescaled, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(comparison.truth, rescaled, rtol=1e-11, atol=1e-13)
    # g by its definition, at the ratios of the case.
    slope_at_one = float(np.imag(GENERATORS[name](np.array(1 + 1e-30j))) / 1e-30)
    at_one = 0.0 if name == "total_variation" else slope_at_one
    g = [float(np.real(GENERATORS[name](np.array(x + 0j)))) - at_one * (x - 1) for x in t]
    np.testing.assert_allclose(divergence.generator(np.log(t)), g, rtol=1e-12, atol=1e-15)
    assert min(g) >= 0
    for claim in theorem.CLAIMS.listed:
        if claim.problems is cases and claim.where is not None and claim.where(divergence):
            found = judge([claim.compare(FIXED, divergence)])
            assert found.verdict == claim.predicted(name), claim
    variation = math.fsum(abs(a - b) for a, b in zip(WORLD.policy, WORLD.target, strict=True)) / 2
    for one, other in ((WORLD.policy, WORLD.target), (WORLD.target, WORLD.policy)):
        kl = math.fsum(a * math.log(a / b) for a, b in zip(one, other, strict=True))
        assert 2 * variation**2 <= kl
    assert judge([theorem._pinsker(FIXED, DIVERGENCES["reverse_kl"])]).verdict == "exact"


def test_total_variation_is_flat_around_the_target_and_nowhere_else():
    near = theorem._flat(FIXED, DIVERGENCES["total_variation"]).value
    np.testing.assert_allclose(near, 0, atol=1e-16)
    # On the fixed case itself, log-ratios of -1.8 to 1.2, the sign still changes.
    assert np.linalg.norm(theorem._rescaled(FIXED, DIVERGENCES["total_variation"]).value) > 1e-2


@pytest.mark.parametrize("name", [n for n in sorted(DIVERGENCES) if n != "total_variation"])
def test_optimum_outside_the_family(name: str):
    index = 1
    case = cases()[index]
    family, target = case.problem.family, np.exp(case.log_target)
    theta = theorem.optimum(index, name)

    def value(at: np.ndarray, error: float) -> float:
        """Return sum p f(c t)/c with c = e^error, which a Z off by c descends."""
        t = np.exp(family.log_probs(at) - case.log_target + error)
        at_one = float(np.imag(GENERATORS[name](np.array(1 + 1e-30j))) / 1e-30)
        terms = np.real(GENERATORS[name](t + 0j)) - at_one * (t - 1)
        return float(target @ terms) * math.exp(-error)

    steps = [1e-3 * np.array(d) for d in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    assert all(value(theta + step, 0.0) > value(theta, 0.0) for step in steps)
    # A step of 1e-3 lowers a slanted value by its slope, and no flat one.
    stays = all(value(theta + step, 0.7) > value(theta, 0.7) for step in steps)
    assert stays is (name in slow.ALPHA)
    comparison = theorem._optimum_outside(index, DIVERGENCES[name])
    assert (judge([comparison]).verdict == "exact") is stays
