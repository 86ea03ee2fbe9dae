"""Pictures of the main study: alignment against diversity, measures at the end, the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from fdpg_ref.display import INK, TARGET_COLOR
from study.names import FIVE, MEASURES, REINFORCEMENT, label_of, measure_label, method_order
from study.report.figures.drawing import (
    base_mark,
    color_of,
    dot,
    legend_of,
    log_axis,
    marker_of,
    panels,
    picture,
    rows_axis,
    say_infinite,
    target_mark,
)
from study.statistics import mean_interval
from study.tables.cubes import Runs, chosen, target_of, usual_size
from study.tables.selections import with_alignment
from study.tables.stored import Frame

SHOWN = (*FIVE, *REINFORCEMENT)


@picture(
    "alignment",
    "Alignment against diversity at the tuned rate: each line is the mean path of an "
    "objective over its seeds, the large mark its end; bars reach from the lowest seed to the "
    "highest. Square: base; star: target.",
)
def alignment_figure(runs: Runs) -> Figure | None:
    """Draw alignment against entropy, one panel per task: paths, ends, base and target."""
    rows = with_alignment(usual_steps(runs), runs).dropna(subset=["alignment", "entropy"])
    tasks = list(rows["task"].unique())
    if not tasks:
        return None

    figure, grid = panels(len(tasks), 2 if len(tasks) <= 4 else 3, (5.0, 4.0))
    for axes, task in zip(grid, tasks, strict=True):
        _alignment_panel(axes, rows[rows["task"] == task], runs.tasks, task)
    legend_of(figure, rows["method"], [base_mark(), target_mark()], columns=4)
    return figure


@picture(
    "measures",
    "Four measures of the distance to the target at the end of training (less is better), "
    "one row of panels per task and one line per objective that was descended: mean and 95 % "
    "interval over seeds. Dotted: the base; the target lies at zero, left of every axis.",
)
def measures_figure(runs: Runs) -> Figure | None:
    """Draw the four measures at the end, per objective and task, with intervals over seeds."""
    steps = usual_steps(runs)
    ends = steps[steps["step"] > 0].groupby(["task", "method", "seed"], sort=False).tail(1)
    first = steps[steps["step"] == 0]

    tasks = list(ends["task"].unique())
    if not tasks:
        return None

    # One row of panels per task, one panel per measure.
    methods = sorted(ends["method"].unique(), key=method_order)
    figure, grid = panels(len(MEASURES) * len(tasks), len(MEASURES), (3.4, 2.3))
    for number, axes in enumerate(grid):
        task, measure = tasks[number // 4], MEASURES[number % 4]
        _measure_panel(axes, ends[ends["task"] == task], measure, methods)
        base = first.loc[first["task"] == task, measure].replace(np.inf, np.nan).mean()
        if np.isfinite(base):
            axes.axvline(base, color="black", lw=1.2, ls=":")
        axes.set_xlabel(measure_label(measure))
        if number % 4:
            axes.set_yticklabels([])
        else:
            axes.set_title(task_title(runs.tasks, task))

    legend_of(figure, (), [Line2D([], [], color="black", ls=":", label="base a")])
    return figure


@picture(
    "teacher",
    "A target inside the family: entropy along training. Lines are means over seeds, bands "
    "reach from the lowest seed to the highest.",
)
def teacher_figure(runs: Runs) -> Figure | None:
    """Draw the entropy along training where the target lies inside the family."""
    rows = usual_steps(runs)
    rows = rows[rows["group"] == "teacher"].dropna(subset=["entropy"])
    if rows.empty:
        return None

    tasks = list(rows["task"].unique())
    figure, grid = panels(len(tasks), 2, (7.6, 4.4))
    for axes, task in zip(grid, tasks, strict=True):
        part = rows[rows["task"] == task]
        for method in sorted(part["method"].unique(), key=method_order):
            _band(axes, part[part["method"] == method], method)

        # The target, and the axes.
        axes.axhline(part["entropy_target"].mean(), color=TARGET_COLOR, lw=2, ls="--")
        axes.set_xlabel("training samples drawn")
        axes.set_ylabel("entropy of π (nats per text)")
        axes.set_title(task_title(runs.tasks, task))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    line = Line2D([], [], color=TARGET_COLOR, lw=2, ls="--", label="target p")
    legend_of(figure, rows["method"], [line], columns=4)
    return figure


def usual_steps(runs: Runs) -> Frame:
    """Return the steps of the main objectives at the tuned rate and the usual size."""
    rows = chosen(runs.steps, size=usual_size(runs.ends))
    return rows[rows["method"].isin(SHOWN)]


def task_title(tasks: Mapping[str, Mapping[str, Any]], task: str) -> str:
    """Return a task's title."""
    return str(tasks.get(task, {}).get("title", task))


def _alignment_panel(
    axes: Axes, rows: Frame, tasks: Mapping[str, Mapping[str, Any]], task: str
) -> None:
    for method in sorted(rows["method"].unique(), key=method_order):
        part = rows[rows["method"] == method]
        means = part.groupby("step")[["alignment", "entropy"]].mean()
        last = part.groupby("seed").tail(1)
        axes.plot(means["alignment"], means["entropy"], color=color_of(method), lw=1.4, alpha=0.7)
        dot(
            axes,
            last["alignment"].mean(),
            last["entropy"].mean(),
            method,
            x_bar=(last["alignment"].min(), last["alignment"].max()),
            y_bar=(last["entropy"].min(), last["entropy"].max()),
        )

    # Base and target.
    base = rows[rows["step"] == 0]
    axes.plot(base["alignment"].mean(), base["entropy"].mean(), "s", color="black", ms=9, zorder=5)
    feature, moment = target_of(tasks, task)
    star = moment, rows["entropy_target"].mean()
    axes.plot(*star, "*", color=TARGET_COLOR, ms=20, mec="black", zorder=3)

    axes.set_xlabel(f"alignment: E$_π$[{feature}]")
    axes.set_ylabel("entropy of π (nats per text)")
    axes.set_title(task_title(tasks, task))
    axes.margins(0.1)


def _measure_panel(axes: Axes, ends: Frame, measure: str, methods: list[str]) -> None:
    infinite = True
    for place, method in enumerate(methods):
        values = ends.loc[ends["method"] == method, measure].to_numpy(dtype=float)
        values = values[np.isfinite(values)]
        if values.size:
            infinite = False
            found = mean_interval(values[None])
            dot(axes, found.value, place, method, x_bar=found[1:])

    rows_axis(axes, [label_of(name) for name in methods])
    if infinite:
        say_infinite(axes)
        axes.set_xticks([])
        return
    log_axis(axes, "x")
    axes.tick_params(axis="x", labelsize=9, color=INK)


def _band(axes: Axes, rows: Frame, method: str) -> None:
    found = rows.groupby("samples")["entropy"].agg(["mean", "min", "max"])
    color, marker = color_of(method), marker_of(method)
    axes.plot(found.index, found["mean"], marker=marker, color=color, ms=4)
    axes.fill_between(found.index, found["min"], found["max"], color=color, alpha=0.15, lw=0)
