"""The theorem, the normalised generator, a wrong Z and Pinsker, against loops (F5, F13)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import toy_slow as slow
from toy_cases import FIXED

from fdpg_ref import DIVERGENCES
from toy.oracle import GENERATORS
from toy.verify import theorem
from toy.verify.records import judge

WORLD = slow.world_of(FIXED)
# t f''(t) by hand.
SLOPES = {
    "forward_kl": lambda t: 1 / t,
    "reverse_kl": lambda t: 1.0,
    "total_variation": lambda t: 0.0,
    "jensen_shannon": lambda t: 1 / (2 * (t + 1)),
    "pearson_chi2": lambda t: 2 * t,
    "neyman_chi2": lambda t: 2 / t**2,
    "squared_hellinger": lambda t: 1 / (2 * math.sqrt(t)),
    "jeffreys": lambda t: 1 + 1 / t,
    "le_cam": lambda t: 8 * t / (t + 1) ** 3,
}


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
    extra = contracted([signal(x) + SLOPES[name](x) for x in t])
    found = theorem._extra_term(FIXED, divergence).value
    np.testing.assert_allclose(found, extra, rtol=1e-6, atol=1e-8)  # central differences
    bare = name in ("reverse_kl", "total_variation")
    assert (np.linalg.norm(extra - truth) < 1e-12) is bare
    # Z off by e^0.7: the gradient of f(ct)/c, of which f'(ct) is the derivative.
    error = math.exp(0.7)
    rescaled = contracted([signal(x * error) for x in t])
    comparison = theorem._rescaled(FIXED, divergence)
    np.testing.assert_allclose(comparison.value, rescaled, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(comparison.truth, rescaled, rtol=1e-11, atol=1e-13)
    # g by its definition, at the ratios of the case.
    at_one = (
        0.0 if name == "total_variation" else float(np.imag(GENERATORS[name](1 + 1e-30j)) / 1e-30)
    )
    g = [float(np.real(GENERATORS[name](np.array(x + 0j)))) - at_one * (x - 1) for x in t]
    np.testing.assert_allclose(divergence.generator(np.log(t)), g, rtol=1e-12, atol=1e-15)
    assert min(g) >= 0
    for claim, _, compare, claimed in theorem._CLAIMS:
        assert judge([compare(FIXED, divergence)]).verdict == claimed(name), claim
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
