"""One picture of a descent: divergences, alignment against entropy, and the policy it ends in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from fdpg_ref.display import color_of, title_of
from toy.config import TrainConfig
from toy.families import GaussianFamily
from toy.files import PICTURE, replacing
from toy.problems import Problem
from toy.train import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BASE, _TARGET = "#8C8C8C", "#222222"


def plot_trajectory(problem: Problem, trajectory: Trajectory, config: TrainConfig) -> Figure:
    """Draw a descent: the divergences, the path in the plane of interest, and the outcomes.

    Parameters
    ----------
    problem : Problem
        The problem that was descended on.
    trajectory : Trajectory
        Every point on the way.
    config : TrainConfig
        The settings, for the title.

    Returns
    -------
    matplotlib.figure.Figure
        Three panels, not yet saved.
    """
    figure = Figure(figsize=(11.0, 7.0), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplot_mosaic([["divergences", "path"], ["outcomes", "outcomes"]])
    kind = "exact gradients" if config.gradient == "exact" else f"batches of {config.batch_size}"
    figure.suptitle(
        f"{title_of(config.divergence)} on “{config.problem}”, {kind}, "
        f"learning rate {config.learning_rate:g}",
        fontsize=13,
        fontweight="bold",
    )
    colour = color_of(config.divergence)
    _divergences(grid["divergences"], trajectory, config.divergence)
    _path(grid["path"], problem, trajectory, colour)
    _outcomes(grid["outcomes"], problem, trajectory, colour)
    for axes in grid.values():
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; see `toy.files.replacing`."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={**PICTURE})


class _PlainNumbers(LogFormatter):
    """The ticks that LogFormatter chooses, as 0.02 where it would write 2e-02."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _divergences(axes: Axes, trajectory: Trajectory, descended: str) -> None:
    steps = np.arange(len(trajectory.theta))
    for name, values in trajectory.divergences.items():
        shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        # An infinite divergence has no curve, and the legend says why.
        infinite = " (infinite)" if np.all(np.isinf(values)) else ""
        axes.plot(
            steps,
            shown,
            color=color_of(name),
            linewidth=2.6 if name == descended else 1.2,
            linestyle="-" if name == descended else "--",
            label=title_of(name) + infinite + (" (descended)" if name == descended else ""),
        )

    axes.set(yscale="log", xlabel="step", ylabel="divergence to the target (nats)")
    axes.yaxis.set_major_formatter(_PlainNumbers())
    # Between the decades too, where there is less than one and a half of them to show.
    axes.yaxis.set_minor_formatter(_PlainNumbers(minor_thresholds=(1.5, 0.5)))
    # Headroom of a third of the curves' height, for the legend.
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** (1 / 3))
    axes.set_title("divergences of policy to target", fontsize=11, loc="left")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, frameon=False, loc="upper right", ncols=2)


def _path(axes: Axes, problem: Problem, trajectory: Trajectory, colour: str) -> None:
    target = np.exp(problem.log_target)
    log_target = np.where(target > 0, problem.log_target, 0.0)
    entropy_of_target = -np.sum(target * log_target)
    if trajectory.alignment is None or problem.feature is None:
        axes.plot(trajectory.entropy, color=colour)
        axes.axhline(entropy_of_target, color=_TARGET, linewidth=1, linestyle=":")

        axes.set(xlabel="step", ylabel="entropy (nats)")
        axes.set_title("entropy of the policy", fontsize=11, loc="left")
        return
    axes.plot(trajectory.entropy, trajectory.alignment, color=colour, linewidth=1.6, zorder=2)
    for index, shade, label in [(0, _BASE, "start"), (-1, colour, "end")]:
        point = trajectory.entropy[index], trajectory.alignment[index]
        axes.scatter(*point, s=60, color=shade, zorder=3, label=label)
    star = entropy_of_target, float(target @ problem.feature)
    axes.scatter(*star, s=170, marker="*", color=_TARGET, zorder=4, label="target")
    axes.set(xlabel="entropy of the policy (nats)", ylabel=f"E[{problem.feature_name}]")
    axes.set_title("alignment against entropy, along the descent", fontsize=11, loc="left")
    axes.margins(0.12)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, framealpha=0.85, edgecolor="none")


def _outcomes(axes: Axes, problem: Problem, trajectory: Trajectory, colour: str) -> None:
    place = np.arange(len(problem.labels))
    first, last = np.exp(trajectory.log_policy[[0, -1]])
    # Only points on a line have neighbours: elsewhere a connecting line would mean nothing.
    on_line = isinstance(problem.family, GaussianFamily)
    before: dict[str, Any] = {"linestyle": ":"} if on_line else {"linestyle": "none", "marker": "_"}
    after = "-" if on_line else "none"
    axes.bar(place, np.exp(problem.log_target), color="#D9D9D9", label="target", width=0.85)
    axes.plot(place, first, color=_BASE, markersize=9, label="policy at the start", **before)
    axes.plot(place, last, "o", color=colour, ms=4, linestyle=after, label="policy at the end")
    # At most about thirty labels fit side by side, and long ones only upright.
    every = max(1, -(-len(place) // 31))
    upright = len(place) * max(map(len, problem.labels)) > 130 and every == 1
    axes.set_xticks(
        place[::every], problem.labels[::every], fontsize=8, rotation=90 if upright else 0
    )
    axes.margins(x=0.01)
    axes.set(ylabel="probability", xlabel="outcome")
    axes.set_title(problem.description, fontsize=11, loc="left")
    axes.legend(fontsize=9, framealpha=0.85, edgecolor="none")
