"""The gradient from the definition of D_f alone: the judge of every estimator.

The judge shares no code with what it judges. Generators are the textbook formulas, the sum is the
definition D = sum_{p>0} p f(pi/p) + f'(inf) pi({p=0}), and the derivative is a complex step,
Im D(theta + i h) / h with h = 1e-30, which subtracts nothing and is exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from toy.families import Family, GaussianFamily, SoftmaxFamily, TiltFamily
from toy.sequences import TabularFamily

if TYPE_CHECKING:
    from jaxtyping import Complex, Float

_STEP = 1e-30
# Points on the circle of a Cauchy integral whose radius is half the distance to the next
# singularity: the error is 2^-64.
_CIRCLE = np.exp(2j * np.pi * np.arange(64) / 64)

# f by name, each analytic off the kink of total variation: abs(t - 1) is written by its sign.
GENERATORS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {
        "forward_kl": lambda t: -np.log(t),
        "reverse_kl": lambda t: t * np.log(t),
        "total_variation": lambda t: np.sign(np.real(t) - 1) * (t - 1) / 2,
        "jensen_shannon": lambda t: (t * np.log(2 * t / (t + 1)) + np.log(2 / (t + 1))) / 2,
        "pearson_chi2": lambda t: (t - 1) ** 2,
        "neyman_chi2": lambda t: (1 - t) ** 2 / t,
        "squared_hellinger": lambda t: (np.sqrt(t) - 1) ** 2,
        "jeffreys": lambda t: (t - 1) * np.log(t),
        "le_cam": lambda t: (t - 1) ** 2 / (t + 1),
    }
)

# f'(inf), the price of policy mass outside the target, for the textbook f above.
SLOPES: Mapping[str, float] = MappingProxyType(
    {
        "forward_kl": 0.0,
        "reverse_kl": np.inf,
        "total_variation": 0.5,
        "jensen_shannon": np.log(2) / 2,
        "pearson_chi2": np.inf,
        "neyman_chi2": 1.0,
        "squared_hellinger": 1.0,
        "jeffreys": np.inf,
        "le_cam": 1.0,
    }
)


def slope(name: str, t: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return f'(t) of the textbook generator, not normalised, by a complex step; 0 at a kink.

    Parameters
    ----------
    name : str
        A key of `GENERATORS`.
    t : array
        Positive ratios.

    Returns
    -------
    array
        Exact to rounding.
    """
    return np.imag(GENERATORS[name](t + 1j * _STEP)) / _STEP


def slope_at_one(name: str) -> float:
    """Return f'(1) of the textbook generator, which its normalisation takes away."""
    return float(slope(name, np.ones(1))[0])


def curvature(name: str, t: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return f''(t) of the textbook generator, by Cauchy's integral around t.

    Parameters
    ----------
    name : str
        A key of `GENERATORS`.
    t : array
        Positive ratios other than 1, where a generator may have a kink.

    Returns
    -------
    array
        To about 1e-15 times f(t)/t^2 or f(t)/(t - 1)^2, whichever is larger.
    """
    radius = np.minimum(t, np.abs(t - 1)) / 2
    around = GENERATORS[name](t[..., None] + radius[..., None] * _CIRCLE)
    return 2 * np.real(np.mean(around / _CIRCLE**2, axis=-1)) / radius**2


def definition(
    policy: Float[np.ndarray, " k"] | Complex[np.ndarray, " k"],
    target: Float[np.ndarray, " k"],
    *,
    divergence: str,
) -> complex:
    """Return D_f(pi||p) from probabilities, by its definition and the textbook generator.

    Parameters
    ----------
    policy : (k,) real or complex array
        Probabilities, all of positive real part.
    target : (k,) array
        Probabilities; 0 is priced at f'(inf).
    divergence : str
        A key of `GENERATORS`.

    Returns
    -------
    complex
        The divergence in nats; its imaginary part carries the derivative in a complex step.
    """
    inside = target > 0
    within = np.sum(target[inside] * GENERATORS[divergence](policy[inside] / target[inside]))
    outside = SLOPES[divergence] * np.sum(policy[~inside]) if np.any(~inside) else 0.0
    return complex(within + outside)


def definition_gradient(
    family: Family,
    theta: Float[np.ndarray, " d"],
    target: Float[np.ndarray, " k"],
    *,
    divergence: str,
) -> Float[np.ndarray, " d"]:
    """Return grad_theta D_f(pi_theta||p) of the definition, by complex steps.

    Parameters
    ----------
    family : Family
        One of the families of the toy, whose probabilities are recomputed here.
    theta : (d,) array
        Parameters of the policy.
    target : (k,) array
        Probabilities.
    divergence : str
        A key of `GENERATORS`.

    Returns
    -------
    (d,) array
        The gradient in nats a unit of theta.
    """
    return gradient_of(
        family, theta, lambda policy: definition(policy, target, divergence=divergence)
    )


def gradient_of(
    family: Family,
    theta: Float[np.ndarray, " d"],
    value: Callable[[Complex[np.ndarray, " k"]], complex],
) -> Float[np.ndarray, " d"]:
    """Return the gradient in theta of any analytic function of the policy's probabilities.

    Parameters
    ----------
    family : Family
        One of the families of the toy.
    theta : (d,) array
        Parameters of the policy.
    value : callable
        From complex probabilities to a number, differentiated by complex steps.

    Returns
    -------
    (d,) array
        Exact to rounding.
    """
    steps = theta + 1j * _STEP * np.eye(len(theta))
    return np.imag([value(probabilities(family, moved)) for moved in steps]) / _STEP


def probabilities(family: Family, theta: np.ndarray) -> np.ndarray:
    """Return pi_theta at real or complex parameters, by formulas of this module's own.

    Raises
    ------
    TypeError
        For a family that has no independent formula here.
    """
    if isinstance(family, SoftmaxFamily):
        return _softmax(theta)
    if isinstance(family, TiltFamily):
        return _softmax(family.log_base + family.features @ theta)
    if isinstance(family, GaussianFamily):
        return _softmax(-((family.points - theta[0]) ** 2) / (2 * np.exp(2 * theta[1])))
    if isinstance(family, TabularFamily):
        return _chain(family, theta)
    raise TypeError(f"{type(family).__name__} has no formula in toy.oracle: add one")


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - np.max(np.real(logits)))
    return weights / np.sum(weights)


def _chain(family: TabularFamily, theta: np.ndarray) -> np.ndarray:
    rows = [_softmax(row) for row in family.table(theta)]
    tokens, mask, prefix, _ = family.sequences
    result = np.ones(len(tokens), dtype=theta.dtype)
    for index, position in np.argwhere(mask):
        result[index] *= rows[prefix[index, position]][tokens[index, position]]
    return result
