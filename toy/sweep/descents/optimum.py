"""The minimum of every objective on a batch: none is left that another's solution improves on.

All divergences but forward KL may have several local minima in a restricted family, and a descent
from the base ends in one of them. The solutions of the other objectives are the other places to
start from.
"""

from __future__ import annotations

import numpy as np

from fdpg_ref import exact_divergence
from toy.sweep.descents.minimise import Minimum, minimise
from toy.sweep.descents.objectives import OBJECTIVES, finite_on
from toy.sweep.random.problems import Problems

# Another solution that is better by this share is worth another start.
_BETTER = 1e-6
_ROUNDS = 5


def minima_of(problems: Problems, iterations: int) -> dict[str, Minimum]:
    """Minimise every objective from the base, then again from better solutions of others.

    Parameters
    ----------
    problems : Problems
        A batch with its targets outside the families.
    iterations : int
        Iterations of BFGS at most, at each start.

    Returns
    -------
    dict of Minimum
        By objective, on the problems where it is finite; none is left on which the solution of
        another objective is better by more than 1e-6, unless five rounds were not enough.
    """
    minima: dict[str, Minimum] = {}
    thetas = np.full((len(OBJECTIVES), *problems.families.start.shape), np.nan)
    for place, (name, divergence) in enumerate(OBJECTIVES.items()):
        index = finite_on(name, problems.hard)
        if len(index):
            part = problems.take(index)
            start = part.families.start
            minima[name] = minimise(part, start, divergence=divergence, iterations=iterations)
            thetas[place, index] = minima[name].theta
    for _ in range(_ROUNDS):
        before = thetas.copy()
        for place, name in enumerate(OBJECTIVES):
            if name in minima:
                minima[name] = _restarted(problems, minima[name], thetas, name, iterations)
                thetas[place, finite_on(name, problems.hard)] = minima[name].theta
        if np.array_equal(before, thetas, equal_nan=True):
            break
    return minima


def _restarted(
    problems: Problems, minimum: Minimum, thetas: np.ndarray, name: str, iterations: int
) -> Minimum:
    """Minimise again where a solution of another objective is better."""
    index, divergence = finite_on(name, problems.hard), OBJECTIVES[name]
    part = problems.take(index)
    values = np.stack([_value(part, theta, name) for theta in thetas[:, index]])
    best, rows = np.argmin(values, axis=0), np.arange(len(index))
    again = np.flatnonzero(values[best, rows] < (1 - _BETTER) * minimum.value)
    if len(again) == 0:
        return minimum
    start = thetas[best[again], index[again]]
    part = part.take(again)
    better = minimise(part, start, divergence=divergence, iterations=iterations)
    merged = [column.copy() for column in minimum]
    for column, new in zip(merged, better, strict=True):
        column[again] = new
    return Minimum(*merged)


def _value(part: Problems, theta: np.ndarray, name: str) -> np.ndarray:
    log_probs = part.families.policy(theta).log_probs
    with np.errstate(over="ignore", invalid="ignore"):
        value = exact_divergence(log_probs, part.log_target, divergence=OBJECTIVES[name])
    # Objectives that are left out on hard targets have no solution there.
    return np.where(np.isnan(value), np.inf, value)
