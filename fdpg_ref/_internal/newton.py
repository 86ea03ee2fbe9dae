"""Damped Newton on the convex dual of a maximum-entropy problem.

With z(x) the features less the requested moments, psi(nu) = log E_a exp(nu . z) is convex, has
gradient E_p[z] and Hessian Cov_p[z] under p ~ a exp(nu . z), and is minimal where E_p[z] = 0. It is
unbounded below exactly if some direction nu has nu . z <= 0 on the whole support of a: then every p
of the family has E_p[nu . z] < 0, and that direction is the proof.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from array_api_compat import array_namespace

from fdpg_ref._internal import checks
from fdpg_ref._internal.typing import Array
from fdpg_ref.numerics import log_softmax, logsumexp

if TYPE_CHECKING:
    from jaxtyping import Float


class DualPoint(NamedTuple):
    """psi, its gradient and its Hessian at ``nu``."""

    nu: Array
    value: float
    gradient: Array
    hessian: Array


class Separated(Exception):
    """Raised with a direction along which no outcome of the support lies above zero."""

    def __init__(self, direction: Array) -> None:
        super().__init__("a separating direction exists")
        self.direction = direction


def minimise_dual(
    log_base: Float[Array, " n"],
    z: Float[Array, "n r"],
    *,
    tolerance: float,
    max_iterations: int,
) -> tuple[DualPoint, tuple[float, ...], tuple[float, ...]]:
    """Return the minimiser of psi, and psi with its largest slope on the way there.

    Parameters
    ----------
    log_base : (n,) array, nats
        Normalised log-probabilities; -inf is outside the support.
    z : (n, r) array
        Centred features, of unit spread and linearly independent on the support; 0 outside it.
    tolerance : float
        Stop when no component of the gradient is larger.
    max_iterations : int
        Newton steps at most.

    Returns
    -------
    tuple of DualPoint, tuple of float and tuple of float
        The last point; the dual values and the largest components of the gradient (the moment
        errors, in spreads of the features), the start included.

    Raises
    ------
    Separated
        If psi is unbounded below.
    MultipliersNotConverged
        If the gradient is still larger than the tolerance after ``max_iterations``.
    """
    xp = array_namespace(log_base, z)
    point = _evaluate(xp, log_base, z, xp.zeros_like(z[0, :]))
    values, errors = [point.value], [_largest(xp, point.gradient)]

    for _ in range(max_iterations):
        if errors[-1] <= tolerance:
            return point, tuple(values), tuple(errors)
        _raise_if_separated(xp, log_base, z, point.nu)
        point = _damped_step(xp, log_base, z, point)
        values.append(point.value)
        errors.append(_largest(xp, point.gradient))

    if errors[-1] <= tolerance:
        return point, tuple(values), tuple(errors)
    raise checks.MultipliersNotConverged(
        f"after {max_iterations} Newton steps the largest moment error is still "
        f"{_largest(xp, point.gradient):.3g} spreads of the features (tolerance {tolerance:.3g}): "
        "the moments may lie on the edge of what the features can reach; ask for less extreme ones"
    )


def _evaluate(xp: Any, log_base: Array, z: Array, nu: Array) -> DualPoint:
    log_score = log_base + z @ nu
    p = xp.exp(log_softmax(log_score))[:, None]
    gradient = xp.sum(p * z, axis=0)
    centred = z - gradient
    return DualPoint(nu, float(logsumexp(log_score)), gradient, (p * centred).T @ centred)


def _damped_step(xp: Any, log_base: Array, z: Array, point: DualPoint) -> DualPoint:
    """Take a Newton step, halved until psi falls by a ten-thousandth of what its slope promises."""
    # The shift keeps the solve defined where p has all but left a direction; it is far below the
    # curvature of unit-spread features at any moment that the tolerance can tell from the edge.
    shift = 1e-15 * xp.eye(z.shape[1], dtype=z.dtype)
    step = -xp.linalg.solve(point.hessian + shift, point.gradient[:, None])[:, 0]

    slope = float(point.gradient @ step)
    rounding = 1e-15 * (1 + abs(point.value))

    size = 1.0
    for _ in range(60):
        trial = _evaluate(xp, log_base, z, point.nu + size * step)
        if trial.value <= point.value + 1e-4 * size * slope + rounding:
            return trial
        size /= 2
    return point


def _raise_if_separated(xp: Any, log_base: Array, z: Array, nu: Array) -> None:
    height = xp.where(log_base == -inf, xp.zeros_like(log_base), z @ nu)
    if bool(xp.max(height) <= 0) and bool(xp.min(height) < 0):
        raise Separated(nu / xp.linalg.vector_norm(nu))


def _largest(xp: Any, x: Array) -> float:
    return float(xp.max(xp.abs(x)))
