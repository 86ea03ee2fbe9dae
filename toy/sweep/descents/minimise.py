"""Exact minimisation of a divergence over a batch of families: BFGS, all problems in step.

The line search bisects for the weak Wolfe conditions, which also makes progress at the kinks of
total variation (Lewis and Overton, 2013, doi 10.1007/s10107-012-0514-2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import FDivergence, exact_divergence
from toy.sweep.descents.gradients import exact_gradient
from toy.sweep.random.problems import Problems

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_TRIALS = 30
_DECREASE, _SLOPE = 1e-4, 0.9
# A minimum outside the target has D > 0, so |grad D| / D is free of the scale of D: a unit of theta
# would change D by this share. Iterations stop at the first bound; the second one is claimed.
_STOP, _CONVERGED = 1e-8, 1e-6
# The least product of shift and change of gradient that a Hessian is learned from: far out on a
# plateau their squares would underflow.
_LEAST_PRODUCT = 1e-100
# A hard target may be reached at infinity: nothing is left to minimise below this value, in nats.
_NOTHING = 1e-12
# Nearer to a minimum than this relative decrease, values are rounding.
_STALLED = 1e-14


class Minimum(NamedTuple):
    """The end of a minimisation of every problem.

    Attributes
    ----------
    theta : (B, d) array
        Parameters.
    value : (B,) array
        The divergence there.
    gradient_norm : (B,) array
        Length of its gradient.
    converged : (B,) array of bool
        Whether that is below 1e-6 of the value, or the value itself below 1e-12.
    """

    theta: Float[np.ndarray, "B d"]
    value: Float[np.ndarray, " B"]
    gradient_norm: Float[np.ndarray, " B"]
    converged: Bool[np.ndarray, " B"]


def minimise(
    problems: Problems,
    start: Float[np.ndarray, "B d"],
    *,
    divergence: FDivergence,
    iterations: int = 120,
) -> Minimum:
    """Minimise a divergence of every problem from a start by BFGS.

    Parameters
    ----------
    problems : Problems
        The batch; the divergence must be finite on it.
    start : (B, d) array
        First parameters.
    divergence : FDivergence
        What is minimised. All but forward KL may have several minima; the one found depends on the
        start.
    iterations : int
        How many at most.

    Returns
    -------
    Minimum
        Those that have not converged are marked, not left out.
    """
    theta = start.copy()
    value, gradient = _evaluate(problems, theta, divergence)
    inverse = np.broadcast_to(np.eye(start.shape[1]), (*start.shape, start.shape[1])).copy()
    active = np.arange(len(start))

    # Step all problems that are not yet at a minimum.
    for iteration in range(iterations):
        norm = np.linalg.norm(gradient[active], axis=-1)
        active = active[(norm > _STOP * value[active]) & (value[active] > _NOTHING)]
        if len(active) == 0:
            break

        part = problems.take(active)
        here = theta[active], value[active], gradient[active]
        moved = _line_search(part, *here, inverse[active], first=iteration == 0, f=divergence)
        shift, change, decrease = moved[0] - here[0], moved[2] - here[2], here[1] - moved[1]
        inverse[active] = _updated(inverse[active], shift, change, first=iteration == 0)
        theta[active], value[active], gradient[active] = moved
        active = active[decrease > _STALLED * here[1]]

    norm = np.linalg.norm(gradient, axis=-1)
    # From where nothing is finite there is no way down: that has not converged.
    near = (norm <= _CONVERGED * value) | (value <= _NOTHING)
    converged = np.isfinite(value) & near
    return Minimum(theta, value, norm, converged)


def _evaluate(
    problems: Problems, theta: np.ndarray, divergence: FDivergence
) -> tuple[np.ndarray, np.ndarray]:
    policy = problems.families.policy(theta)
    with np.errstate(over="ignore", invalid="ignore"):
        value = exact_divergence(policy.log_probs, problems.log_target, divergence=divergence)
        gradient = exact_gradient(
            problems.families, policy, problems.log_target, divergence=divergence
        )
    # What overflows, in value or gradient, is too far: the line search then takes a shorter step.
    # An infinite value is never accepted, so that the zero beside it is never looked at.
    fits = np.isfinite(value) & np.isfinite(gradient).all(-1)
    return np.where(fits, value, np.inf), np.where(fits[:, None], gradient, 0.0)


def _line_search(
    problems: Problems,
    theta: np.ndarray,
    value: np.ndarray,
    gradient: np.ndarray,
    inverse: np.ndarray,
    *,
    first: bool,
    f: FDivergence,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return theta, value and gradient after a step that meets the weak Wolfe conditions.

    A problem for which no step lowers the value stays where it is.
    """
    direction = -(inverse @ gradient[..., None])[..., 0]
    if first:  # nothing is known of the scale yet: a unit step
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    slope = np.sum(direction * gradient, axis=-1)

    # A bracket for the length of every step, none closed yet.
    best = theta.copy(), value.copy(), gradient.copy()
    low, high, length = np.zeros(len(theta)), np.full(len(theta), np.inf), np.ones(len(theta))
    open_ = np.arange(len(theta))

    # Bisect, or double where nothing bounds the step from above.
    for _ in range(_TRIALS):
        trial = theta[open_] + length[open_, None] * direction[open_]
        reached, new_gradient = _evaluate(problems.take(open_), trial, f)
        lower = reached <= value[open_] + _DECREASE * length[open_] * slope[open_]
        flat = np.sum(new_gradient * direction[open_], axis=-1) >= _SLOPE * slope[open_]
        kept = open_[lower]
        best[0][kept], best[1][kept], best[2][kept] = (
            trial[lower],
            reached[lower],
            new_gradient[lower],
        )

        # Narrow the brackets, and continue with those that are open.
        low[kept] = length[kept]
        high[open_[~lower]] = length[open_[~lower]]
        open_ = open_[~(lower & flat)]
        if len(open_) == 0:
            break
        middle = (low[open_] + high[open_]) / 2
        length[open_] = np.where(np.isfinite(high[open_]), middle, 2 * low[open_])
    return best


def _updated(
    inverse: np.ndarray, shift: np.ndarray, change: np.ndarray, *, first: bool
) -> np.ndarray:
    """Return the inverse Hessians after the BFGS update; unchanged where it is not positive."""
    product = np.sum(shift * change, axis=-1)
    norms = np.linalg.norm(shift, axis=-1) * np.linalg.norm(change, axis=-1)
    valid = product > np.maximum(1e-12 * norms, _LEAST_PRODUCT)
    rho = 1 / np.where(valid, product, 1.0)
    if first:  # the scale of the Hessian along the first step
        squares = np.sum(change**2, axis=-1)
        scale = np.where(valid, product / np.where(valid, squares, 1.0), 1.0)
        inverse = inverse * scale[:, None, None]
    left = np.eye(shift.shape[1]) - rho[:, None, None] * shift[:, :, None] * change[:, None, :]
    new = left @ inverse @ np.swapaxes(left, 1, 2)
    new += rho[:, None, None] * shift[:, :, None] * shift[:, None, :]
    return np.where(valid[:, None, None], new, inverse)
