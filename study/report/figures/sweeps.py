"""Pictures of the sweeps: regret, scale, the alpha frontier, ablations and learning rates."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fdpg_ref.display import TARGET_COLOR
from study.names import (
    ALPHAS,
    FIVE,
    GROUP_LABELS,
    MEASURES,
    VARIANT_LABELS,
    label_of,
    measure_label,
    size_order,
)
from study.report.figures.drawing import (
    color_of,
    dot,
    legend_of,
    log_axis,
    marker_of,
    panels,
    picture,
    rows_axis,
    say_infinite,
)
from study.report.figures.main import task_title
from study.report.summaries import ablation_table, frontier_table, scale_table
from study.tables.cubes import OWN, Runs, target_of
from study.tables.selections import COVERED, PASS
from study.tables.stored import Frame


@picture(
    "regret",
    "Regret over all tasks (problems) and measures: by how much, in logarithm, an objective's "
    "measure lies above the least among the five. Mean and 95 % interval; less is better.",
)
def regret_figure(table: Frame) -> Figure | None:
    """Draw the mean regret of each objective with its interval, one panel per study and rate."""
    parts = list(table.groupby(["study", "rate"], sort=False))
    if not parts:
        return None

    figure, grid = panels(len(parts), 2, (5.2, 2.6))
    for axes, ((study, rate), part) in zip(grid, parts, strict=True):
        for row in part.itertuples():
            place = FIVE.index(row.method)
            dot(axes, row.regret, place, row.method, x_bar=(row.low, row.high))

        rows_axis(axes, [label_of(name) for name in FIVE])
        # Zero is the best possible value: leave room for the whole mark of an objective there.
        axes.set_xlim(left=-0.03 * max(part["high"].max(), 1e-9))
        axes.set_xlabel("mean regret (nats of logarithm)")
        axes.set_title(f"{study}, {rate} rate")
    return figure


@picture(
    "scale",
    "The four measures at the end against the size of the transformer: mean and 95 % interval "
    "over seeds, shifted sideways so that they can be told apart.",
)
def scale_figure(runs: Runs) -> Figure | None:
    """Draw the four measures against size, one row of panels per task."""
    table = scale_table(runs)
    table = table[table["method"].isin(FIVE) & table["quantity"].isin(MEASURES)]
    counts = table.groupby("task")["size"].nunique()
    tasks = list(counts.index[counts > 1])
    if not tasks:
        return None

    # One row of panels per task, one panel per measure.
    sizes = sorted(table["size"].unique(), key=size_order)
    figure, grid = panels(len(MEASURES) * len(tasks), len(MEASURES), (3.3, 2.9))
    for number, axes in enumerate(grid):
        task, measure = tasks[number // 4], MEASURES[number % 4]
        part = table[(table["task"] == task) & (table["quantity"] == measure)]
        for method, line in part.groupby("method", sort=False):
            _size_line(axes, line, str(method), sizes)

        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_xlabel("layers x width")
        axes.set_ylabel(measure_label(measure))
        if np.isfinite(part["mean"]).any():
            log_axis(axes, "y")
        else:
            say_infinite(axes)
        if number % 4 == 0:
            axes.set_title(task_title(runs.tasks, task))

    legend_of(figure, table["method"])
    return figure


@picture(
    "frontier",
    "The alpha family between forward KL (0) and reverse KL (1): precision against coverage. "
    "Mean and 95 % interval over seeds.",
)
def frontier_figure(runs: Runs) -> Figure:
    """Draw pass@1 against the coverage of the names along alpha."""
    table = frontier_table(runs)
    tasks = list(table["task"].unique())
    figure, grid = panels(len(tasks), 2, (6.4, 4.6))
    for axes, task in zip(grid, tasks, strict=True):
        rows = table[table["task"] == task].set_index(["method", "quantity"])
        points = [(rows.loc[(name, COVERED)], rows.loc[(name, PASS)]) for name in ALPHAS]

        # The path along alpha, and each alpha with its bars.
        x, y = ([point[k]["mean"] for point in points] for k in range(2))
        axes.plot(x, y, color="#9AA5B1", lw=1.4, zorder=2)
        for (name, alpha), (covered, passed) in zip(ALPHAS.items(), points, strict=True):
            bars = {"x_bar": tuple(covered[["low", "high"]])}
            bars["y_bar"] = tuple(passed[["low", "high"]])
            dot(axes, covered["mean"], passed["mean"], name, **bars)
            axes.annotate(
                f"α = {alpha:g}",
                (covered["mean"], passed["mean"]),
                xytext=(9, 9),
                textcoords="offset points",
            )

        axes.set_xlabel("coverage: share of the names seen among 256 samples")
        feature, wanted = target_of(runs.tasks, task)
        axes.set_ylabel(f"pass@1: share of samples with {feature}")
        if np.isfinite(wanted):
            axes.axhline(wanted, color=TARGET_COLOR, ls="--", label="target p")
            axes.legend(loc="lower left")
        axes.set_title(task_title(runs.tasks, task))
        axes.margins(0.15)
    return figure


@picture(
    "ablations",
    "What a variant does to the measure that a run descends itself, paired with the default "
    "by seed: mean and 95 % interval over seeds.",
)
def ablation_figure(runs: Runs) -> Figure | None:
    """Draw what every variant does to the own measure, paired with the default."""
    table = ablation_table(runs)
    if table.empty:
        return None

    tasks = list(table["task"].unique())
    tallest = max(len(table[table["task"] == task]) for task in tasks)
    figure, grid = panels(len(tasks), 2, (7.2, 1.2 + 0.3 * tallest))
    for axes, task in zip(grid, tasks, strict=True):
        rows = table[table["task"] == task].reset_index(drop=True)
        for row in rows.itertuples():
            dot(axes, row.log_ratio, row.Index, row.method, x_bar=(row.low, row.high))

        # Name the rows, and mark "no change".
        names = [
            f"{VARIANT_LABELS.get(variant, variant)}: {label_of(method)}"
            for variant, method in zip(rows["variant"], rows["method"], strict=True)
        ]
        rows_axis(axes, names)
        axes.axvline(0.0, color="black", lw=1.2, ls=":")

        axes.set_xlabel("log[own measure of the variant / of the default]\nbetter ← → worse")
        axes.set_title(task_title(runs.tasks, task))
    return figure


@picture(
    "rates",
    "The pilot: geometric mean, over tasks and seeds, of the measure that a run descends "
    "itself, against the learning rate, for each kind of task and size (layers x width).",
)
def rates_figure(pilot: Runs) -> Figure | None:
    """Draw the own measure at the end against the learning rate, by kind of task and size."""
    rows = pilot.ends[pilot.ends[OWN].gt(0) & np.isfinite(pilot.ends[OWN])]
    pairs = rows[["group", "size"]].drop_duplicates().itertuples(index=False)
    panels_of = sorted(map(tuple, pairs), key=lambda pair: (pair[0], size_order(pair[1])))
    if not panels_of:
        return None

    # One panel per kind of task and size, one line per method.
    figure, grid = panels(len(panels_of), 3, (4.4, 3.2))
    for axes, (group, size) in zip(grid, panels_of, strict=True):
        part = rows[(rows["group"] == group) & (rows["size"] == size)]
        for method, line in part.groupby("method", sort=True):
            means = np.exp(np.log(line[OWN]).groupby(line["learning_rate"]).mean())
            color, marker = color_of(str(method)), marker_of(str(method))
            axes.plot(means.index, means, color=color, marker=marker, ms=6)

        log_axis(axes, "x")
        log_axis(axes, "y")
        axes.set_xticks(sorted(part["learning_rate"].unique()))
        axes.set_xlabel("learning rate of Adam")
        axes.set_ylabel("own measure at the end")
        axes.set_title(f"{GROUP_LABELS.get(group, group)}, {size}")

    legend_of(figure, rows["method"])
    return figure


def _size_line(axes: Axes, rows: Frame, method: str, sizes: list[str]) -> None:
    # Side by side, or the intervals would hide each other.
    shift = 0.07 * (FIVE.index(method) - 2)
    x = np.array([sizes.index(size) for size in rows["size"]]) + shift
    axes.plot(x, rows["mean"], color=color_of(method), lw=1.4)
    for place, row in zip(x, rows.itertuples(), strict=True):
        if np.isfinite(row.mean):
            dot(axes, place, row.mean, method, y_bar=(row.low, row.high))
