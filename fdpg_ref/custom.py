"""User-defined f-divergences, checked to be f-divergences before they are used.

Callables take ``(x, xp)``: an array and its namespace, so that one definition serves every
library. The checks call them with Python floats and ``xp = math``, which has log, exp, sqrt, expm1
and tanh under the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from math import exp, inf
from typing import Any

from array_api_compat import array_namespace

from fdpg_ref import numerics
from fdpg_ref._internal.quadrature import integral
from fdpg_ref._internal.typing import Array
from fdpg_ref._record import FDivergence, build_divergence

Formula = Callable[[Any, Any], Any]

_GRID = [s / 4 for s in range(-120, 121)]  # log-ratios at which convexity is checked: -30 to 30


def from_curvature(
    name: str,
    kappa: Formula,
    *,
    value_at_zero: float,
    slope_at_infinity: float,
) -> FDivergence:
    """Return the divergence whose generator has t^2 f''(t) = kappa(log t): exact also near t = 1.

    g'(e^u) = int_0^u kappa(s) e^-s ds and g(e^u) = int_0^u (e^(u-s) - 1) kappa(s) ds, integrands of
    one sign, by 8 panels of 40 Gauss-Legendre points. Nothing cancels, but each call costs 320
    evaluations of kappa.

    Parameters
    ----------
    name : str
        Its name in messages; underscores are spaces in tables and pictures.
    kappa : callable
        (s, xp) -> t^2 f''(t) at t = e^s, smooth and >= 0. 1 is forward KL, e^s reverse KL.
    value_at_zero, slope_at_infinity : float
        g(0) = int_-inf^0 kappa ds and g'(inf) = int_0^inf kappa e^-s ds; ``inf`` where they
        diverge.

    Returns
    -------
    FDivergence
        Accurate to about 1e-12 for |u| <= 300 where kappa varies by at most a factor e per nat.

    Raises
    ------
    ValueError
        Naming the point at which kappa is negative or NaN, or the edge constant that does not fit.
    """
    # Refuse what is not an f-divergence.
    for s in _GRID:
        if not kappa(s, math) >= 0:
            raise ValueError(
                f"{name} is not convex: t^2 f''(t) is {kappa(s, math):g} at t = {exp(s):g}, and a "
                "generator needs f'' >= 0"
            )
    _check_edge(
        name,
        "value_at_zero",
        value_at_zero,
        lambda u: integral(lambda s: kappa(-s, math), u, 0.0),
    )
    _check_edge(
        name,
        "slope_at_infinity",
        slope_at_infinity,
        lambda u: integral(lambda s: kappa(s, math) * exp(-s), u, 0.0),
    )

    def signal(u: Array) -> Array:
        xp = array_namespace(u)
        return integral(lambda s: kappa(s, xp) * numerics.exp(-s), u, u * 0)

    def density(q: Array, p: Array) -> Array:
        # e^p (e^(u-s) - 1) as e^max (1 - e^-|u-s|) does not overflow where p is tiny.
        xp = array_namespace(q, p)

        def integrand(s: Array) -> Array:
            height = xp.where(q > p, q - s, p)
            return numerics.exp(height) * abs(numerics.expm1(-abs(q - p - s))) * kappa(s, xp)

        return abs(integral(integrand, q - p, q * 0))

    return build_divergence(
        name,
        title=name.replace("_", " "),
        signal=signal,
        density=density,
        value_at_zero=value_at_zero,
        slope_at_infinity=slope_at_infinity,
        curvature=float(kappa(0.0, math)),
    )


def from_generator(
    name: str,
    formula: Formula,
    derivative: Formula,
    *,
    value_at_zero: float,
    slope_at_infinity: float,
    curvature: float | None,
) -> FDivergence:
    """Return the divergence of a textbook f, normalised to g = f - f(1) - f'(1) (t - 1).

    Near t = 1 the normalisation cancels: the generator has an absolute error near 1e-16 where its
    value is u^2/2, a relative error of 1e-4 at u = 1e-6. `from_curvature` has no such loss.

    Parameters
    ----------
    name : str
        Its name in messages; underscores are spaces in tables and pictures.
    formula, derivative : callable
        (t, xp) -> f(t) and f'(t), for t > 0; f convex with f(1) = 0.
    value_at_zero, slope_at_infinity : float
        g(0) and g'(inf) of the *normalised* generator; ``inf`` where they diverge.
    curvature : float or None
        f''(1); None where f has a kink there.

    Returns
    -------
    FDivergence
        For log-ratios at which f(t) does not overflow.

    Raises
    ------
    ValueError
        Naming the point at which f is not convex or f' is not its derivative, f(1) if it is not
        zero, or the constant that does not fit.
    """
    # Refuse what is not an f-divergence.
    at_one, slope_at_one = formula(1.0, math), derivative(1.0, math)
    if not abs(at_one) <= 1e-12:
        raise ValueError(f"{name} has f(1) = {at_one:g}: an f-divergence needs f(1) = 0")
    _check_convex(name, formula, derivative)
    _check_curvature(name, derivative, curvature)

    def normalised(t: Any, xp: Any) -> Any:
        return formula(t, xp) - at_one - slope_at_one * (t - 1)

    _check_edge(name, "value_at_zero", value_at_zero, lambda u: normalised(exp(-u), math))
    _check_edge(
        name,
        "slope_at_infinity",
        slope_at_infinity,
        lambda u: derivative(exp(u), math) - slope_at_one,
    )

    def density(q: Array, p: Array) -> Array:
        xp = array_namespace(q, p)
        # g >= 0 by convexity: what rounding leaves below zero is zero.
        value = normalised(numerics.exp(q - p), xp)
        return numerics.exp(p) * xp.where(value < 0, xp.zeros_like(value), value)

    return build_divergence(
        name,
        title=name.replace("_", " "),
        signal=lambda u: derivative(numerics.exp(u), array_namespace(u)) - slope_at_one,
        density=density,
        value_at_zero=value_at_zero,
        slope_at_infinity=slope_at_infinity,
        curvature=curvature,
    )


def _check_convex(name: str, formula: Formula, derivative: Formula) -> None:
    for s, larger in pairwise(_GRID):
        t, right = exp(s), exp(larger)
        below, above = derivative(t, math), derivative(right, math)
        start, end = formula(t, math), formula(right, math)
        slope = (end - start) / (right - t)
        # f to 16 digits, divided by the step, and f' to 6, so that rough derivatives pass.
        rounding = 1e-15 * (abs(start) + abs(end)) / (right - t)
        rounding += 1e-6 * (1 + abs(below) + abs(above))
        if not below <= above + rounding:
            raise ValueError(
                f"{name} is not convex: f' falls from {below:g} at t = {t:g} to {above:g} at "
                f"t = {right:g}"
            )
        if not below - rounding <= slope <= above + rounding:
            raise ValueError(
                f"the derivative of {name} is not that of f: between t = {t:g} and {right:g}, f "
                f"rises by {slope:g} a unit, outside [{below:g}, {above:g}]"
            )


def _check_curvature(name: str, derivative: Formula, curvature: float | None) -> None:
    step = 1e-4
    below, above = derivative(1 - step, math), derivative(1 + step, math)
    found = (above - below) / (2 * step)
    # A kink makes the quotient grow like 1/step; a curvature moves it by order step^2 only.
    if curvature is not None and not abs(found - curvature) <= 1e-3 * (1 + abs(curvature)):
        raise ValueError(
            f"the curvature of {name} is given as {curvature:g}, but f' rises by {found:g} a unit "
            "around t = 1 (None stands for a kink)"
        )


def _check_edge(name: str, which: str, claimed: float, partial: Callable[[float], float]) -> None:
    """Compare a constant with the value reached at 150 and 300 nats from t = 1."""
    near, far = _or_inf(partial, 150.0), _or_inf(partial, 300.0)
    grows = far == inf or far > near * (1 + 1e-3)
    fits = grows if claimed == inf else abs(far - claimed) <= 1e-6 * max(1, abs(claimed))
    if not fits:
        raise ValueError(
            f"{which} of {name} is given as {claimed:g}, but at 150 and 300 nats from t = 1 the "
            f"normalised generator gives {near:g} and {far:g}"
        )


def _or_inf(partial: Callable[[float], float], nats: float) -> float:
    """Return the partial value; Python's math raises where an array would overflow to inf."""
    try:
        return partial(nats)
    except OverflowError:
        return inf
