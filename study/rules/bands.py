"""Intervals by Student's t, claims against a band of equivalence, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t

from study.statistics import LEVEL, Interval
from study.tables.stored import NotJudgedError

BETTER, WORSE, EQUIVALENT, OPEN = "better", "worse", "equivalent", "undecided"
# A ratio of 0.8, and of its inverse: smaller differences are none worth a choice.
BAND = float(np.log(1.25))
# Pairs of seeds without which a task is not judged.
LEAST_SEEDS = 5
# On each side of an interval.
TAIL = round((1.0 - LEVEL) / 2.0, 12)


def t_interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """Return the mean of independent values and its two-sided t interval.

    Parameters
    ----------
    values
        Shape (n,), finite, n at least 2.
    level
        Of the interval.

    Returns
    -------
    Interval
        A point where all values are equal.
    """
    middle, error, freedom = _moments(values)
    half = float(t.ppf((1.0 + level) / 2.0, freedom)) * error
    return Interval(middle, middle - half, middle + half)


def claim(found: Interval, band: float = BAND) -> str:
    """Return what an interval of a log ratio says: better, worse, equivalent or undecided."""
    if found.high < -band:
        return BETTER
    if found.low > band:
        return WORSE
    return EQUIVALENT if -band < found.low and found.high < band else OPEN


def chances(values: np.ndarray, band: float = BAND) -> dict[str, float]:
    """Return the p-value of each claim about a mean: of its contrary, by one-sided t tests.

    Parameters
    ----------
    values
        Shape (n,), finite, n at least 2.
    band
        Half its width.

    Returns
    -------
    dict of str to float
        Of better, worse and equivalent; the last is the larger one of two tests.
    """
    return {
        BETTER: below(values, -band),
        WORSE: below(-values, -band),
        EQUIVALENT: max(below(values, band), below(-values, band)),
    }


def below(values: np.ndarray, bound: float) -> float:
    """Return the p-value of the claim that the mean lies below a bound, by a one-sided t test."""
    middle, error, freedom = _moments(values)
    if error == 0.0:
        return 0.0 if middle < bound else 1.0
    return float(t.cdf((middle - bound) / error, freedom))


def holm(chance: Sequence[float], level: float = TAIL) -> list[bool]:
    """Return which claims stand when any of them being wrong is as likely as the level allows.

    Parameters
    ----------
    chance
        The p-values of the whole family.
    level
        Of the family.

    Returns
    -------
    list of bool
        In the order given.
    """
    stands = [False] * len(chance)
    for rank, place in enumerate(np.argsort(chance, kind="stable")):
        # The first that falls takes all less likely ones with it.
        if not chance[place] <= level / (len(chance) - rank):
            break
        stands[int(place)] = True
    return stands


def corrected_claims(rows: Sequence[np.ndarray], band: float = BAND) -> list[str]:
    """Return a claim about each of several means, corrected by Holm over all of them.

    Parameters
    ----------
    rows
        The values of each.
    band
        Half its width.

    Returns
    -------
    list of str
        The three claims exclude each other, and each has a family of its own.
    """
    found = [chances(row, band) for row in rows]
    words = [OPEN] * len(rows)
    for word in (BETTER, WORSE, EQUIVALENT):
        for place, stands in enumerate(holm([chance[word] for chance in found])):
            if stands:
                words[place] = word
    return words


def known_rows(cube: np.ndarray, least: int = LEAST_SEEDS) -> list[np.ndarray]:
    """Return the finite values of each unit of a (units, seeds) cube that has so many of them."""
    rows = [row[np.isfinite(row)] for row in cube]
    return [row for row in rows if row.size >= least]


def unit_means(cube: np.ndarray, least: int = LEAST_SEEDS) -> np.ndarray:
    """Return the means of the units that have enough seeds, or say that there are too few units."""
    rows = known_rows(cube, least)
    if len(rows) < 2:
        raise NotJudgedError(f"fewer than two tasks with {least} pairs of runs")
    return np.array([row.mean() for row in rows])


def every_row(cube: np.ndarray, least: int = LEAST_SEEDS) -> list[np.ndarray]:
    """Return the finite values of every unit, or say that one has too few: none may be left out."""
    rows = known_rows(cube, least)
    if len(rows) < len(cube) or not rows:
        raise NotJudgedError(f"a task has fewer than {least} pairs of runs")
    return rows


def slope(x: np.ndarray, y: np.ndarray) -> tuple[Interval, float]:
    """Return the slope of a line by least squares with its t interval, and p of a slope of 0.

    Parameters
    ----------
    x, y
        Shape (n,), finite, at least three points and two places x.

    Returns
    -------
    Interval, float
        The two-sided p-value.
    """
    freedom = len(x) - 2
    if freedom < 1 or np.ptp(x) == 0.0:
        raise NotJudgedError("fewer than three sizes and bases")
    centred = x - x.mean()
    spread = float(centred @ centred)
    value = float(centred @ y) / spread
    residual = y - y.mean() - value * centred
    error = float(np.sqrt(residual @ residual / freedom / spread))
    half = float(t.ppf((1.0 + LEVEL) / 2.0, freedom)) * error
    chance = 2.0 * float(t.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0.0)
    return Interval(value, value - half, value + half), chance


def _moments(values: np.ndarray) -> tuple[float, float, int]:
    if values.size < 2:
        raise NotJudgedError("fewer than two values: no interval")
    error = float(np.std(values, ddof=1)) / np.sqrt(values.size)
    return float(values.mean()), error, values.size - 1
