"""torch differentiates the kernels: right where they are smooth, never NaN where they are not."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from support.strategies import log_prob_pairs, ordinary_pairs

from fdpg_ref import DIVERGENCES, FDivergence, exact_divergence, score_signal

INF = math.inf
# Both sides of every branch (|u| = 1, 2, 2.5; u = -1), and none on a kink of a kernel.
SMOOTH = [-9.0, -2.6, -2.2, -1.3, -0.6, -0.02, 0.03, 0.7, 1.4, 2.3, 2.9, 8.0]
EXTREME = [-INF, -2000.0, -700.0, -1.0, 0.0, 1.0, 2.0, 700.0, 2000.0]


@pytest.fixture(params=list(DIVERGENCES.values()), ids=list(DIVERGENCES))
def divergence(request: pytest.FixtureRequest) -> FDivergence:
    return request.param


def tensor(values, **options) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, **options)


def test_derivative_of_the_generator_is_the_signal_times_t(divergence):
    u = tensor(SMOOTH, requires_grad=True)
    (slope,) = torch.autograd.grad(divergence.generator(u).sum(), u)
    expected = divergence.signal(u) * torch.exp(u)
    # The branch that is differentiated is itself a difference at |u| = 0.02: 1e-12 of it is lost.
    np.testing.assert_allclose(slope.numpy(), expected.detach().numpy(), rtol=1e-10)


def test_first_and_second_derivatives_of_the_density(divergence):
    log_policy = tensor(np.array(SMOOTH) - 3.0, requires_grad=True)
    log_target = tensor(np.linspace(-4, -2, len(SMOOTH)), requires_grad=True)
    arguments = (divergence.density, (log_policy, log_target))
    assert torch.autograd.gradcheck(*arguments)
    if divergence.curvature is not None:  # total variation is linear up to its kink
        assert torch.autograd.gradgradcheck(*arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_at_extremes_are_never_nan(divergence, dtype):
    u = torch.tensor([*EXTREME, INF], dtype=dtype, requires_grad=True)
    for kernel in (divergence.generator, divergence.signal):
        (slope,) = torch.autograd.grad(kernel(u).sum(), u)
        assert not torch.isnan(slope).any(), (kernel, slope)


def test_density_gradients_at_every_kind_of_edge_are_never_nan(divergence):
    """62 of 64 gradients were NaN when infinite edges were written as exp(.) * inf."""
    grid = torch.cartesian_prod(*[tensor([-INF, -2000.0, -700.0, -1.0, -1e-9, 0.0])] * 2)
    log_policy, log_target = (column.clone().requires_grad_() for column in grid.T)
    density = divergence.density(log_policy, log_target)
    slopes = torch.autograd.grad(density.sum(), (log_policy, log_target))
    assert not torch.isnan(density).any()
    for slope in slopes:
        assert not torch.isnan(slope).any()


@given(log_prob_pairs(holes=True))
def test_gradient_through_a_softmax_is_never_nan(pair):
    log_policy, log_target = map(tensor, pair)
    for divergence in DIVERGENCES.values():
        logits = log_policy.clone().requires_grad_()
        value = exact_divergence(torch.log_softmax(logits, -1), log_target, divergence=divergence)
        (gradient,) = torch.autograd.grad(value, logits)
        if math.isfinite(value.item()):
            assert not torch.isnan(gradient[log_policy > -INF]).any(), divergence.name


@given(ordinary_pairs())
def test_gradient_of_the_exact_value_is_the_mean_signal_times_score(pair):
    """The theorem, by autograd: grad D_f = E_pi[g'(pi/p) grad log pi], and no further term."""
    logits, log_target = map(tensor, pair)
    for divergence in DIVERGENCES.values():
        logits = logits.detach().requires_grad_()
        log_policy = torch.log_softmax(logits, -1)
        # At the kink of total variation, the last bit of the normalisation decides the sign.
        kinked = (log_policy - log_target).abs().min() < 1e-13
        if divergence.curvature is None and kinked:
            continue
        value = exact_divergence(log_policy, log_target, divergence=divergence)
        (gradient,) = torch.autograd.grad(value, logits)
        policy = log_policy.detach().exp()
        weighted = policy * score_signal(log_policy.detach(), log_target, divergence=divergence)
        expected = weighted - policy * weighted.sum()  # contracted with the softmax scores e_x - pi
        scale = weighted.abs().sum().item()
        np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-13 * scale)


def test_functional_transforms_see_plain_functions(divergence):
    u = tensor(SMOOTH)
    slopes = torch.func.vmap(torch.func.grad(divergence.generator))(u)
    np.testing.assert_allclose(slopes, divergence.signal(u) * torch.exp(u), rtol=1e-10)
    jacobian = torch.func.jacrev(divergence.signal)(u)
    assert torch.equal(jacobian, torch.diag(torch.diagonal(jacobian)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected")  # the cache of array_api_compat's look-up
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside the compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_kernels_keep_their_digits_at_tiny_log_ratios():
    """torch.compile emits expm1 as exp(x) - 1 on a CPU, all wrong at 1e-17: ours is no expm1."""
    u = tensor([-3.0, -1e-5, 1e-9, -1e-17, 1e-100, 0.7, 30.0])

    def everything(x: torch.Tensor) -> list[torch.Tensor]:
        signals = [divergence.signal(x) for divergence in DIVERGENCES.values()]
        return [*signals, DIVERGENCES["forward_kl"].generator(x)]

    # A C++ compiler may contract a*b + c into one rounding: a few ulp apart, no more.
    for compiled, eager in zip(
        torch.compile(everything, fullgraph=True)(u), everything(u), strict=True
    ):
        np.testing.assert_allclose(compiled, eager, rtol=2e-15, atol=1e-300)
