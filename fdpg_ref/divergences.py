"""The table of f-divergences D_f(pi||p), each by its normalised generator g.

A divergence D_f(pi||p) = sum_{p>0} p f(pi/p) + f'(inf) pi({p=0}) does not change when c (t - 1) is
added to f. The project represents each by g(t) = f(t) - f(1) - f'(1) (t - 1), for which g >= 0 and
g(1) = g'(1) = 0. So D is a sum of nonnegative terms (it cannot go negative), and the gradient's
signal g'(pi/p) vanishes where the policy meets the target.

Notation: u = log pi - log p and t = e^u; the policy is always the first argument; units are nats.
Definitions and edge constants: Liese and Vajda (2006), doi 10.1109/TIT.2006.881731; the gradient:
Go et al. (2023), arXiv 2302.08215, Theorem 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, log
from types import MappingProxyType
from typing import Any

from array_api_compat import array_namespace

from fdpg_ref import _checks, numerics
from fdpg_ref._typing import Array


@dataclass(frozen=True, slots=True)
class FDivergence:
    """One f-divergence D_f(pi||p): three stable kernels and three constants.

    Attributes
    ----------
    name : str
        Its key in `DIVERGENCES`.
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
    """

    name: str
    generator: Callable[[Array], Array]
    signal: Callable[[Array], Array]
    density: Callable[[Array, Array], Array]
    value_at_zero: float
    slope_at_infinity: float
    curvature: float | None


def _divergence(
    name: str,
    *,
    signal: Callable[[Array], Array],
    density: Callable[[Array, Array], Array],
    value_at_zero: float,
    slope_at_infinity: float,
    curvature: float | None,
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
        name, generator, signal, density_with_edges, value_at_zero, slope_at_infinity, curvature
    )


def _density_with_edges(
    kernel: Callable[[Array, Array], Array],
    value_at_zero: float,
    slope_at_infinity: float,
    log_policy: Array,
    log_target: Array,
) -> Array:
    xp = _checks.namespace(log_policy=log_policy, log_target=log_target)
    no_policy, no_target = log_policy == -inf, log_target == -inf
    edge = no_policy | no_target
    zero = xp.zeros_like(log_policy)
    inside = kernel(xp.where(edge, zero, log_policy), xp.where(edge, zero, log_target))
    inside = xp.where(no_policy, _edge_mass(xp, log_target, value_at_zero), inside)
    inside = xp.where(no_target, _edge_mass(xp, log_policy, slope_at_infinity), inside)
    return xp.where(no_policy & no_target, zero, inside)


def _edge_mass(xp: Any, log_mass: Array, price: float) -> Array:
    """Return price * mass; an infinite price is written out, as exp(.) * inf breaks autograd."""
    if price == inf:
        return xp.where(xp.isnan(log_mass), log_mass, xp.full_like(log_mass, inf))
    return price * xp.exp(log_mass)


FORWARD_KL = _divergence(
    "forward_kl",  # f(t) = -log t: KL(p||pi), which DPG and GDC descend
    signal=numerics.forward_kl_signal,
    density=numerics.forward_kl_density,
    value_at_zero=inf,
    slope_at_infinity=1.0,
    curvature=1.0,
)
REVERSE_KL = _divergence(
    "reverse_kl",  # f(t) = t log t: KL(pi||p), which RL with a KL penalty descends
    signal=numerics.reverse_kl_signal,
    density=numerics.reverse_kl_density,
    value_at_zero=1.0,
    slope_at_infinity=inf,
    curvature=1.0,
)
TOTAL_VARIATION = _divergence(
    "total_variation",  # f(t) = abs(t - 1) / 2
    signal=numerics.total_variation_signal,
    density=numerics.total_variation_density,
    value_at_zero=0.5,
    slope_at_infinity=0.5,
    curvature=None,
)
JENSEN_SHANNON = _divergence(
    # f(t) = [t log(2t/(t+1)) + log(2/(t+1))] / 2: the textbook scale, at most log 2, so that it
    # equals scipy's jensenshannon**2. Table 1 of Go et al. uses twice this generator.
    "jensen_shannon",
    signal=numerics.jensen_shannon_signal,
    density=numerics.jensen_shannon_density,
    value_at_zero=log(2.0) / 2,
    slope_at_infinity=log(2.0) / 2,
    curvature=0.25,
)
PEARSON_CHI2 = _divergence(
    "pearson_chi2",  # f(t) = (t - 1)^2
    signal=numerics.pearson_chi2_signal,
    density=numerics.pearson_chi2_density,
    value_at_zero=1.0,
    slope_at_infinity=inf,
    curvature=2.0,
)
NEYMAN_CHI2 = _divergence(
    "neyman_chi2",  # f(t) = (1 - t)^2 / t
    signal=numerics.neyman_chi2_signal,
    density=numerics.neyman_chi2_density,
    value_at_zero=inf,
    slope_at_infinity=1.0,
    curvature=2.0,
)
SQUARED_HELLINGER = _divergence(
    "squared_hellinger",  # f(t) = (sqrt(t) - 1)^2
    signal=numerics.squared_hellinger_signal,
    density=numerics.squared_hellinger_density,
    value_at_zero=1.0,
    slope_at_infinity=1.0,
    curvature=0.5,
)
JEFFREYS = _divergence(
    "jeffreys",  # f(t) = (t - 1) log t: forward plus reverse KL
    signal=numerics.jeffreys_signal,
    density=numerics.jeffreys_density,
    value_at_zero=inf,
    slope_at_infinity=inf,
    curvature=2.0,
)
LE_CAM = _divergence(
    "le_cam",  # f(t) = (t - 1)^2 / (t + 1): the triangular discrimination
    signal=numerics.le_cam_signal,
    density=numerics.le_cam_density,
    value_at_zero=1.0,
    slope_at_infinity=1.0,
    curvature=1.0,
)

DIVERGENCES: Mapping[str, FDivergence] = MappingProxyType(
    {
        record.name: record
        for record in (
            FORWARD_KL,
            REVERSE_KL,
            TOTAL_VARIATION,
            JENSEN_SHANNON,
            PEARSON_CHI2,
            NEYMAN_CHI2,
            SQUARED_HELLINGER,
            JEFFREYS,
            LE_CAM,
        )
    }
)

_EXCHANGED = {"forward_kl": REVERSE_KL, "pearson_chi2": NEYMAN_CHI2}
_DUALS = _EXCHANGED | {record.name: DIVERGENCES[name] for name, record in _EXCHANGED.items()}


def dual(divergence: FDivergence) -> FDivergence:
    """Return the divergence with its arguments exchanged: D_dual(p||pi) = D_f(pi||p).

    Its generator is t g(1/t). Forward and reverse KL are dual to each other, and so are the two
    chi-squared divergences; the other five of the table are their own duals.

    Parameters
    ----------
    divergence : FDivergence
        A record of `DIVERGENCES`, or any other.

    Returns
    -------
    FDivergence
        The dual; of a record outside the table, one named ``dual(name)`` whose signal
        g(1/t) - g'(1/t)/t is composed from the given kernels.
    """
    if DIVERGENCES.get(divergence.name) is divergence:
        return _DUALS.get(divergence.name, divergence)

    def signal(u: Array) -> Array:
        xp = array_namespace(u)
        return divergence.generator(-u) - xp.exp(-u) * divergence.signal(-u)

    return _divergence(
        f"dual({divergence.name})",
        signal=signal,
        density=lambda q, p: divergence.density(p, q),
        value_at_zero=divergence.slope_at_infinity,
        slope_at_infinity=divergence.value_at_zero,
        curvature=divergence.curvature,
    )
