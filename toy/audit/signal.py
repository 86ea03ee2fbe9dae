"""The signal f'(t) of a loss, recovered from its expected gradient.

A gradient of the form E_pi[c grad log pi] gives back c: for a softmax its entry x is
pi(x) (c(x) - E_pi c). If c is a function of t = pi/ref alone it is f' of something; if it never
falls, f is convex, and that something is an f-divergence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from toy.audit.oracle import enumerate_loss
from toy.audit.precision import DOUBLE, Precision
from toy.audit.problems import AuditProblem, grid_problems

if TYPE_CHECKING:
    from jaxtyping import Float

    from toy.audit.call import Loss

__all__ = ["DECREASING", "FLAT", "INCREASING", "Signal", "centred", "log_ratio", "recover_signal"]

INCREASING, DECREASING, FLAT, NEITHER = "increasing", "decreasing", "flat", "neither"


class Signal(NamedTuple):
    """The factor of the score, as a function of the log-ratio.

    Attributes
    ----------
    log_ratio : (m,) array, nats
        u = log t, increasing.
    values : (2, m) array
        The signal recovered on two problems, zero in the middle of the grid.
    of_ratio : bool
        Whether the two agree, so that the signal is a function of t.
    shape : str
        Of that function: "increasing" (an f-divergence), "decreasing" (one that is ascended),
        "flat" (it does not change on the grid) or "neither".
    """

    log_ratio: Float[np.ndarray, " m"]
    values: Float[np.ndarray, "2 m"]
    of_ratio: bool
    shape: str


def recover_signal(
    loss: Loss, *, placement: str, samples: str, n: int = 1, precision: Precision = DOUBLE
) -> Signal:
    """Return the signal of a loss per sequence, up to a constant, on a grid of log-ratios.

    Parameters
    ----------
    loss, placement, samples, n
        As in `toy.audit.oracle.expected_gradient`, per sequence.
    precision : Precision
        The bounds of rounding. Two recovered signals agree to 1e-12 in float64; those of a
        gradient of another form differ by some percent.

    Returns
    -------
    Signal
        Recovered on two problems with the same log-ratios and unlike masses.
    """
    grids = grid_problems()
    how = {"placement": placement, "samples": samples, "level": "sequence"}
    found = [enumerate_loss(loss, problem, **how, n=n) for problem in grids]
    values = np.array(
        [_signal(problem, one.gradient.numpy()) for problem, one in zip(grids, found, strict=True)]
    )

    # The signal has the unit of the loss: its rounding is a part of the coefficients it is made of.
    rounding = precision.change * max(one.size for one in found)
    unlike = float(np.max(np.abs(values[0] - values[1])))
    of_ratio = unlike <= max(precision.match * float(np.ptp(values)), rounding)
    shape = _shape(values[0], precision, rounding) if of_ratio else NEITHER
    return Signal(log_ratio=log_ratio(grids[0]), values=values, of_ratio=of_ratio, shape=shape)


def log_ratio(problem: AuditProblem) -> Float[np.ndarray, " N"]:
    """Return log pi - log ref of every sequence, in nats."""
    log_policy = problem.log_probs(problem.policy, level="sequence")
    return (log_policy - problem.log_probs(problem.reference, level="sequence")).numpy()


def centred(values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Return the values less that in the middle of the grid, where t = 1 and f' is set to zero."""
    middle = len(values) // 2
    return values - (values[middle - 1] + values[middle]) / 2


def _signal(problem: AuditProblem, gradient: np.ndarray) -> np.ndarray:
    policy = problem.log_probs(problem.policy, level="sequence").exp().numpy()
    return centred(gradient / policy)


def _shape(values: np.ndarray, precision: Precision, rounding: float) -> str:
    size, steps = float(np.ptp(values)), np.diff(values)
    if size <= rounding:
        return FLAT
    if np.all(steps >= -precision.match * size):
        return INCREASING
    return DECREASING if np.all(steps <= precision.match * size) else NEITHER
