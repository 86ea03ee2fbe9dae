"""The second edition's own tables: both sides of each task, matched entropies, and slopes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fdpg_ref.display import NONE
from study.names import COMMON, DEFAULT, label_of, size_order
from study.report.blocks import Grid
from study.rules.bands import LEAST_SEEDS, claim, corrected_claims, known_rows, slope, t_interval
from study.statistics import Interval
from study.tables.cubes import Runs, policy_side, runs_of
from study.tables.pairs import (
    BATCHES,
    LEVEL,
    ends_at,
    matched_entropies,
    pair_ratio,
    scale_ratios,
    units_of,
)
from study.tables.stored import Frame, NotJudgedError, Table
from study.text import interval as interval_text

BEST, POLICY, BIAS = "best value", "policy side", "bias"
ALL, SHARED = "all tasks", "shared tasks"
SETTINGS = {
    **{f"batch {batch}": place for batch, place in sorted(BATCHES.items())},
    "common rate": (COMMON, DEFAULT),
}


def sides_table(
    table: Table,
    settings: Mapping[str, tuple[str, str]] = SETTINGS,
    *,
    least: int = LEAST_SEEDS,
) -> Frame:
    """Return the log ratio of Jensen-Shannon to forward KL on KL(p||pi), from both sides.

    Parameters
    ----------
    table
        The main sweep of the second edition, or one like it.
    settings
        Rate and variant of each setting, by its name; all at the usual size.
    least
        Seeds without which a task has no row.

    Returns
    -------
    DataFrame
        By setting (batch size, or the common rate), task and side: mean over seeds with its t
        interval, the number of seeds, and the claim that it allows, which Holm corrects over the
        tasks. The rows of `ALL` have the task as their unit; so have those of `SHARED`, which are
        there if the settings differ in their tasks, and are over the same tasks in each. The bias
        is policy side less best.
    """
    cubes: dict[tuple[str, str], tuple[list[str], np.ndarray]] = {}
    sides = runs_of(table), policy_side(table)
    for setting, (rate, variant) in settings.items():
        try:
            best, seen = (ends_at(runs, rate, variant) for runs in sides)
        except NotJudgedError:
            continue
        ratios = {BEST: pair_ratio(best), POLICY: pair_ratio(seen, best)}
        ratios[BIAS] = ratios[POLICY] - ratios[BEST]
        for side, cube in ratios.items():
            cubes[setting, side] = units_of(best), cube

    of_each = {frozenset(tasks) for tasks, _ in cubes.values()}
    shared = frozenset.intersection(*of_each) if len(of_each) > 1 else frozenset()
    rows = []
    for (setting, side), (tasks, cube) in cubes.items():
        found = _side_rows(tasks, cube, least, shared)
        rows += [(setting, task, side, *values) for task, *values in found]
    columns = ["setting", "task", "side", "value", "low", "high", "n", "claim"]
    return pd.DataFrame(rows, columns=columns)


def sides_grid(table: Frame) -> Grid:
    """Return both sides of every task next to each other."""
    rows = []
    for (setting, task), part in table.groupby(["setting", "task"], sort=False):
        known = part.set_index("side")
        cells = [_cell(known, side) for side in (BEST, POLICY, BIAS)]
        claims = [str(known.at[s, "claim"]) if s in known.index else NONE for s in (BEST, POLICY)]
        rows.append((str(task), str(setting), *cells, *claims))
    heads = ("task", "setting", BEST, POLICY, "policy side less best", f"JS by the {BEST}")
    return Grid(
        "log[KL(p‖π) after Jensen-Shannon / after forward KL], below 0 where Jensen-Shannon is "
        "better: 95 % t intervals over seeds, in the last rows over tasks; what they say of "
        "Jensen-Shannon is corrected by Holm over the tasks.",
        (*heads, f"JS by the {POLICY}"),
        tuple(rows),
    )


def matched_grid(runs: Runs) -> Grid:
    """Return the entropy of every objective where its alignment first reaches `LEVEL`."""
    cube = matched_entropies(runs)
    rows = []
    for place, task in enumerate(cube.units):
        values = cube.values[place, :, :, 0]
        cells = [_mean_cell(values[:, k]) for k in range(len(cube.objectives))]
        rows.append((task, *cells))
    heads = ("task", *map(label_of, cube.objectives))
    caption = f"Entropy in nats where E[φ] first reaches {LEVEL:g}: 95 % t intervals over seeds."
    return Grid(caption, heads, tuple(rows))


def slopes_grid(runs: Runs) -> Grid:
    """Return how each objective's log ratio to forward KL changes with size."""
    found = scale_ratios(runs)
    sizes = sorted({size for size, _ in found.cells}, key=size_order)
    rows = []
    for (task, other), logs in zip(found.places, found.logs, strict=True):
        known = np.isfinite(logs)
        if not known.any():  # infinite for everybody
            continue
        by_size = [_mean_cell(logs[[place == size for place, _ in found.cells]]) for size in sizes]
        line, _ = slope(found.decades[known], logs[known])
        rows.append((task, label_of(other), *by_size, interval_text(*line)))

    heads = ("task", "objective", *sizes, "slope per decade of parameters")
    return Grid(
        "log[KL(p‖π) after the objective / after forward KL] by size (layers x width): 95 % t "
        "intervals over bases.",
        heads,
        tuple(rows),
    )


def grids_of(makers: Sequence[tuple[Callable[[Runs], Grid], Runs | None]]) -> list[Grid]:
    """Return the tables that can be made; the verdicts say what is missing of the others."""
    found = []
    for make, runs in makers:
        if runs is not None:
            try:
                found.append(make(runs))
            except NotJudgedError:
                continue
    return [grid for grid in found if grid.rows]


def _side_rows(
    tasks: Sequence[str], cube: np.ndarray, least: int, shared: Collection[str]
) -> list[tuple[Any, ...]]:
    """Return (task, mean, low, high, seeds, claim), and the means over tasks last."""
    enough = np.isfinite(cube).sum(axis=1) >= least
    names = [task for task, known in zip(tasks, enough, strict=True) if known]
    rows = known_rows(cube, least)
    found: list[tuple[Any, ...]] = [
        (task, *t_interval(row), len(row), word)
        for task, row, word in zip(names, rows, corrected_claims(rows), strict=True)
    ]
    same = [row for name, row in zip(names, rows, strict=True) if name in shared]
    for label, some in ((ALL, rows), (SHARED, same)):
        if len(some) > 1:
            over = t_interval(np.array([row.mean() for row in some]))
            found.append((label, *over, len(some), claim(over)))
    return found


def _cell(known: Frame, side: str) -> str:
    if side not in known.index:
        return NONE
    return interval_text(*known.loc[side, ["value", "low", "high"]].astype(float))


def _mean_cell(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return NONE
    found = t_interval(finite) if finite.size > 1 else Interval(float(finite[0]))
    return interval_text(*found)
