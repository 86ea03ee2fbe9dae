"""Objectives held against each other on the second edition's tables, paired by task and seed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from study.names import DEFAULT, FIVE, SOFT, TUNED
from study.tables.cubes import (
    Cube,
    Runs,
    at_alignment,
    chosen,
    cube_of,
    log_measures,
    usual_size,
)
from study.tables.selections import need_columns, some, with_alignment
from study.tables.stored import Frame

# Where the runs of each batch size stand: their rate and their variant.
BATCHES = {
    256: (TUNED, DEFAULT),
    64: ("tuned_64", "batch_64"),
    1024: ("tuned_1024", "batch_1024"),
}
# E[phi] at which entropies are compared.
LEVEL = 0.7
PAIR = ("jensen_shannon", "forward_kl")


class ScaleRatios(NamedTuple):
    """Log ratios to forward KL on KL(p||pi), by size and base.

    Attributes
    ----------
    places : list of (str, str)
        Task and objective of each comparison.
    logs : (comparisons, cells) array
        Means over the seeds; NaN where a cell has none.
    cells : list of (str, int)
        Size and base.
    decades : (cells,) array
        log10 of the number of parameters.
    """

    places: list[tuple[str, str]]
    logs: np.ndarray
    cells: list[tuple[str, int]]
    decades: np.ndarray


def ends_at(runs: Runs, rate: str = TUNED, variant: str = DEFAULT) -> Frame:
    """Return the ends of runs at a rate and of a variant, at the usual size."""
    rows = chosen(runs.ends, rate=rate, variant=variant, size=usual_size(runs.ends))
    return some(rows, f"the rate {rate} with the variant {variant}")


def pair_ratio(rows: Frame, like: Frame | None = None) -> np.ndarray:
    """Return the log ratio of Jensen-Shannon to forward KL on KL(p||pi).

    Parameters
    ----------
    rows
        Ends of runs.
    like
        Others whose tasks and seeds are the places.

    Returns
    -------
    (units, seeds) array
        NaN where one of the two is missing or both are infinite.
    """
    places = rows if like is None else like
    cube = cube_of(rows, PAIR, ("forward_kl",), units=units_of(places), seeds=seeds_of(places))
    logs = log_measures(cube.values[..., 0])
    with np.errstate(invalid="ignore"):
        return logs[..., 0] - logs[..., 1]


def matched_entropies(runs: Runs, objectives: tuple[str, ...] = FIVE) -> Cube:
    """Return the entropy where E[phi] first reaches `LEVEL`, on the soft rare tasks.

    Parameters
    ----------
    runs
        Of the main sweep.
    objectives
        Which.

    Returns
    -------
    Cube
        One measure, the entropy in nats; NaN where a run never gets there.
    """
    rows = chosen(runs.steps, size=usual_size(runs.ends))
    rows = some(rows[rows["group"] == SOFT], "a soft rare task").reset_index(drop=True)
    need_columns(rows, "entropy")
    found = at_alignment(with_alignment(rows, runs), LEVEL)
    return cube_of(found, objectives, ("entropy",))


def scale_ratios(runs: Runs) -> ScaleRatios:
    """Return the log ratios of every objective to forward KL on KL(p||pi), by size and base."""
    rows = some(chosen(runs.ends), "the tuned rate")
    table = rows.pivot(
        index=["task", "size", "base", "seed"], columns="method", values="forward_kl"
    )
    cells = sorted({(size, base) for _, size, base, _ in table.index})

    # The mean log ratio of every size and base, by task and objective.
    logs, places = [], []
    for task in units_of(rows):
        for other in (name for name in FIVE if name in table and name != "forward_kl"):
            ratio = np.log(table.loc[task, other]) - np.log(table.loc[task, "forward_kl"])
            means = ratio[np.isfinite(ratio)].groupby(level=["size", "base"]).mean()
            logs.append(means.reindex(pd.MultiIndex.from_tuples(cells)).to_numpy(dtype=float))
            places.append((task, other))
    decades = np.log10([parameters_of(size) for size, _ in cells])
    return ScaleRatios(places, np.array(logs), cells, decades)


def parameters_of(size: str) -> int:
    """Return about how many weights a character GPT-2 such as "2x64" has: those of its blocks."""
    layers, _, width = size.partition("x")
    return int(layers) * (12 * int(width) ** 2 + 13 * int(width))


def units_of(rows: Frame) -> list[str]:
    """Return the tasks of a table, sorted."""
    return sorted(rows["task"].unique())


def seeds_of(rows: Frame) -> list[int]:
    """Return the seeds of a table, sorted."""
    return sorted(rows["seed"].unique())
