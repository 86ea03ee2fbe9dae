"""The numbers behind the verdicts, as tables of plain numbers: one function per table.

`study.report.document.collect` gathers them; `study.report.sections` prints them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from study.names import COMMON, DEFAULT, MEASURES, TUNED, method_order, size_order
from study.rules.hypotheses import win_shares
from study.statistics import concordance, mean, mean_interval, mean_over_cells
from study.tables.cubes import (
    OWN,
    RUN_KEYS,
    Cube,
    Runs,
    chosen,
    cube_of,
    log_measures,
    mean_regrets,
    toy_cube,
    usual_size,
)
from study.tables.selections import alpha_cube, main_cube, with_alignment
from study.tables.stored import Frame, Tables

TO_HALF = "samples_to_half"
RECORDS = ("gradient_norm", "gradient_norm_above_1", "gradient_signal_to_noise")
# In the order of the report's table.
QUALITY = (*MEASURES, "alignment", "kl_policy_base", "entropy", "distinct_share", "self_bleu")
# Properties of the target that the rows of the base hold.
OF_TARGET = ("entropy_target", "kl_target_base")
PROCESS = (TO_HALF, *RECORDS)
PHASES = ("optimum", "exact", "sampled")


def per_run(runs: Runs) -> Frame:
    """Return one row per run: its values at the end, and how it got there.

    Parameters
    ----------
    runs
        Of one sweep.

    Returns
    -------
    DataFrame
        The run's keys, the quantities at the end, ``alignment``, the samples to half of the own
        measure (infinite if it never fell so far) and the records averaged over the run.
    """
    ends = with_alignment(runs.ends, runs)

    groups = runs.steps.groupby(RUN_KEYS, sort=True)
    halves = pd.Series({keys: samples_to_half(part) for keys, part in groups}, name=TO_HALF)
    records = [name for name in RECORDS if name in runs.steps]

    # Average the records over the run; a ratio of signal to noise by its root mean square.
    squares = runs.steps.assign(
        **{name: runs.steps[name] ** 2 for name in records if name.endswith("noise")}
    )
    averages = squares.groupby(RUN_KEYS, sort=True)[records].mean()
    for name in records:
        if name.endswith("noise"):
            averages[name] **= 0.5

    halves.index.names = RUN_KEYS
    # A plain reward descends no divergence: there is no own measure to halve.
    halves[halves.index.get_level_values("method") == "reward"] = np.nan
    known = ends.drop(columns=records)
    return known.join(halves, on=RUN_KEYS).join(averages, on=RUN_KEYS)


def samples_to_half(steps: Frame) -> float:
    """Return the samples drawn when the own measure first reached half its start, interpolated."""
    values, drawn = steps[OWN].to_numpy(dtype=float), steps["samples"].to_numpy(dtype=float)
    if np.isnan(values[0]):
        return float("nan")
    half = values[0] / 2.0
    below = np.flatnonzero(values <= half)
    if not below.size or not np.isfinite(half):
        return float("inf")
    after = below[0]
    high, low = values[after - 1], values[after]
    return float(
        drawn[after - 1] + (high - half) / (high - low) * (drawn[after] - drawn[after - 1])
    )


def main_table(runs: Runs, quantities: Sequence[str] = (*QUALITY, *PROCESS)) -> Frame:
    """Return mean, interval over seeds and spread of every quantity, by task, method and rate."""
    rows = per_run(runs)
    rows = rows[rows["size"] == usual_size(runs.ends)]
    return _over_seeds(rows[rows["variant"] == DEFAULT], ["task", "rate", "method"], quantities)


def base_table(runs: Runs) -> Frame:
    """Return what the base is worth on every task: the first rows of its runs, averaged."""
    rows = runs.starts[runs.starts["size"] == usual_size(runs.starts)]
    # Every run of a seed begins at the same base.
    rows = with_alignment(rows.drop_duplicates(["task", "seed"]), runs)
    return _over_seeds(rows, ["task"], (*QUALITY, *OF_TARGET))


def scale_table(runs: Runs) -> Frame:
    """Return the measures by task, size and method at the tuned rate."""
    return _over_seeds(chosen(per_run(runs)), ["task", "size", "method"], (*MEASURES, "alignment"))


def regret_table(tables: Tables, main: Runs | None) -> Frame:
    """Return the mean regret of each of the five, with its interval, by study and rate."""
    found = []
    for rate in (TUNED, COMMON):
        if main is not None and not chosen(main.ends, rate=rate).empty:
            found += _regret_rows("lm", rate, main_cube(main, rate))
        if tables.toy is not None:
            cube = toy_cube(tables.toy.frame, rate=rate)
            if cube.units:
                found += _regret_rows("toy", rate, cube)
    columns = ["study", "rate", "method", "regret", "low", "high", "pairs_won"]
    return pd.DataFrame(found, columns=columns)


def stability_table(main: Runs | None, scale: Runs | None) -> Frame:
    """Return Kendall's W of the five objectives over tasks, seeds and sizes."""
    found = []
    if main is not None:
        values = mean_regrets(main_cube(main))
        found.append(("tasks", mean(values, axis=1)))
        found.append(("seeds", mean(values, axis=0)))
    if scale is not None:
        rows = chosen(scale.ends)
        sizes = sorted(rows["size"].unique(), key=size_order)
        by_size = [mean_regrets(cube_of(rows[rows["size"] == size])) for size in sizes]
        found.append(("sizes", np.stack([mean_over_cells(v[None])[0] for v in by_size])))

    rows = []
    for over, matrix in found:
        # A rater that ranks only some of the five cannot be compared with the others.
        whole = matrix[~np.isnan(matrix).any(axis=1)]
        if len(whole) > 1:
            rows.append((over, len(whole), *concordance(whole)))
    return pd.DataFrame(rows, columns=["over", "raters", "w", "low", "high"])


