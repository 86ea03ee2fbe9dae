"""From long tables to arrays: one number per run, and cubes with fixed axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from study.names import DEFAULT, FIVE, MEASURES, TUNED, size_order
from study.statistics import mean
from study.tables.stored import Frame, NotJudgedError, Table

# From the best to the worst. Samples of the policy alone are never the best: see `policy_side`.
ESTIMATORS = ("exact", "list_and_remainder", "rao_blackwell", "target_samples", "sampled", "record")
POLICY_SIDE = "policy_samples"
RUN_KEYS = ["task", "group", "method", "divergence", "size", "rate", "variant", "seed"]
# Sums over outcomes in float64 say nothing below this; its logarithm stands for zero.
FLOOR = 1e-12
# The column of the measure that a run descends itself.
OWN = "own_measure"


class Runs(NamedTuple):
    """A table of transformers, ready to ask.

    Attributes
    ----------
    steps
        One row per run and evaluation, quantities as columns by their best estimator, and the run's
        own measure.
    ends, starts
        The last and the first row of every run.
    tasks
        The table's description of each task.
    """

    steps: Frame
    ends: Frame
    starts: Frame
    tasks: Mapping[str, Mapping[str, Any]]


class Cube(NamedTuple):
    """Measures at the end of runs, with NaN where there was no run.

    Attributes
    ----------
    values : (units, seeds, objectives, measures) array
        Each measure as it is, not its logarithm.
    units, seeds, objectives, measures
        The names along each axis.
    """

    values: np.ndarray
    units: tuple[str, ...]
    seeds: tuple[int, ...]
    objectives: tuple[str, ...]
    measures: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The objectives of which there is no run in any unit."""
        absent = np.atleast_1d(np.isnan(self.values).all(axis=(0, 1, 3)))
        return tuple(name for name, gone in zip(self.objectives, absent, strict=True) if gone)

    def of(self, objective: str) -> np.ndarray:
        """Return the (units, seeds, measures) of one objective."""
        return self.values[:, :, self.objectives.index(objective)]


def runs_of(table: Table) -> Runs:
    """Return the runs of a stored table."""
    return _runs(wide(best_values(pooled(table.frame))), table.tasks)


def policy_side(table: Table) -> Runs:
    """Return the runs with their measures from samples of the policy alone, as published."""
    frame = pooled(table.frame)
    rows = frame[(frame["estimator"] == POLICY_SIDE) & frame["quantity"].isin(MEASURES)]
    if rows.empty:
        raise NotJudgedError(f"the table has no {POLICY_SIDE}")
    return _runs(wide(rows), table.tasks)


def pooled(frame: Frame) -> Frame:
    """Return a long table whose sizes are without their base, and the base in a column.

    A sweep calls the second base of a size ``2x64b1``. To the study it is the same size.
    """
    parts = frame["size"].str.extract(r"^(?P<size>\d+x\d+)(?:b(?P<base>\d+))?$")
    return frame.assign(
        size=parts["size"].fillna(frame["size"]), base=parts["base"].fillna("0").astype(int)
    )


def completed(runs: Runs, main: Runs | None) -> Runs:
    """Add the main study's runs at the tuned rate on the same tasks: what a sweep departs from.

    Parameters
    ----------
    runs
        Of a sweep that may leave out what the main study has.
    main
        The main study, if it was run.

    Returns
    -------
    Runs
        A run that both have is the sweep's.
    """
    if main is None:
        return runs
    usual = chosen(main.steps)
    added = usual[usual["task"].isin(runs.ends["task"])]
    taken = pd.MultiIndex.from_frame(runs.ends[RUN_KEYS])
    added = added[~pd.MultiIndex.from_frame(added[RUN_KEYS]).isin(taken)]
    return _runs(pd.concat([runs.steps, added], ignore_index=True), {**main.tasks, **runs.tasks})


def best_values(frame: Frame) -> Frame:
    """Keep of every quantity the value of the best estimator.

    Parameters
    ----------
    frame
        A long table.

    Returns
    -------
    DataFrame
        One row per run, step and quantity. Entropy prefers prefixes to the list, as most of its
        variance comes from unlisted texts.
    """
    # Rows of another kind are no estimates: the target's own moments.
    frame = frame[frame["estimator"].isin(ESTIMATORS)]
    order = frame["estimator"].map({name: place for place, name in enumerate(ESTIMATORS)})
    better = (frame["quantity"] == "entropy") & (frame["estimator"] == "rao_blackwell")
    order = order.where(~better, -1)
    keys = [*RUN_KEYS, "step", "quantity"]
    ordered = frame.assign(_order=order).sort_values([*keys, "_order"], kind="stable")
    return ordered.drop_duplicates(keys).drop(columns="_order").reset_index(drop=True)


def wide(values: Frame) -> Frame:
    """Return one row per run and step, the quantities as columns."""
    keys = [*RUN_KEYS, "learning_rate", "step", "samples"]
    keys += ["base"] if "base" in values else []
    table = values.pivot(index=keys, columns="quantity", values="value").reset_index()
    table.columns.name = None
    names = table["divergence"].where(table["divergence"].isin(table.columns))
    table[OWN] = [np.nan if pd.isna(n) else table.at[k, n] for k, n in names.items()]
    return table.sort_values([*RUN_KEYS, "step"], kind="stable").reset_index(drop=True)


def chosen(
    table: Frame, *, rate: str = TUNED, variant: str = DEFAULT, size: str | None = None
) -> Frame:
    """Return the runs at a rate, of a variant and of a size (every size if None)."""
    kept = (table["rate"] == rate) & (table["variant"] == variant)
    if size is not None:
        kept &= table["size"] == size
    return table.loc[kept]


