"""Intervals by a hierarchical bootstrap, rank correlations and Kendall's W; all of it vectorised.

A *cube* is an array whose first two axes are units (tasks, or problems of the toy) and seeds; what
follows is whatever was measured in that cell, such as the objectives. NaN says "not measured". The
bootstrap draws units with replacement and, within each drawn unit, seeds with replacement; it takes
whole cells, so everything measured under one task and seed stays together: that is the pairing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

DRAWS = 10_000
SEED = 20230216
LEVEL = 0.95
# Numbers gathered at once: large enough to be fast, small enough for any machine.
CHUNK = 4_000_000


class Interval(NamedTuple):
    """An estimate and the ends of its interval; NaN where there are none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    cube: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> np.ndarray:
    """Return the statistic of resampled cubes.

    Parameters
    ----------
    statistic
        Maps (draws, units, seeds, ...) to (draws,).
    cube
        Units first, seeds second. A seed whose cell is all NaN does not exist in that unit.
    draws
        How many cubes to resample.
    seed
        Of the generator; the same one gives the same draws.

    Returns
    -------
    (draws,) array
        In the order drawn.
    """
    packed, counts = _packed(cube)
    units, seeds = packed.shape[:2]
    generator = np.random.default_rng(seed)

    step = max(1, CHUNK // max(1, packed.size))
    found = []
    for start in range(0, draws, step):
        size = min(step, draws - start)
        unit = generator.integers(units, size=(size, units))
        place = (generator.random((size, units, seeds)) * counts[unit][..., None]).astype(int)
        drawn = packed[unit[..., None], place]
        # A unit of n seeds draws n of them: what lies beyond stays "not measured".
        drawn[np.arange(seeds) >= counts[unit][..., None]] = np.nan
        found.append(statistic(drawn))
    return np.concatenate(found)


def interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    cube: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Interval:
    """Return a statistic of the cube and its percentile interval.

    Parameters
    ----------
    statistic, cube, draws, seed
        As in `bootstrap`.

    Returns
    -------
    Interval
        The value on the cube itself, and the percentiles of the resampled ones.
    """
    value = float(statistic(np.asarray(cube, dtype=float)[None])[0])
    return Interval(value, *percentiles(bootstrap(statistic, cube, draws=draws, seed=seed)))


def percentiles(drawn: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Return the central interval that holds a share of the draws; NaN draws are left out."""
    known = drawn[~np.isnan(drawn)]
    if not known.size:
        return float("nan"), float("nan")
    # An order statistic, not an interpolated one: infinite draws must not become NaN.
    # Rounded, since (1 - 0.95) / 2 is a little more than 0.025 and would skip one.
    tails = np.round([(1.0 - level) / 2.0, (1.0 + level) / 2.0], 12)
    low, high = np.quantile(known, tails, method="inverted_cdf")
    return float(low), float(high)


def mean_over_cells(cubes: np.ndarray) -> np.ndarray:
    """Average (draws, units, seeds, ...) over seeds and then over units; NaN is left out."""
    return mean(mean(cubes, axis=2), axis=1)


def mean_interval(cube: np.ndarray, *, draws: int = DRAWS, seed: int = SEED) -> Interval:
    """Return the mean over units of the mean over seeds of a (units, seeds) cube."""
    return interval(mean_over_cells, cube, draws=draws, seed=seed)


def paired_difference(
    first: np.ndarray, second: np.ndarray, *, draws: int = DRAWS, seed: int = SEED
) -> Interval:
    """Return the mean of first less second, paired by unit and seed.

    Parameters
    ----------
    first, second
        (units, seeds) cubes with the same units and seeds in the same places.
    draws, seed
        As in `bootstrap`.

    Returns
    -------
    Interval
        Cells that lack either of the two are left out.
    """
    return mean_interval(first - second, draws=draws, seed=seed)


def mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Average along axes without what is NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank the last axis from 1, ties by their mean rank; NaN stays NaN.

    Parameters
    ----------
    values
        (..., items); infinities are ranked like any number.

    Returns
    -------
    (..., items) array
        The ranks.
    """
    own, other = values[..., :, None], values[..., None, :]
    # Comparisons with NaN are false: a missing item is below or equal to no other.
    below = (other < own).sum(axis=-1)
    equal = (other == own).sum(axis=-1)
    return np.where(np.isnan(values), np.nan, below + (equal + 1) / 2.0)


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation along the last axis.

    Parameters
    ----------
    first, second
        (..., items); an item that either lacks is left out of both.

    Returns
    -------
    (...) array
        NaN where fewer than three items are left, or where one side is constant.
    """
    missing = np.isnan(first) | np.isnan(second)
    x = ranks(np.where(missing, np.nan, first))
    y = ranks(np.where(missing, np.nan, second))
    x = np.where(missing, 0.0, x - mean(x, axis=-1)[..., None])
    y = np.where(missing, 0.0, y - mean(y, axis=-1)[..., None])

    spread = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    defined = ((~missing).sum(axis=-1) >= 3) & (spread > 0)
    return np.where(defined, (x * y).sum(axis=-1) / np.where(defined, spread, 1.0), np.nan)


def kendalls_w(values: np.ndarray) -> np.ndarray:
    """Return Kendall's coefficient of concordance, corrected for ties.

    Parameters
    ----------
    values
        (..., raters, items) without NaN.

    Returns
    -------
    (...) array
        1 where all raters rank alike, 0 where their rank sums are equal; NaN where every rater
        ties everything.
    """
    rank = ranks(values)
    raters, items = values.shape[-2:]
    sums = rank.sum(axis=-2)
    squares = ((sums - sums.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)

    # Ties of t items take t^3 - t from what a rater could have spread.
    tied = (values[..., :, None] == values[..., None, :]).sum(axis=-1)
    ties = (tied**2 - 1).sum(axis=(-2, -1))
    most = raters**2 * (items**3 - items) - raters * ties
    return np.where(most > 0, 12.0 * squares / np.where(most > 0, most, 1), np.nan)


def concordance(values: np.ndarray, *, draws: int = DRAWS, seed: int = SEED) -> Interval:
    """Return Kendall's W of (raters, items), and its interval over resampled raters."""
    return interval(
        lambda cubes: kendalls_w(cubes[:, :, 0]), values[:, None], draws=draws, seed=seed
    )


def coverage_of_mean(
    seeds: int, *, draws: int = 1_000, trials: int = 2_000, seed: int = SEED
) -> float:
    """Return how often the interval of a mean of so many normal values holds the true mean.

    Parameters
    ----------
    seeds
        How many values an interval is made of.
    draws
        Resampled means per interval.
    trials
        How many intervals.
    seed
        Of the generator.

    Returns
    -------
    float
        A share of the trials; the percentile bootstrap of few values covers less than it says.
    """
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((trials, seeds))
    place = generator.integers(seeds, size=(draws, seeds))
    means = values[:, place].mean(axis=-1)
    tails = ((1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0)
    low, high = np.quantile(means, tails, axis=1)
    return float(np.mean((low <= 0.0) & (high >= 0.0)))


def _packed(cube: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move the seeds that exist to the front of each unit, and count them."""
    cube = np.asarray(cube, dtype=float)
    exists = np.logical_not(np.all(np.isnan(cube.reshape(*cube.shape[:2], -1)), axis=-1))
    kept = np.any(exists, axis=1)
    if not kept.any():
        raise ValueError(f"nothing was measured in a cube of shape {cube.shape}")
    cube, exists = cube[kept], exists[kept]
    order = np.argsort(~exists, axis=1, kind="stable")
    return cube[np.arange(len(cube))[:, None], order], exists.sum(axis=1)
