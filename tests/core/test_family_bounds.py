"""The stated bounds of alpha and skew Jensen-Shannon, over the points of the accuracy table."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from mpmath import mpf
from support.family_oracles import BOUNDS, relative_errors, textbook_alpha, textbook_skew

from benchmarks import accuracy
from fdpg_ref import FDivergence, alpha_divergence, skew_jensen_shannon

# The members named where the bounds are promised; alphas as stored floats.
ALPHAS = [-2.5, -1.0, -1e-6, 0.0, 1e-6, 1 / 3, 0.5, 0.999, 1.0, 2.0, 3.0]
WEIGHTS = [1e-3, 0.25, 0.5, 0.999]
SIZES = [60, pytest.param(10_000, marks=pytest.mark.slow)]
each_size = pytest.mark.parametrize("points", SIZES)
each_dtype = pytest.mark.parametrize("dtype", BOUNDS)


def kernel_errors(record: FDivergence, book, dtype: str, points: int) -> float:
    """Return the worst relative error of g and of the signal, where both are normal numbers."""
    rng, info = np.random.default_rng(1), np.finfo(dtype)
    low, high = (-30, 85) if dtype == "float32" else (-20, 700)
    size = np.exp(rng.uniform(low * math.log(10), math.log(high), points // 2))
    near = rng.uniform(-4, 4, points - points // 2)
    u = np.concatenate([size * rng.choice([-1, 1], size.size), near]).astype(dtype)
    worst = 0.0
    kernels = (record.generator, book.generator), (record.signal, book.signal)
    with mpmath.workdps(accuracy.DIGITS):
        for kernel, exact in kernels:
            for value, ratio in zip(kernel(u), u, strict=True):
                truth = exact(mpf(float(ratio)))
                if info.tiny <= abs(truth) <= info.max / 1e3:
                    worst = max(worst, float(abs(mpf(float(value)) / truth - 1)))
    return worst


@each_size
@each_dtype
@pytest.mark.parametrize("alpha", ALPHAS)
def test_alpha_keeps_its_bound(alpha: float, dtype: str, points: int):
    record, book = alpha_divergence(alpha), textbook_alpha(alpha)
    with np.errstate(over="ignore"):  # t^3 at 700 nats is infinite, and numpy says so
        assert kernel_errors(record, book, dtype, points) <= BOUNDS[dtype]
        error, where = relative_errors(record, book.generator, dtype, points)
    assert error <= BOUNDS[dtype], where


@each_size
@each_dtype
@pytest.mark.parametrize("weight", WEIGHTS)
def test_skew_keeps_its_bound(weight: float, dtype: str, points: int):
    record, book = skew_jensen_shannon(weight), textbook_skew(weight)
    assert kernel_errors(record, book, dtype, points) <= BOUNDS[dtype]
    error, where = relative_errors(record, book.generator, dtype, points)
    assert error <= BOUNDS[dtype], where
