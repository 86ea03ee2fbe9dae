"""Accuracy of the kernels in ulp against 120-digit arithmetic, at the accuracy table's points.

The sweep and its reference live in benchmarks/accuracy.py, so that it prints, as a script, what is
asserted here. The reference itself is held to the textbook formulas of oracles.py.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from support import oracles

from benchmarks import accuracy
from fdpg_ref import DIVERGENCES

# (points, generator bound in ulp): 1,000 points in every run, the stated 10,000 in the slow tier.
SIZES = [1_000, pytest.param(10_000, marks=pytest.mark.slow)]


def assert_within_bounds(rows: list[accuracy.Worst], least_points: int) -> None:
    assert [row.divergence for row in rows] == list(DIVERGENCES)
    assert min(row.points for row in rows) >= least_points
    broken = [row for row in rows if not row.error <= row.bound]
    assert not broken, "\n".join(map(str, broken))


@pytest.mark.parametrize("points", SIZES)
@pytest.mark.parametrize("function", accuracy.FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_worst_ulp_of_the_nine_divergences(dtype, function, points):
    assert_within_bounds(accuracy.sweep(dtype, function, points), points)


@pytest.mark.parametrize("function", accuracy.FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_torch_kernels_keep_the_same_bounds(dtype, function):
    rows = accuracy.sweep(dtype, function, 1_000, seed=1, to_array=torch.from_numpy)
    assert_within_bounds(rows, 1_000)


# Of the 63,488 finite values of float16, more than 40,000 give a result in float32's normal range.
# The stride of 37 is odd, so that every exponent and every last bit is met.
@pytest.mark.parametrize("stride", [37, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("function", ["generator", "signal"])
def test_float32_over_the_half_precision_grid(function, stride):
    assert_within_bounds(accuracy.half_grid(function, stride=stride), 40_000 // stride)


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_the_half_precision_grid_gives_neither_nan_nor_negative_values(name):
    grid = np.arange(65536, dtype=np.uint16).view(np.float16)
    values = grid[np.isfinite(grid)].astype(np.float32)
    # An honest product, such as u (e^u - 1) at u = 88, may overflow with numpy's usual warning.
    with np.errstate(over="ignore"):
        generator, signal = DIVERGENCES[name].generator(values), DIVERGENCES[name].signal(values)
    assert np.all(generator >= 0)
    assert np.all(signal * np.sign(values) >= 0)


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_the_fast_reference_agrees_with_the_textbook(name):
    book = oracles.TEXTBOOK[name]
    generator, signal = accuracy.FORMULAS[name]
    for u in (-30.5, -2.0, -1e-3, 0.4, 1.7, 41.0):
        with mpmath.workdps(accuracy.DIGITS):
            shared = accuracy.parts(mpmath.mpf(u))
            assert mpmath.almosteq(generator(shared), book.generator(u), rel_eps=1e-50)
            # mpmath.diff steps by a fraction of the working precision: half the digits remain.
            assert mpmath.almosteq(signal(shared), book.signal(u), rel_eps=1e-40)


def test_the_ulp_measure_sees_one_last_bit():
    exact = mpmath.mpf(3) / 4
    assert accuracy._ulp_error(np.nextafter(0.75, 1), exact, 53) == 1.0
    assert accuracy._ulp_error(float("nan"), exact, 53) == float("inf")
