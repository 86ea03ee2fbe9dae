"""The tables of language: runs at the rate that did best on the other seeds, and their gains."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from study.names import TUNED
from study.tables.cubes import (
    OWN,
    Cube,
    Runs,
    at_alignment,
    chosen,
    cube_of,
    log_measures,
    pooled,
    runs_of,
)
from study.tables.selections import need_columns, some, with_alignment
from study.tables.stored import Frame, NotJudgedError, Table

OBJECTIVES = ("forward_kl", "reverse_kl", "jensen_shannon", "alpha_0.5", "rl_kl")
HARD, BODY = ("compiles", "pep8"), "body"
# Of the text: what is missing is not judged.
TASKS = (*HARD, BODY, "docstring")
# Those whose target is far enough from the base that five errors can be seen.
IN_MINUTES = ("sentiment", "word")
# Reverse KL to a hard constraint is infinite.
PLACES = [(t, o) for t in TASKS for o in OBJECTIVES if o != "reverse_kl" or t == "docstring"]
SMALL = "2x64"
# pass@1 at which entropies are compared, and seeds of the study.
LEVEL, SEEDS = 0.6, 3
# RL descends no divergence to the target; it is judged, and its rate chosen, by this one.
MEASURE_OF_RL = "jensen_shannon"

_PLACE = ["task", "method", "size", "seed"]


class Chosen(NamedTuple):
    """A table with one rate for each run's place, called `TUNED`.

    Attributes
    ----------
    table
        The rows of the chosen runs.
    edges, number
        How many of how many chosen rates lie at an end of those tried.
    """

    table: Table
    edges: int
    number: int


def tuned_by_others(table: Table) -> Chosen:
    """Keep of each task, objective, size and seed the run at the rate that the other seeds choose.

    Parameters
    ----------
    table
        Of a sweep in which every place has the same rates.

    Returns
    -------
    Chosen
        A place that no other seed has a finite measure for is left out.
    """
    ends = runs_of(table).ends
    own = ends[OWN].where(ends["method"] != "rl_kl", ends.get(MEASURE_OF_RL, np.nan))
    ends = ends.assign(_own=log_measures(own.to_numpy(dtype=float)))
    rows, edges = [], 0
    for keys, part in ends.groupby(["task", "method", "size"], sort=True):
        by_rate = part.pivot(index="rate", columns="seed", values="_own")
        rates = part.groupby("rate")["learning_rate"].first()
        for seed in by_rate.columns:
            others = by_rate.drop(columns=seed).mean(axis=1, skipna=False)
            others = others[np.isfinite(others)]
            if len(others) and pd.notna(by_rate.at[others.idxmin(), seed]):
                rate = others.idxmin()
                edges += rates[rate] in (rates.min(), rates.max()) and len(rates) > 1
                rows.append((*keys, seed, rate))

    # Of the long table, whose sizes name their bases.
    choice = pd.DataFrame(rows, columns=[*_PLACE, "rate"])
    long = pooled(table.frame)[["size"]].rename(columns={"size": "_size"}).join(table.frame)
    kept = long.merge(
        choice.rename(columns={"size": "_size"}), on=["_size", *choice.columns[:2], "seed", "rate"]
    )
    frame = kept.drop(columns="_size").assign(rate=TUNED)
    return Chosen(replace(table, frame=frame), edges, len(rows))


def ends_of_size(runs: Runs, size: str = SMALL) -> Frame:
    """Return the ends of the runs of a size."""
    return some(chosen(runs.ends, size=size), f"the size {size}")


def matched_entropy_gap(runs: Runs) -> np.ndarray:
    """Return RL's entropy less forward KL's where pass@1 first reaches `LEVEL`, (tasks, seeds)."""
    rows = chosen(runs.steps, size=SMALL)
    rows = some(rows[rows["task"].isin(HARD)], "a task of code").reset_index(drop=True)
    need_columns(rows, "entropy")
    found = at_alignment(with_alignment(rows, runs), LEVEL)
    cube = cube_of(found, ("rl_kl", "forward_kl"), ("entropy",), units=HARD)
    return cube.values[:, :, 0, 0] - cube.values[:, :, 1, 0]


def gains(runs: Runs, size: str | None = SMALL) -> Cube:
    """Return E[phi] of each task's first feature at the end less at the start.

    Parameters
    ----------
    runs
        Of a sweep.
    size
        Of the models; every one if None.

    Returns
    -------
    Cube
        One measure, the gain; NaN where there is no run.
    """
    ends, starts = (
        with_alignment(rows, runs).set_index(["task", "method", "seed"])["alignment"]
        for rows in (chosen(runs.ends, size=size), chosen(runs.starts, size=size))
    )
    if ends.empty:
        raise NotJudgedError("no run at all")
    table = (ends - starts).rename("gain").reset_index()
    return cube_of(table, OBJECTIVES, ("gain",))


def gains_in_errors(table: Table) -> Frame:
    """Return how far E[phi] rose, in standard errors of the samples, for each run.

    Parameters
    ----------
    table
        Of SmolLM2.

    Returns
    -------
    DataFrame
        Columns task, method, seed, before, after and errors.
    """
    first = {
        task: f"feature/{next(iter(known.get('target_moments', {})), '')}"
        for task, known in table.tasks.items()
    }
    frame = table.frame[table.frame["estimator"] == "sampled"]
    frame = some(frame[frame["quantity"] == frame["task"].map(first)], "a feature's expectation")
    rows = []
    for keys, part in frame.groupby(["task", "method", "seed"], sort=True):
        ordered = part.sort_values("step")
        start, end = ordered.iloc[0], ordered.iloc[-1]
        error = float(np.hypot(start["standard_error"], end["standard_error"]))
        gain = float(end["value"] - start["value"])
        errors = gain / error if error > 0 else np.nan
        rows.append((*keys, float(start["value"]), float(end["value"]), errors))
    return pd.DataFrame(rows, columns=["task", "method", "seed", "before", "after", "errors"])
