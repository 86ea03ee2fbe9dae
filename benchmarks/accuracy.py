"""Worst error of every kernel, in ulp, against 120-digit arithmetic.

The points are those of the accuracy table: |u| log-uniform in [1e-20, 700] (float32: [1e-30, 85])
with both signs, plus uniform in [-4, 4]; log p uniform in [-600, 0]; results in the normal range.
The reference is evaluated on the given floats, taken as exact. Run
``python -m benchmarks.accuracy``.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import mpmath
import numpy as np
from mpmath import mpf
from rich.console import Console
from rich.table import Table

from fdpg_ref import DIVERGENCES

# mpmath makes its number type at run time, so that no static name exists for it.
Real = Any
DIGITS = 120
FUNCTIONS = ("generator", "signal", "density")

# Largest error allowed, in ulp, by dtype and function.
BOUNDS = {
    ("float64", "generator"): 4.0,
    ("float64", "signal"): 3.0,
    ("float64", "density"): 6.0,
    ("float32", "generator"): 6.0,
    ("float32", "signal"): 4.0,
    ("float32", "density"): 10.0,
}
# p*g of the chi-squared pair has the exponent 2 lq - lp, and its bound is relative.
RELATIVE_BOUNDS = {"float64": 1e-12, "float32": 1e-4}
RELATIVE = ("pearson_chi2", "neyman_chi2")

_RANGE = {"float64": (1e-20, 700.0), "float32": (1e-30, 85.0)}
_SIGNIFICAND = {"float64": 53, "float32": 24}


class Worst(NamedTuple):
    """The largest error of one function of one divergence, and where it was found."""

    divergence: str
    dtype: str
    function: str
    points: int
    error: float
    bound: float
    unit: str
    argument: tuple[float, ...]
    value: float
    exact: float


class Parts(NamedTuple):
    """What all nine formulas share at one u: one exponential, one logarithm, one root."""

    u: Real
    t: Real
    root: Real
    mixture: Real  # log((1 + t) / 2)


# The plain formulas of the normalised generators g(t) and of g'(t): 120 digits forgive
# cancellation, which takes 60 of them at u = 1e-30 (g is of order u^2).
FORMULAS: dict[str, tuple[Callable[[Parts], Real], Callable[[Parts], Real]]] = {
    "forward_kl": (lambda x: x.t - 1 - x.u, lambda x: 1 - 1 / x.t),
    "reverse_kl": (lambda x: x.t * x.u - x.t + 1, lambda x: x.u),
    "total_variation": (lambda x: abs(x.t - 1) / 2, lambda x: mpmath.sign(x.u) / 2),
    "jensen_shannon": (
        lambda x: (x.t * (x.u - x.mixture) - x.mixture) / 2,
        lambda x: (x.u - x.mixture) / 2,
    ),
    "pearson_chi2": (lambda x: (x.t - 1) ** 2, lambda x: 2 * (x.t - 1)),
    "neyman_chi2": (lambda x: (x.t - 1) ** 2 / x.t, lambda x: 1 - x.t**-2),
    "squared_hellinger": (lambda x: (x.root - 1) ** 2, lambda x: 1 - 1 / x.root),
    "jeffreys": (lambda x: (x.t - 1) * x.u, lambda x: x.u + 1 - 1 / x.t),
    "le_cam": (lambda x: (x.t - 1) ** 2 / (x.t + 1), lambda x: 1 - 4 / (x.t + 1) ** 2),
}


def parts(u: Real) -> Parts:
    """Return the shared quantities of the nine formulas at ``u``."""
    root = mpmath.exp(u / 2)
    t = root * root
    return Parts(u, t, root, mpmath.log((1 + t) / 2))


def sweep(
    dtype: str,
    function: str,
    points: int,
    *,
    seed: int = 0,
    to_array: Callable[[np.ndarray], Any] = np.asarray,
) -> list[Worst]:
    """Return the worst error of one function of each divergence over at least ``points`` points.

    Parameters
    ----------
    dtype : {"float64", "float32"}
        The precision of inputs and results.
    function : {"generator", "signal", "density"}
        Which function of the record.
    points : int
        Points with a result in the normal range, for each divergence.
    seed : int
        Seed of the points.
    to_array : callable
        Turns a numpy array into one of the library under test.
    """
    rng = np.random.default_rng(seed)
    arguments = _pairs(rng, dtype) if function == "density" else _ratios(rng, dtype)
    with mpmath.workdps(DIGITS):
        return _compare(dtype, function, arguments, points, to_array)


def half_grid(function: str, *, stride: int = 1) -> list[Worst]:
    """Return the worst float32 error over every ``stride``-th finite value of the float16 grid.

    Generators end where e^u does: at u = 88.7 the density at p = 1 has no float32 exponential.
    """
    grid = np.arange(65536, dtype=np.uint16).view(np.float16)
    values = grid[np.isfinite(grid)].astype(np.float32)[::stride]
    if function == "generator":
        values = values[values < 88.7]
    with mpmath.workdps(DIGITS):
        return _compare("float32", function, ((v,) for v in values), None, np.asarray)


def _ratios(rng: np.random.Generator, dtype: str) -> Iterator[tuple[np.floating]]:
    while True:
        yield from ((u,) for u in _draw_ratios(rng, dtype, 1000))


def _pairs(rng: np.random.Generator, dtype: str) -> Iterator[tuple[np.floating, np.floating]]:
    """Yield (log_policy, log_target); pairs whose results all underflow are left out early."""
    info = np.finfo(dtype)
    while True:
        target = rng.uniform(-600, 0, 4000).astype(dtype)
        policy = (target + _draw_ratios(rng, dtype, 4000)).astype(dtype)
        u = policy.astype(np.float64) - target
        # Total variation is |expm1(u)| e^lp up to a factor of two: the largest of the nine near 0.
        magnitude = np.abs(u) + 1e-300
        log_size = target + np.log(-np.expm1(-magnitude)) + np.maximum(u, 0)
        keep = (log_size > np.log(info.tiny)) & (log_size < np.log(info.max))
        yield from zip(policy[keep], target[keep], strict=True)


def _draw_ratios(rng: np.random.Generator, dtype: str, count: int) -> np.ndarray:
    """Return log-ratios, half of them log-uniform with both signs, half uniform in [-4, 4]."""
    low, high = _RANGE[dtype]
    wide = np.exp(rng.uniform(np.log(low), np.log(high), count // 2))
    wide *= rng.choice([-1.0, 1.0], count // 2)
    narrow = rng.uniform(-4, 4, count - count // 2)
    return rng.permutation(np.concatenate([wide, narrow])).astype(dtype)


def _compare(
    dtype: str,
    function: str,
    arguments: Iterator[tuple[np.floating, ...]],
    points: int | None,
    to_array: Callable[[np.ndarray], Any],
) -> list[Worst]:
    """Evaluate the reference, one pass for all divergences, then each library function once."""
    info = np.finfo(dtype)
    kept: dict[str, list[tuple[tuple[np.floating, ...], Real]]] = {name: [] for name in DIVERGENCES}
    for argument in arguments:
        for name, exact in _exact(function, argument).items():
            if info.tiny <= abs(exact) <= info.max:
                kept[name].append((argument, exact))
        if points is not None and all(len(pairs) >= points for pairs in kept.values()):
            break
    return [
        _worst(name, dtype, function, *zip(*pairs, strict=True), to_array=to_array)
        for name, pairs in kept.items()
    ]


def _exact(function: str, argument: tuple[np.floating, ...]) -> dict[str, Real]:
    numbers = [mpf(float(a)) for a in argument]
    if function == "density":
        log_policy, log_target = numbers
        shared, scale = parts(log_policy - log_target), mpmath.exp(log_target)
        return {name: scale * formulas[0](shared) for name, formulas in FORMULAS.items()}
    shared = parts(numbers[0])
    which = FUNCTIONS.index(function)
    return {name: formulas[which](shared) for name, formulas in FORMULAS.items()}


def _worst(
    name: str,
    dtype: str,
    function: str,
    arguments: tuple[tuple[np.floating, ...], ...],
    exact: tuple[Real, ...],
    *,
    to_array: Callable[[np.ndarray], Any],
) -> Worst:
    columns = [to_array(np.array(column, dtype=dtype)) for column in zip(*arguments, strict=True)]
    values = np.asarray(getattr(DIVERGENCES[name], function)(*columns))

    # Every value against the exact one, in its unit.
    relative = function == "density" and name in RELATIVE
    measure = _relative_error if relative else _ulp_error
    digits = _SIGNIFICAND[dtype]
    errors = [measure(float(v), e, digits) for v, e in zip(values, exact, strict=True)]

    i = int(np.argmax(errors))
    bound = RELATIVE_BOUNDS[dtype] if relative else BOUNDS[dtype, function]
    return Worst(
        name,
        dtype,
        function,
        points=len(errors),
        error=errors[i],
        bound=bound,
        unit="relative" if relative else "ulp",
        argument=tuple(float(a) for a in arguments[i]),
        value=float(values[i]),
        exact=float(exact[i]),
    )


def _ulp_error(value: float, exact: Real, digits: int) -> float:
    if not math.isfinite(value):
        return math.inf
    # |exact| = m 2^k with m in [1/2, 1): its floats are 2^(k - digits) apart.
    _, exponent = mpmath.frexp(exact)
    return float(abs(mpf(value) - exact) * mpf(2) ** (digits - exponent))


def _relative_error(value: float, exact: Real, _: int) -> float:
    return float(abs((mpf(value) - exact) / exact)) if math.isfinite(value) else math.inf


def main(arguments: list[str] | None = None) -> int:
    """Print the worst error of each divergence, dtype and function; 1 if a bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--points", type=int, default=10_000, help="points a divergence and dtype")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    table = Table(title=f"Largest error over {options.points:,} points each")
    for heading in ("divergence", "dtype", "function", "points", "worst", "bound", "at"):
        table.add_column(heading)
    broken = 0
    for dtype, function in BOUNDS:
        for row in sweep(dtype, function, options.points, seed=options.seed):
            broken += row.error > row.bound
            style = "red" if row.error > row.bound else None
            worst = f"{row.error:.3g} {row.unit}"
            at = ", ".join(f"{a!r}" for a in row.argument)
            cells = (row.divergence, dtype, function, f"{row.points:,}", worst, f"{row.bound:g}")
            table.add_row(*cells, at, style=style)
    Console(width=140).print(table)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