def usual_size(table: Frame) -> str:
    """Return the size that most runs of a table have, the smaller one of two."""
    counts = table["size"].value_counts()
    return min(counts.index, key=lambda size: (-counts[size], size_order(size)))


def cube_of(
    table: Frame,
    objectives: Sequence[str] = FIVE,
    measures: Sequence[str] = MEASURES,
    *,
    units: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Cube:
    """Arrange ends of runs, at most one per task, seed and method, in a cube.

    Parameters
    ----------
    table
        Rows of a `wide` table.
    objectives, measures
        Methods, and quantities; what the table lacks is NaN.
    units, seeds
        Tasks and seeds in the order wanted; those of the table, sorted, if None.

    Returns
    -------
    Cube
        All of it.

    Raises
    ------
    ValueError
        Two rows claim the same place.
    """
    units = sorted(table["task"].unique()) if units is None else units
    seeds = sorted(table["seed"].unique()) if seeds is None else seeds

    indexed = table.set_index(["task", "seed", "method"]).reindex(columns=list(measures))
    places = pd.MultiIndex.from_product([units, seeds, objectives])
    shape = (len(units), len(seeds), len(objectives), len(measures))
    values = indexed.reindex(places).to_numpy(dtype=float).reshape(shape)
    return Cube(values, tuple(units), tuple(map(int, seeds)), tuple(objectives), tuple(measures))


def log_measures(values: np.ndarray) -> np.ndarray:
    """Return logarithms of measures; zero counts as what float64 cannot tell from it."""
    return np.log(np.maximum(values, FLOOR))


def regrets(cube: Cube) -> np.ndarray:
    """Return the regret of every objective, unit, seed and measure, in nats of logarithm.

    Parameters
    ----------
    cube
        Its objectives include some of the five; others are held against the five's least.

    Returns
    -------
    (units, seeds, objectives, measures) array
        Log of the measure less the log of the least among the five there. NaN where the measure is
        infinite for all of them.
    """
    logs = log_measures(cube.values)
    five = [place for place, name in enumerate(cube.objectives) if name in FIVE]
    finite = np.where(np.isfinite(logs), logs, np.inf)
    least = finite[:, :, five].min(axis=2, keepdims=True)
    return np.where(np.isfinite(least), logs - np.where(np.isfinite(least), least, 0.0), np.nan)


def mean_regrets(cube: Cube) -> np.ndarray:
    """Return the (units, seeds, objectives) mean over the measures of the regrets."""
    return mean(regrets(cube), axis=-1)


def toy_cube(
    frame: Frame,
    objectives: Sequence[str] = FIVE,
    measures: Sequence[str] = MEASURES,
    *,
    phase: str = "sampled",
    rate: str = TUNED,
    problems: Sequence[Any] | None = None,
) -> Cube:
    """Arrange the exact problems in a cube with one seed.

    Parameters
    ----------
    frame
        The toy's table.
    objectives, measures
        As in `cube_of`; a measure is any column.
    phase, rate
        Which rows. The optimum knows no rate: there every row of the phase counts.
    problems
        In the order wanted; those of the chosen rows, sorted, if None.

    Returns
    -------
    Cube
        (problems, 1, objectives, measures).
    """
    kept = frame["phase"] == phase
    if phase != "optimum":
        kept &= frame["rate"] == rate
    rows = frame.loc[kept].drop_duplicates(["problem", "objective"])
    renamed = rows.rename(columns={"problem": "task", "objective": "method"}).assign(seed=0)
    return cube_of(renamed, objectives, measures, units=problems, seeds=(0,))


def at_alignment(steps: Frame, level: float, quantity: str = "entropy") -> Frame:
    """Return what each run has where its alignment first reaches a level, along a straight line.

    Parameters
    ----------
    steps
        Rows of a `wide` table with a column ``alignment``, in the order of the steps.
    level
        Of the alignment: what two objectives are compared at. At the end of a run the one that
        went further would be compared with the one that did not.
    quantity
        A column.

    Returns
    -------
    DataFrame
        One row per run: its keys, and the quantity, NaN where the run never got there.
    """
    found = []
    for keys, run in steps.groupby(RUN_KEYS, sort=True):
        aligned, values = (run[name].to_numpy(dtype=float) for name in ("alignment", quantity))
        there = np.flatnonzero(aligned >= level)
        value = np.nan
        if there.size:
            after = int(there[0])
            value = values[after]
            if after:
                part = (level - aligned[after - 1]) / (aligned[after] - aligned[after - 1])
                value = values[after - 1] + part * (values[after] - values[after - 1])
        found.append((*keys, value))
    return pd.DataFrame(found, columns=[*RUN_KEYS, quantity])


def target_of(tasks: Mapping[str, Mapping[str, Any]], task: str) -> tuple[str, float]:
    """Return a task's first feature, empty if it has none, and its mean under the target."""
    known = tasks.get(task, {})
    moments = known.get("target_moments", {})
    feature = known.get("feature") or next(iter(moments), "")
    return feature, float(moments.get(feature, "nan"))


def _runs(steps: Frame, tasks: Mapping[str, Mapping[str, Any]]) -> Runs:
    ordered = steps.sort_values([*RUN_KEYS, "step"], kind="stable", ignore_index=True)
    groups = ordered.groupby(RUN_KEYS, sort=False)
    ends, starts = groups.tail(1), groups.head(1)
    return Runs(ordered, ends.reset_index(drop=True), starts.reset_index(drop=True), tasks)
