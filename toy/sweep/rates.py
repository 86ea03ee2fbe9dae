"""The pilot: every objective gets its own learning rate, by its own measure, on other problems.

A rate is chosen for each setting (world, inside or outside, kind of target), objective and phase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdpg_ref import exact_divergence
from toy.sweep.config import StudyConfig
from toy.sweep.descents.adam import descend
from toy.sweep.descents.objectives import OBJECTIVES, finite_on
from toy.sweep.random.problems import KINDS, Problems

if TYPE_CHECKING:
    from jaxtyping import Float

PHASES = ("exact", "sampled")

# (world, inside, kind, objective, phase) -> learning rate, or (R,) divergences left, one per rate.
Setting = tuple[str, bool, str, str, str]


def pilot(
    problems: Problems, uniforms: Float[np.ndarray, "steps B n"], config: StudyConfig
) -> dict[Setting, Float[np.ndarray, "R C"]]:
    """Descend every objective at every rate of the grid, on pilot problems of one shape.

    Parameters
    ----------
    problems : Problems
        The pilot problems.
    uniforms : (steps, B, n) array
        Randomness of the sampled descents, the same for every objective and rate.
    config : StudyConfig
        The grid of R learning rates, and the descents.

    Returns
    -------
    dict of (R, C) arrays
        By setting: which share of its own divergence is left at the end, for each rate and each of
        the C problems; infinite where that is not a number.
    """
    left = {}
    for name in OBJECTIVES:
        index = finite_on(name, problems.hard)
        for phase in PHASES:
            shares = _shares_left(problems, index, uniforms, config, name=name, phase=phase)
            for place, kind in enumerate(KINDS):
                chosen = problems.kind[index] == place
                if np.any(chosen):
                    shape = problems.shape
                    setting = shape.world, shape.inside, kind, name, phase
                    left[setting] = shares[:, chosen]
    return left


def choose(
    left: dict[Setting, Float[np.ndarray, "R C"]], grid: tuple[float, ...]
) -> dict[Setting, float]:
    """Return, for each setting, the rate that leaves the least of the divergence in the median.

    Parameters
    ----------
    left : dict of (R, C) arrays
        Shares left, from `pilot`.
    grid : tuple of R floats
        The rates.

    Returns
    -------
    dict of float
        The rate of each setting; the lower one of two equals.
    """
    return {
        setting: grid[int(np.argmin(np.median(shares, axis=-1)))]
        for setting, shares in left.items()
    }


def _shares_left(
    problems: Problems,
    index: np.ndarray,
    uniforms: np.ndarray,
    config: StudyConfig,
    *,
    name: str,
    phase: str,
) -> np.ndarray:
    rates = np.repeat(config.learning_rates, len(index))
    stacked = np.tile(index, len(config.learning_rates))
    part, divergence = problems.take(stacked), OBJECTIVES[name]
    drawn = uniforms[:, stacked] if phase == "sampled" else None
    theta = descend(part, rates, divergence=divergence, config=config, uniforms=drawn).theta
    with np.errstate(over="ignore", invalid="ignore"):
        at_end, at_start = (
            exact_divergence(log_probs, part.log_target, divergence=divergence)
            for log_probs in (part.families.policy(theta).log_probs, part.log_base)
        )
        share = at_end / at_start
    share = np.where(np.isnan(share), np.inf, share)
    return share.reshape(len(config.learning_rates), len(index))
