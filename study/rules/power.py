"""What so many seeds can see: ``python -m study power``, from the pilot.

The spread over seeds of the log ratio between two objectives is what a paired comparison has to
overcome. From it follows the smallest true ratio that a two-sided t test at 5 % finds with 80 %
power.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t

from fdpg_ref.display import number
from study.names import MEASURES, measure_label
from study.tables.cubes import Cube, Runs, cube_of, log_measures, runs_of
from study.tables.stored import Frame, StudyError, Table
from study.text import markdown_table, share

SEEDS = (3, 5, 8)
POWER = 0.8
SIGNIFICANCE = 0.05
COMMAND = "python -m study power"
SEPARATOR = " / "


class Spread(NamedTuple):
    """How far log ratios of a measure between two objectives vary over seeds.

    Attributes
    ----------
    task, measure
        Where.
    pairs, freedom
        Pairs of objectives pooled, and their degrees of freedom together.
    deviation
        Root mean square of the standard deviations of the pairs, in nats of logarithm.
    """

    task: str
    measure: str
    pairs: int
    freedom: int
    deviation: float


def power_of(effect: float, seeds: int, significance: float = SIGNIFICANCE) -> float:
    """Return the power of a two-sided t test on so many differences.

    Parameters
    ----------
    effect
        True mean of the differences over their standard deviation.
    seeds
        How many differences.
    significance
        Of the test.

    Returns
    -------
    float
        Probability that the test rejects, by the noncentral t distribution.
    """
    critical = t.ppf(1.0 - significance / 2.0, seeds - 1)
    shift = effect * np.sqrt(seeds)
    # The lower tail is the upper one of the mirrored law, which does not underflow to NaN.
    return float(nct.sf(critical, seeds - 1, shift) + nct.sf(critical, seeds - 1, -shift))


def detectable(seeds: int, power: float = POWER, significance: float = SIGNIFICANCE) -> float:
    """Return the least effect, in standard deviations, that so many seeds find with that power."""
    found: Any = brentq(lambda d: power_of(d, seeds, significance) - power, 1e-6, 50.0)
    return float(found)


def spreads(cube: Cube) -> list[Spread]:
    """Return the spread over seeds of every task and measure, pooled over pairs of objectives.

    Parameters
    ----------
    cube
        Ends of the pilot's runs.

    Returns
    -------
    list of Spread
        Without what no pair of objectives has from two seeds.
    """
    logs = log_measures(cube.values)
    found = []
    for unit, task in enumerate(cube.units):
        for place, measure in enumerate(cube.measures):
            spread = _pooled(logs[unit, :, :, place])
            if spread is not None:
                found.append(Spread(task, measure, *spread))
    return found


def power_markdown(pilot: Table) -> str:
    """Return the report on power.

    Parameters
    ----------
    pilot
        The pilot's table.

    Returns
    -------
    str
        Markdown: one row per task and measure, and one for all of them.

    Raises
    ------
    StudyError
        No two objectives share two seeds.
    """
    runs = runs_of(pilot)
    found = spreads(cube_of(_by_rate(runs)))
    if not found:
        raise StudyError(f"{pilot.name} has no two objectives with two seeds of one task")

    factors = {seeds: detectable(seeds) for seeds in SEEDS}
    rows = [_row(one, factors, runs) for one in [*found, _all(found)]]
    heads = (
        *("task, size, rate", "measure", "pairs", "degrees of freedom", "SD of the log ratio"),
        *(f"{seeds} seeds" for seeds in SEEDS),
    )

    sizes = ", ".join(f"{number(factor)} SD with {seeds}" for seeds, factor in factors.items())
    return (
        "# What so many seeds can see\n\n"
        f"`{COMMAND}`, from {pilot.name}.parquet (commit {pilot.commit}): the tasks, sizes and "
        "learning rates that it has with more than one seed. The standard deviation over seeds "
        "of log[measure after one objective / after another], pooled over pairs of objectives, "
        "and the smallest true value of that log ratio which a paired two-sided t test at "
        f"{share(SIGNIFICANCE, 1)} finds with {share(POWER, 1)} power: {sizes} seeds (noncentral "
        "t). In brackets the ratio itself. The pooled pairs "
        "share objectives, so that their degrees of freedom are fewer than counted here; each "
        "deviation is a rough figure.\n\n" + markdown_table(heads, rows)
    )


def _by_rate(runs: Runs) -> Frame:
    """Make each size and rate a task of its own: a seed means one run of each."""
    rates = runs.ends["learning_rate"].map("{:g}".format)
    names = runs.ends["task"] + SEPARATOR + runs.ends["size"] + SEPARATOR + rates
    return runs.ends.assign(task=names)


def _pooled(logs: np.ndarray) -> tuple[int, int, float] | None:
    """Pool the variances over seeds of all pairs of columns of (seeds, objectives)."""
    squares, freedom, pairs = 0.0, 0, 0
    for first, second in combinations(range(logs.shape[1]), 2):
        with np.errstate(invalid="ignore"):
            ratio = logs[:, first] - logs[:, second]
        ratio = ratio[np.isfinite(ratio)]
        if ratio.size > 1:
            squares += float(np.var(ratio, ddof=1)) * (ratio.size - 1)
            freedom += ratio.size - 1
            pairs += 1
    return (pairs, freedom, float(np.sqrt(squares / freedom))) if freedom else None


def _all(found: list[Spread]) -> Spread:
    freedom = sum(one.freedom for one in found)
    squares = sum(one.freedom * one.deviation**2 for one in found)
    pairs = sum(one.pairs for one in found)
    return Spread("all", "", pairs, freedom, float(np.sqrt(squares / freedom)))


def _row(one: Spread, factors: dict[int, float], runs: Runs) -> tuple[str, ...]:
    name, *rest = one.task.split(SEPARATOR)
    title = ", ".join([str(runs.tasks.get(name, {}).get("title", name)), *rest])
    effects = [one.deviation * factor for factor in factors.values()]
    return (
        title,
        measure_label(one.measure) if one.measure in MEASURES else "all",
        str(one.pairs),
        str(one.freedom),
        number(one.deviation),
        *(f"{number(effect)} (×{number(np.exp(effect))})" for effect in effects),
    )
