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

from collections.abc import Mapping
from math import inf, log
from types import MappingProxyType

from array_api_compat import array_namespace

from fdpg_ref import numerics
from fdpg_ref._internal.typing import Array
from fdpg_ref._record import FDivergence, build_divergence
from fdpg_ref.custom import from_curvature, from_generator
from fdpg_ref.families import alpha_divergence, skew_jensen_shannon

__all__ = [
    "DIVERGENCES",
    "FORWARD_KL",
    "JEFFREYS",
    "JENSEN_SHANNON",
    "LE_CAM",
    "NEYMAN_CHI2",
    "PEARSON_CHI2",
    "REVERSE_KL",
    "SQUARED_HELLINGER",
    "TOTAL_VARIATION",
    "FDivergence",
    "alpha_divergence",
    "dual",
    "find_divergence",
    "from_curvature",
    "from_generator",
    "skew_jensen_shannon",
]

FORWARD_KL = build_divergence(
    "forward_kl",  # f(t) = -log t: KL(p||pi), which DPG and GDC descend
    title="forward KL",
    unit="nats",
    signal=numerics.forward_kl_signal,
    density=numerics.forward_kl_density,
    value_at_zero=inf,
    slope_at_infinity=1.0,
    curvature=1.0,
    z_power=-1.0,
)
REVERSE_KL = build_divergence(
    "reverse_kl",  # f(t) = t log t: KL(pi||p), which RL with a KL penalty descends
    title="reverse KL",
    unit="nats",
    signal=numerics.reverse_kl_signal,
    density=numerics.reverse_kl_density,
    value_at_zero=1.0,
    slope_at_infinity=inf,
    curvature=1.0,
    z_power=0.0,
)
TOTAL_VARIATION = build_divergence(
    "total_variation",  # f(t) = abs(t - 1) / 2
    title="total variation",
    signal=numerics.total_variation_signal,
    density=numerics.total_variation_density,
    value_at_zero=0.5,
    slope_at_infinity=0.5,
    curvature=None,
)
JENSEN_SHANNON = build_divergence(
    # f(t) = [t log(2t/(t+1)) + log(2/(t+1))] / 2: the textbook scale, at most log 2, so that it
    # equals scipy's jensenshannon**2. Table 1 of Go et al. uses twice this generator.
    "jensen_shannon",
    title="Jensen–Shannon",
    unit="nats",
    signal=numerics.jensen_shannon_signal,
    density=numerics.jensen_shannon_density,
    value_at_zero=log(2.0) / 2,
    slope_at_infinity=log(2.0) / 2,
    curvature=0.25,
)
PEARSON_CHI2 = build_divergence(
    "pearson_chi2",  # f(t) = (t - 1)^2
    title="Pearson χ²",
    signal=numerics.pearson_chi2_signal,
    density=numerics.pearson_chi2_density,
    value_at_zero=1.0,
    slope_at_infinity=inf,
    curvature=2.0,
    z_power=1.0,
)
NEYMAN_CHI2 = build_divergence(
    "neyman_chi2",  # f(t) = (1 - t)^2 / t
    title="Neyman χ²",
    signal=numerics.neyman_chi2_signal,
    density=numerics.neyman_chi2_density,
    value_at_zero=inf,
    slope_at_infinity=1.0,
    curvature=2.0,
    z_power=-2.0,
)
SQUARED_HELLINGER = build_divergence(
    "squared_hellinger",  # f(t) = (sqrt(t) - 1)^2
    title="squared Hellinger",
    signal=numerics.squared_hellinger_signal,
    density=numerics.squared_hellinger_density,
    value_at_zero=1.0,
    slope_at_infinity=1.0,
    curvature=0.5,
    z_power=-0.5,
)
JEFFREYS = build_divergence(
    "jeffreys",  # f(t) = (t - 1) log t: forward plus reverse KL
    title="Jeffreys",
    unit="nats",
    signal=numerics.jeffreys_signal,
    density=numerics.jeffreys_density,
    value_at_zero=inf,
    slope_at_infinity=inf,
    curvature=2.0,
)
LE_CAM = build_divergence(
    "le_cam",  # f(t) = (t - 1)^2 / (t + 1): the triangular discrimination
    title="Le Cam",
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

_ALPHA = "alpha_"


def find_divergence(name: str) -> FDivergence:
    """Return the divergence that a configuration names.

    Parameters
    ----------
    name : str
        A key of `DIVERGENCES`, or ``alpha_A`` with a number A, such as ``alpha_0.5``.

    Returns
    -------
    FDivergence
        The record of the table, or `alpha_divergence` of that number.

    Raises
    ------
    ValueError
        If it is neither; the names of the table are given.

    Examples
    --------
    >>> from fdpg_ref import find_divergence
    >>> find_divergence("total_variation").slope_at_infinity
    0.5
    >>> find_divergence("alpha_0.5").value_at_zero
    2.0
    """
    if name in DIVERGENCES:
        return DIVERGENCES[name]
    try:
        if name.startswith(_ALPHA):
            return alpha_divergence(float(name.removeprefix(_ALPHA)))
    except ValueError as error:
        raise ValueError(f"divergence {name!r}: {_ALPHA} needs a finite number") from error
    known = ", ".join(sorted(DIVERGENCES))
    raise ValueError(f"divergence is {name!r}; there are: {known}, and {_ALPHA}A for any number A")


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
        The dual. For a record outside the table it is named ``dual(name)``, and its signal
        g(1/t) - g'(1/t)/t is composed from the given kernels, which cancels far below t = 1. For
        `alpha_divergence` and `skew_jensen_shannon`, call the function again with 1 - alpha or
        1 - weight instead.
    """
    if DIVERGENCES.get(divergence.name) is divergence:
        return _DUALS.get(divergence.name, divergence)

    def signal(u: Array) -> Array:
        xp = array_namespace(u)
        endless = u == inf
        v = -xp.where(endless, xp.zeros_like(u), u)
        inside = divergence.generator(v) - numerics.exp(v) * divergence.signal(v)
        return xp.where(endless, xp.full_like(u, divergence.value_at_zero), inside)

    return build_divergence(
        f"dual({divergence.name})",
        title=f"dual of {divergence.title}",
        unit=divergence.unit,
        signal=signal,
        density=lambda q, p: divergence.density(p, q),
        value_at_zero=divergence.slope_at_infinity,
        slope_at_infinity=divergence.value_at_zero,
        curvature=divergence.curvature,
        # alpha goes to 1 - alpha, and the power is alpha - 1.
        z_power=None if divergence.z_power is None else -1 - divergence.z_power,
    )
