"""The exact sum from linear probabilities and in blocks: values, edges, gradients, compilation."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from mpmath import mpf
from support import oracles
from support.libraries import Library, to_numpy

from fdpg_ref import (
    DIVERGENCES,
    FORWARD_KL,
    REVERSE_KL,
    exact_divergence,
    exact_divergence_from_probabilities,
    log_ratio,
    numerics,
)

INF = math.inf


def test_forward_kl_of_masses_within_a_few_ulp(xp: Library):
    rng = np.random.default_rng(0)
    target = rng.uniform(0.01, 1, 2000)
    ratio = np.concatenate([np.exp(rng.uniform(-8, 8, 1000)), 1 + 10 ** rng.uniform(-6, -1, 1000)])
    # Both bounds of the series, and the floats next to them.
    ratio[:6] = [1.5, 1.5 + 4e-7, 1.5 - 4e-7, 2 / 3, 2 / 3 + 2e-7, 2 / 3 - 2e-7]
    q, p = xp.array(target * ratio), xp.array(target)
    values = to_numpy(numerics.forward_kl_of_masses(q, p))
    book = oracles.TEXTBOOK["forward_kl"]
    pairs = zip(to_numpy(q).tolist(), to_numpy(p).tolist(), strict=True)
    expected = [float(b * (book.f(mpf(a) / b) + mpf(a) / b - 1)) for a, b in pairs]
    # Outside the bounds the rounding of pi/b, eps/2, is compared with g(3/2) = 0.09: 6 eps.
    np.testing.assert_allclose(values, expected, rtol=8 * xp.eps)


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_probabilities_of_zero_have_their_price(name, xp: Library):
    divergence, holed = DIVERGENCES[name], xp.array([0.25, 0.75, 0.0, 0.0])
    full = xp.array([0.25, 0.5, 0.25, 0.0])
    for policy, target in ((holed, full), (full, holed)):
        value = float(exact_divergence_from_probabilities(policy, target, divergence=divergence))
        exact = oracles.divergence(
            name, *(oracles.normalised(to_numpy(x)) for x in (policy, target))
        )
        assert value == pytest.approx(float(exact), rel=8 * xp.eps)


def test_masses_below_the_normal_range_keep_their_price():
    policy, target = np.array([1.0, 1e-320]), np.array([0.5, 0.5])
    exact = oracles.divergence("forward_kl", *map(oracles.normalised, (policy, target)))
    value = exact_divergence_from_probabilities(policy, target, divergence=FORWARD_KL)
    # The ratio 2e-320 has four thousand steps of its own below it, of a logarithm of 736.
    assert value == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_blocks_add_up_to_the_whole(name):
    """Torch sums 40,001 outcomes in one piece, numpy in three, the last of them short."""
    rng = np.random.default_rng(1)
    pair = rng.dirichlet(np.ones(40_001), size=(2, 2))
    whole = [torch.from_numpy(x) for x in pair]
    for evaluate, prepare in (
        (exact_divergence_from_probabilities, lambda x: x),
        (exact_divergence, lambda x: x.log() if isinstance(x, torch.Tensor) else np.log(x)),
    ):
        divergence = DIVERGENCES[name]
        blocks = evaluate(*map(prepare, pair), divergence=divergence)
        expected = evaluate(*map(prepare, whole), divergence=divergence)
        assert blocks.shape == (2,)
        # A handful of roundings in sums of 40,001 terms of one sign; the two logarithms differ.
        np.testing.assert_allclose(blocks, expected, rtol=1e-13)


def test_a_mismatch_of_any_size_is_taken_out(xp: Library):
    """The masses sum to 1 and 1.001: far more than rounding, and still the normalised value."""
    policy, target = xp.array([0.2, 0.3, 0.5]), xp.array([0.25, 0.3, 0.451])
    pair = [oracles.normalised(to_numpy(x)) for x in (policy, target)]
    for name, divergence in DIVERGENCES.items():
        value = float(exact_divergence_from_probabilities(policy, target, divergence=divergence))
        expected = float(oracles.divergence(name, *pair))
        # The logarithm of 1.001 carries eps / 2 into ratios of 0.1.
        assert value == pytest.approx(expected, rel=40 * xp.eps), name


SMOOTH = [name for name, record in DIVERGENCES.items() if record.curvature is not None]


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_of_the_linear_sum(name):
    """d D / d pi = (g'(pi/p) - E_pi[g']) / sum pi, also at the bounds of the series and at ties."""
    target = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    policy = torch.tensor([0.15, 0.05, 0.3, 0.5], dtype=torch.float64, requires_grad=True)
    divergence = DIVERGENCES[name]
    value = exact_divergence_from_probabilities(policy, target, divergence=divergence)
    (gradient,) = torch.autograd.grad(value, policy)
    with torch.no_grad():
        signal = divergence.signal(log_ratio(policy, target))
        expected = signal - (policy * signal).sum()
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)


def test_gradients_at_zeros_are_never_nan():
    policy = torch.tensor([0.5, 0.5, 0.0, 0.0], requires_grad=True)
    target = torch.tensor([0.25, 0.25, 0.5, 0.0], requires_grad=True)
    for divergence in DIVERGENCES.values():
        for pair in ((policy, target), (target, policy)):
            value = exact_divergence_from_probabilities(*pair, divergence=divergence)
            assert not torch.isnan(value)
            for slope in torch.autograd.grad(value, pair):
                assert not torch.isnan(slope).any(), divergence.name


@pytest.mark.filterwarnings("ignore:Dynamo detected")  # the cache of array_api_compat's look-up
def test_one_traced_function_serves_every_divergence():
    """A dispatch by identity is not guarded by dynamo: every later record got forward KL."""
    torch.compiler.reset()
    pair = [torch.softmax(torch.arange(5.0) * s, 0) for s in (0.3, -0.2)]

    def evaluate(divergence):
        return exact_divergence_from_probabilities(*pair, divergence=divergence)

    traced = torch.compile(evaluate, fullgraph=True, backend="eager")
    for name in ("forward_kl", "jensen_shannon", "reverse_kl", "total_variation"):
        divergence = DIVERGENCES[name]
        torch.testing.assert_close(traced(divergence), evaluate(divergence))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected")  # the cache of array_api_compat's look-up
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside the compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_sums_keep_their_digits():
    rng = np.random.default_rng(2)
    target = rng.dirichlet(np.ones(50))
    policy = target * (1 + 1e-8 * rng.standard_normal(50))
    for divergence in (FORWARD_KL, REVERSE_KL):

        @torch.compile(fullgraph=True)
        def evaluate(q, p, divergence=divergence):
            return exact_divergence_from_probabilities(q, p, divergence=divergence)

        value = evaluate(torch.from_numpy(policy), torch.from_numpy(target)).item()
        exact = oracles.divergence(divergence.name, *map(oracles.normalised, (policy, target)))
        assert value == pytest.approx(float(exact), rel=1e-14)
