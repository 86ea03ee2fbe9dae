"""The picture of the second edition's finding: one comparison, by two ways of measuring."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from fdpg_ref.display import COLORS, MUTED
from study.report.figures.drawing import panels, picture, rows_axis
from study.report.second_edition import ALL, BEST, POLICY, SHARED
from study.rules.bands import BAND
from study.tables.stored import Frame

# What the exact value says, filled; what the policy's own samples say, hollow.
FILLS = {BEST: COLORS["forward_kl"], POLICY: "white"}
# Rows that are means over tasks.
OVER = (ALL, SHARED)
SHIFTS = {BEST: -0.14, POLICY: 0.14}
# Ratios at the ticks of a narrow axis; where a wide one has no room for all, powers of ten.
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
NARROW = np.log(1000.0)


@picture(
    "sides",
    "KL(p‖π) after descending Jensen-Shannon, as a multiple of what it is after forward KL, task "
    "by task: filled by exact values, hollow by samples of the policy alone, as published. Means "
    "and 95 % t intervals over seeds, in the last rows over tasks. The grey band is a difference "
    "of less than a quarter.",
)
def sides_figure(table: Frame) -> Figure | None:
    """Draw both sides of each task, one panel per setting.

    Parameters
    ----------
    table
        As `study.report.second_edition.sides_table` gives it.
    """
    settings = list(dict.fromkeys(table["setting"]))
    if not settings:
        return None

    # Every panel shows the same tasks in the same order, and the same ratios.
    rows = table[table["side"].isin(FILLS)]
    within = rows[~rows["task"].isin(OVER)].drop_duplicates(["setting", "task"])
    # What every setting has comes first, so that no panel has a hole in the middle.
    tasks = sorted(set(within["task"]), key=lambda task: (-(within["task"] == task).sum(), task))
    tasks += [label for label in OVER if (rows["task"] == label).any()]
    ends = rows[["low", "high"]].to_numpy(dtype=float)
    low, high = min(ends.min(), -2.0 * BAND), max(ends.max(), 2.0 * BAND)
    figure, grid = panels(len(settings), 2, (6.2, 1.4 + 0.36 * len(tasks)))
    for axes, setting in zip(grid, settings, strict=True):
        _panel(axes, rows[rows["setting"] == setting], tasks)
        axes.set_xlim(np.exp(low - 0.1), np.exp(high + 0.1))
        if high - low < NARROW:
            axes.xaxis.set_major_locator(FixedLocator(TICKS))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes.xaxis.set_major_locator(LogLocator(numticks=9))
        axes.xaxis.set_minor_locator(NullLocator())
        count = int((within["setting"] == setting).sum())
        axes.set_title(f"{setting}: {count} tasks")

    color = COLORS["forward_kl"]
    handles = [
        Line2D([], [], marker="o", ls="", color=color, mec=color, mfc=fill, label=side)
        for side, fill in FILLS.items()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def _panel(axes: Axes, rows: Frame, tasks: list[str]) -> None:
    axes.set_xscale("log")
    axes.axvspan(np.exp(-BAND), np.exp(BAND), color=MUTED, alpha=0.2, lw=0)
    axes.axvline(1.0, color="black", lw=1.0, ls=":")
    color = COLORS["forward_kl"]
    for row in rows.itertuples():
        middle, low, high = (float(np.exp(one)) for one in (row.value, row.low, row.high))
        axes.errorbar(
            middle,
            tasks.index(row.task) + SHIFTS[row.side],
            xerr=[[middle - low], [high - middle]],
            fmt="o",
            color=color,
            mec=color,
            ms=7,
            capsize=3,
            mfc=FILLS[row.side],
        )
    if over := sum(task in OVER for task in tasks):
        axes.axhline(len(tasks) - over - 0.5, color=MUTED, lw=0.8)

    rows_axis(axes, tasks)
    axes.set_xlabel("Jensen-Shannon better ←  ratio of KL(p‖π)  → forward KL better")