def ablation_table(runs: Runs) -> Frame:
    """Return the own measure of every variant against the default's, paired by seed.

    Parameters
    ----------
    runs
        The ablations, completed by what they depart from.

    Returns
    -------
    DataFrame
        ``log_ratio`` is below zero where the variant is better.
    """
    usual = chosen(runs.ends)
    found = []
    keys = ["task", "size", "variant", "method"]
    varied = runs.ends[(runs.ends["variant"] != DEFAULT) & (runs.ends["rate"] == TUNED)]
    for key, part in varied.groupby(keys, sort=True):
        task, size, _, method = key
        same = (usual["task"] == task) & (usual["size"] == size) & (usual["method"] == method)
        defaults = part["seed"].map(usual[same].set_index("seed")[OWN])
        logs = log_measures(part[OWN].to_numpy(dtype=float))
        ratio = (logs - log_measures(defaults.to_numpy(dtype=float)))[None]
        if np.isfinite(ratio).any():
            seeds = int(np.isfinite(ratio).sum())
            found.append((*key, part[OWN].mean(), seeds, *mean_interval(ratio)))

    columns = [*keys, OWN, "seeds", "log_ratio", "low", "high"]
    return pd.DataFrame(found, columns=columns).sort_values(
        ["task", "size", "variant", "method"],
        key=lambda c: c.map(method_order) if c.name == "method" else c,
        ignore_index=True,
    )


def frontier_table(runs: Runs) -> Frame:
    """Return pass@1 and coverage along alpha, with intervals over seeds."""
    cube = alpha_cube(runs)
    rows = [
        (task, method, measure, *mean_interval(cube.values[u : u + 1, :, m, q]))
        for u, task in enumerate(cube.units)
        for m, method in enumerate(cube.objectives)
        for q, measure in enumerate(cube.measures)
    ]
    return pd.DataFrame(rows, columns=["task", "method", "quantity", "mean", "low", "high"])


def toy_wins(frame: Frame) -> Frame:
    """Return the share of problems that each of the five wins, by phase and measure."""
    rows = []
    for phase in PHASES:
        cube = toy_cube(frame, phase=phase)
        if not cube.units:
            continue
        logs = log_measures(cube.values)[None]
        for place, measure in enumerate(cube.measures):
            shares = win_shares(logs[..., place : place + 1])[0]
            problems = int(np.isfinite(logs[0, :, 0, :, place]).any(axis=1).sum())
            rows += [
                (phase, measure, name, float(part), problems)
                for name, part in zip(cube.objectives, shares, strict=True)
            ]
    return pd.DataFrame(rows, columns=["phase", "measure", "objective", "share", "problems"])


def _regret_rows(study: str, rate: str, cube: Cube) -> list[tuple[object, ...]]:
    values = mean_regrets(cube)
    won = win_shares(log_measures(cube.values)[None])[0]
    return [
        (study, rate, name, *mean_interval(values[..., place]), float(won[place]))
        for place, name in enumerate(cube.objectives)
        if name not in cube.missing
    ]


def _over_seeds(rows: Frame, keys: list[str], quantities: Sequence[str]) -> Frame:
    found = []
    for key, part in rows.groupby(keys, sort=True):
        for quantity in quantities:
            values = part[quantity].dropna().to_numpy(dtype=float) if quantity in part else []
            if len(values):
                several = len(values) > 1 and np.isfinite(values).all()
                spread = np.std(values, ddof=1) if several else np.nan
                middle = mean_interval(np.asarray(values)[None])
                found.append((*key, quantity, *middle, spread, len(values)))

    # In the order of the methods, and of the sizes from small to large.
    columns = [*keys, "quantity", "mean", "low", "high", "deviation", "seeds"]
    table = pd.DataFrame(found, columns=columns)
    if "method" not in keys:
        return table
    order = {name: k for k, name in enumerate(sorted(table["method"].unique(), key=method_order))}
    places = table["method"].map(order.__getitem__)
    sizes = table["size"].map(size_order) if "size" in keys else 0
    return (
        table.assign(_place=places, _size=sizes)
        .sort_values([k if k != "size" else "_size" for k in keys[:-1]] + ["_place"], kind="stable")
        .drop(columns=["_place", "_size"])
        .reset_index(drop=True)
    )
