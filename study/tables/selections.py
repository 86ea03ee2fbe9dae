"""The parts of the tables that rules, tables and pictures have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from study.names import ALPHAS, MIDDLE, TUNED
from study.statistics import spearman
from study.tables.cubes import (
    OWN,
    Cube,
    Runs,
    chosen,
    completed,
    cube_of,
    mean_regrets,
    runs_of,
    target_of,
    toy_cube,
    usual_size,
)
from study.tables.stored import Frame, NotJudgedError, Tables

# One sample passes with the probability that the task's feature holds.
PASS, COVERED = "alignment", "coverage/256"


TOY_RARE = "soft_rare"


def main_cube(runs: Runs, rate: str = TUNED) -> Cube:
    """Return the measures of the five at the end, at the size that the main study is about."""
    ends = runs.ends
    tasks, seeds = sorted(ends["task"].unique()), sorted(ends["seed"].unique())
    rows = chosen(ends, rate=rate, size=usual_size(ends))
    if rows.empty:
        raise NotJudgedError(f"no run at the {rate} rate")
    return cube_of(rows, units=tasks, seeds=seeds)


def noise_and_regret(frame: Frame) -> tuple[Cube, np.ndarray]:
    """Return signal to noise along the exact path, and the mean regret after sampled descent.

    Parameters
    ----------
    frame
        The toy's table.

    Returns
    -------
    ratio : Cube
        (problems, 1, objectives, 1).
    regret : (problems, objectives) array
        In the same places.
    """
    sampled = some(
        frame[(frame["phase"] == "sampled") & (frame["rate"] == TUNED)], "a sampled descent"
    )
    objectives = sorted(sampled["objective"].unique())
    cube = toy_cube(frame, objectives)
    ratio = toy_cube(frame, objectives, ("snr_path",), phase="exact", problems=cube.units)
    return ratio, mean_regrets(cube)[:, 0]


def alpha_cube(runs: Runs) -> Cube:
    """Return pass@1 and coverage of the alpha family on the tasks where all of it was run."""
    # What lies between two tuned neighbours has the rate of the middle of the family.
    tuned, middle = chosen(runs.ends), chosen(runs.ends, rate=MIDDLE)
    rows: Frame = pd.concat([tuned, middle]).drop_duplicates(["task", "method", "size", "seed"])
    whole = rows.groupby("task")["method"].agg(lambda names: set(ALPHAS) <= set(names))
    rows = some(rows[rows["task"].isin(whole.index[whole])], "the five alphas on one task")
    rows = with_alignment(rows.reset_index(drop=True), runs)
    need_columns(rows, PASS, COVERED)
    return cube_of(rows[rows["size"] == usual_size(rows)], tuple(ALPHAS), (PASS, COVERED))


def alpha_correlations(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Return Spearman's correlation of alpha with pass@1 and with coverage, (units, seeds) each."""
    cube = alpha_cube(runs)
    alphas = np.broadcast_to(list(ALPHAS.values()), cube.values.shape[:3])
    precision, coverage = (spearman(alphas, cube.values[..., place]) for place in range(2))
    return precision, coverage


def toy_entropies(frame: Frame, objectives: Sequence[str]) -> np.ndarray:
    """Return the entropies of exact problems whose target is soft, rare and inside the family.

    Parameters
    ----------
    frame
        The toy's table.
    objectives
        Whose runs.

    Returns
    -------
    (problems, 1, objectives, 3) array
        Of the target, at the end, and the least of the run, in nats.
    """
    rows = some(
        frame[(frame["kind"] == TOY_RARE) & frame["inside"].astype(bool)],
        "a soft rare problem inside the family",
    )
    measures = ("entropy_target", "entropy", "min_entropy")
    need_columns(rows, *measures)
    return toy_cube(rows, tuple(objectives), measures).values


def own_measures(rows: Frame, objectives: list[str], cube: Cube) -> np.ndarray:
    """Return the (units, seeds, objectives) own measures, in the places of another cube."""
    found = cube_of(rows, objectives, (OWN,), units=cube.units, seeds=cube.seeds)
    return found.values[..., 0]


def study_tables(tables: Tables) -> Mapping[str, Runs]:
    """Return the runs of every stored sweep of transformers, sweeps completed by the main one."""
    main = runs_of(tables.main) if tables.main else None
    found = {"main": main} if main is not None else {}
    for name in ("scale", "ablations"):
        table = getattr(tables, name)
        if table is not None:
            found[name] = completed(runs_of(table), main)
    return found


def some(rows: Frame, what: str) -> Frame:
    """Return the rows, or say that there is no run of what was looked for."""
    if rows.empty:
        raise NotJudgedError(f"no run of {what}")
    return rows


def need_columns(rows: Frame, *names: str) -> None:
    """Say which columns of a table are missing or empty."""
    missing = [name for name in names if name not in rows or rows[name].isna().all()]
    if missing:
        raise NotJudgedError(f"the table lacks {', '.join(missing)}")


def with_alignment(rows: Frame, runs: Runs) -> Frame:
    """Return rows of a `wide` table with E[phi] of the task's first feature as ``alignment``."""
    first = {task: f"feature/{target_of(runs.tasks, task)[0]}" for task in rows["task"].unique()}
    values = [
        rows.at[k, first[task]] if first[task] in rows else np.nan
        for k, task in rows["task"].items()
    ]
    return rows.assign(alignment=values)
