"""The record of an f-divergence, and how two kernels for finite arguments become one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from array_api_compat import array_namespace

from fdpg_ref import numerics
from fdpg_ref._internal import checks
from fdpg_ref._internal.typing import Array


@dataclass(frozen=True, slots=True)
class FDivergence:
    """One f-divergence D_f(pi||p): what it is called, three stable kernels and its constants.

    Attributes
    ----------
    name : str
        Its key in `DIVERGENCES`.
    title : str
        What people call it, in tables, pictures and sentences.
    unit : str
        "nats" where the value is a sum of logarithms, empty where it is a pure number.
    generator : callable
        u -> g(e^u), elementwise, normalised to g(1) = g'(1) = 0.
    signal : callable
        u -> g'(e^u), elementwise: what multiplies the score in the gradient.
    density : callable
        (log_policy, log_target) -> p g(pi/p), elementwise, the edges pi = 0 and p = 0 included.
    value_at_zero : float
        g(0): the price of a unit of target mass that the policy misses.
    slope_at_infinity : float
        g'(inf): the price of a unit of policy mass outside the target.
    curvature : float or None
        g''(1), None where g has a kink: near p, D is this times the KL divergence.
    z_power : float or None
        The k for which an estimate Zhat of Z multiplies the gradient by (Zhat/Z)^k. It exists for
        the alpha family only, where it is alpha - 1; None: no such power is known.
    """

    name: str
    title: str
    unit: str
    generator: Callable[[Array], Array]
    signal: Callable[[Array], Array]
    density: Callable[[Array, Array], Array]
    value_at_zero: float
    slope_at_infinity: float
    curvature: float | None
    z_power: float | None

    @property
    def upper_bound(self) -> float:
        """The largest value, g(0) + g'(inf): that of a policy and a target that share nothing."""
        return self.value_at_zero + self.slope_at_infinity


def build_divergence(
    name: str,
    *,
    title: str,
    unit: str = "",
    signal: Callable[[Array], Array],
    density: Callable[[Array, Array], Array],
    value_at_zero: float,
    slope_at_infinity: float,
    curvature: float | None,
    z_power: float | None = None,
) -> FDivergence:
    """Complete a record from its two kernels for finite arguments: add edges and generator."""

    def density_with_edges(log_policy: Array, log_target: Array) -> Array:
        return _density_with_edges(
            density, value_at_zero, slope_at_infinity, log_policy, log_target
        )

    def generator(u: Array) -> Array:
        # g(e^u) is the density at p = 1. Every generator grows without bound, hence g(inf) = inf.
        xp = array_namespace(u)
        endless = u == inf
        finite = xp.where(endless, xp.zeros_like(u), u)
        return xp.where(endless, xp.full_like(u, inf), density_with_edges(finite, xp.zeros_like(u)))

    return FDivergence(
        name=name,
        title=title,
        unit=unit,
        generator=generator,
        signal=signal,
        density=density_with_edges,
        value_at_zero=value_at_zero,
        slope_at_infinity=slope_at_infinity,
        curvature=curvature,
        z_power=z_power,
    )


def _density_with_edges(
    kernel: Callable[[Array, Array], Array],
    value_at_zero: float,
    slope_at_infinity: float,
    log_policy: Array,
    log_target: Array,
) -> Array:
    xp = checks.namespace(log_policy=log_policy, log_target=log_target)
    limit = xp.full_like(log_policy, numerics.largest_exponent(log_policy))
    zero = xp.zeros_like(log_policy)

    # Densities beyond the largest float would give inf - inf or 0 * inf in the kernels.
    huge = xp.maximum(log_policy, log_target) > limit
    empty = (log_policy == -inf) | (log_target == -inf)
    q, p = (xp.where(huge | empty, zero, x) for x in (log_policy, log_target))

    # At an edge one of the two masses is zero, and where neither can draw the outcome both are.
    edge = _edge_mass(xp, xp.minimum(log_target, limit), value_at_zero)
    edge = edge + _edge_mass(xp, xp.minimum(log_policy, limit), slope_at_infinity)

    value = xp.where(empty, edge, kernel(q, p))
    return xp.where(huge & (log_policy != log_target), xp.full_like(value, inf), value)


def _edge_mass(xp: Any, log_mass: Array, price: float) -> Array:
    """Return price * mass; an infinite price is written out, as exp(.) * inf breaks autograd."""
    mass = xp.exp(log_mass)
    if price == inf:
        return xp.where(log_mass > -inf, xp.full_like(mass, inf), mass)
    return price * mass
