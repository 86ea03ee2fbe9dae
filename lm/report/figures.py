"""Pictures of runs: axes named with their units, colours that mean the same everywhere.

Every function takes curves, so that a single run and a comparison of several look alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, StrMethodFormatter

from fdpg_ref.display import (
    MARKERS,
    MUTED,
    OTHER_MARKER,
    SERIES,
    STYLE,
    TARGET_COLOR,
    color_of,
    title_of,
    unit_of,
)
from lm.features.registry import short_name
from lm.run.records import FOUR, best

BAND = 2.0
PANELS_IN_A_ROW = 3


class Curve(NamedTuple):
    """A run in a picture, or the mean of some: a name, its divergence, its evaluation records."""

    label: str
    divergence: str
    records: Sequence[Mapping[str, Any]]
    # Of a run among others of the same divergence.
    paint: str = ""
    mark: str = ""

    @property
    def color(self) -> str:
        """The colour of the run, or of the divergence that it descends."""
        return self.paint or color_of(self.divergence)

    @property
    def marker(self) -> str:
        """The mark of the run, or of that divergence."""
        return self.mark or MARKERS.get(self.divergence, OTHER_MARKER)


def alignment_figure(
    curves: Sequence[Curve], quantity: str, *, target: tuple[float, float], title: str = ""
) -> Figure:
    """Draw alignment against diversity along each run's trajectory, the target as a star.

    Parameters
    ----------
    curves
        The runs; their first record is the base.
    quantity
        The x axis: ``feature/NAME``, whose expectation says how aligned the policy is, or a
        divergence to the target, which does so where a target has no features.
    target
        The quantity's value at p, and the entropy of p in nats.
    title
        Above the axes.

    Returns
    -------
    Figure
        Not yet saved.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.8))
        axes = figure.subplots()

        # Every run from its first to its last record, whose entropy has an error.
        for label, curve in _labelled(curves):
            x = [best(record, quantity)[0] for record in curve.records]
            y = [best(record, "entropy")[0] for record in curve.records]
            # Where no standard error is known it is NaN, and no bar is drawn.
            error = BAND * best(curve.records[-1], "entropy")[1]
            axes.plot(x, y, "-", color=curve.color, lw=1.6, alpha=0.75)
            axes.plot(x[1:-1], y[1:-1], ".", color=curve.color, markersize=5, alpha=0.75)
            axes.errorbar(
                x[-1], y[-1], error, fmt=curve.marker, color=curve.color, markersize=10, zorder=4,
                markeredgecolor="white", label=label,
            )  # fmt: skip

        # Where they begin, and where they want to be.
        start = curves[0].records[0]
        origin = best(start, quantity)[0], best(start, "entropy")[0]
        axes.plot(*origin, "s", color="black", markersize=9, zorder=5, label="base a")
        axes.plot(
            *target, "*", color=TARGET_COLOR, markersize=22, markeredgecolor="black", zorder=6,
            label="target p",
        )  # fmt: skip

        axes.set_xlabel(_alignment_label(quantity))
        axes.set_ylabel("diversity: entropy of π  (nats per text)")
        axes.set_title(_plain(title) or "From the base toward the target")
        axes.margins(0.08)
        axes.legend(loc="best")
    return figure


def divergence_figure(
    curves: Sequence[Curve], names: Sequence[str] = FOUR, *, title: str = "", columns: int = 2
) -> Figure:
    """Draw each divergence to the target against samples drawn, with bands of 2 standard errors.

    Parameters
    ----------
    curves
        The runs. A thick line descends the panel's own divergence.
    names
        One panel for each.
    title
        Above all panels.
    columns
        Panels side by side.

    Returns
    -------
    Figure
        Not yet saved.
    """
    with mpl.rc_context(STYLE):
        rows = -(-len(names) // columns)
        figure = Figure(figsize=(3.8 * columns, 2.9 * rows + (0.5 if len(curves) > 1 else 0.0)))
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for axes, name in zip(grid, names, strict=False):
            _divergence_panel(axes, curves, name)
        for axes in grid[len(names) :]:
            axes.set_visible(False)
        for axes in grid[-columns:]:
            _samples_axis(axes)

        if len(curves) > 1:
            # A curve that is infinite in one panel may be finite in another.
            shown = {}
            for axes in grid:
                handles, labels = axes.get_legend_handles_labels()
                shown |= dict(zip(labels, handles, strict=True))
            figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns)
        if title:
            figure.suptitle(_plain(title), x=0.01, ha="left", fontweight="bold")
    return figure


def feature_figure(curves: Sequence[Curve], rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw E_pi of each feature: the exact line, sampled values with error bars, base and target.

    Parameters
    ----------
    curves
        The runs.
    rows
        The features as target.json lists them.

    Returns
    -------
    Figure
        One panel a feature.
    """
    with mpl.rc_context(STYLE):
        columns = min(len(rows), PANELS_IN_A_ROW)
        lines = -(-len(rows) // columns)
        figure = Figure(figsize=(max(7.6, 4.4 * columns), 4.0 * lines))
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, row in zip(grid, rows, strict=False):
            _feature_panel(axes, curves, row)
        for axes in grid[len(rows) :]:
            axes.set_visible(False)
    return figure


def multiplier_figure(target: Mapping[str, Any]) -> Figure:
    """Draw the fit of an exponential family: moments before and after, and Newton's progress."""
    rows, fit = target["features"], target["fit"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.6))
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1.0))

        # Moments of base and target beside each other, and what was asked for.
        place = np.arange(len(rows))
        for shift, key, color in ((-0.2, "base", SERIES[3]), (0.2, "moments", TARGET_COLOR)):
            values = [row["base" if key == "base" else "target"] for row in rows]
            label = "base a" if key == "base" else "target p"
            bars = left.bar(place + shift, values, 0.36, color=color, label=label)
            left.bar_label(bars, fmt="%.3g", fontsize=9, padding=2)
        wanted = [row["wanted"] for row in rows]
        left.plot(place + 0.2, wanted, "k_", markersize=26, label="asked for")

        names = [_plain(short_name(row["feature"])) for row in rows]
        weights = [f"λ = {row['weight']:.3f} nats" for row in rows]
        left.set_xticks(place, map("\n".join, zip(names, weights, strict=True)))
        left.set_ylabel("expectation of the feature")
        left.set_title("Moments")
        left.margins(y=0.18)
        left.set_xlim(-0.8, len(rows) - 0.2)
        left.grid(axis="x", visible=False)
        left.legend(loc="best")

        _newton_panel(right, fit)
    return figure


def estimator_figure(steps: Sequence[Mapping[str, Any]], target: Mapping[str, Any]) -> Figure:
    """Draw the health of the estimator over one run: Z, weights, gradient and its noise."""
    drawn = np.array([step["samples"] for step in steps])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 5.8))
        (first, second), (third, fourth) = figure.subplots(2, 2, sharex=True)
        _partition_panel(first, steps, target)

        # How evenly the importance weights are spread.
        second.plot(drawn, _numbers(steps, "ess_share"), color=SERIES[0], label="effective samples")
        second.plot(
            drawn, _numbers(steps, "largest_share"), color=SERIES[1], label="largest sample"
        )
        second.set_ylim(-0.02, 1.02)
        second.set_ylabel("share of the batch")
        second.set_title("Weights p/π")
        second.legend(loc="best")

        # The gradient, and how far it stands out from its noise.
        third.plot(drawn, _numbers(steps, "gradient_norm"), color=SERIES[0], lw=1.2)
        third.set_ylim(bottom=0.0)
        third.set_ylabel("norm (nats per unit weight)")
        third.set_title("Gradient of a batch")

        ratio = _numbers(steps, "gradient_signal_to_noise")
        known = np.isfinite(ratio)
        fourth.plot(drawn[known], ratio[known], "-o", color=SERIES[0])
        fourth.axhline(1.0, color="black", lw=1.2, ls=":")
        fourth.set_ylim(bottom=0.0)
        fourth.set_ylabel("signal / noise")
        fourth.set_title("Gradient's signal to noise")
        for axes in (third, fourth):
            _samples_axis(axes)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG, at once or not at all, and return its path."""
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=130, format="png", facecolor="white", metadata={"Software": None})
    return partial.replace(path)


def feature_label(name: str) -> str:
    """Return E_π[feature] as axes show it, without the path of a user's file."""
    return f"E$_π$[{_plain(short_name(name))}]"


def _plain(text: str) -> str:
    """Return a text of the user as it stands: a dollar sign would open mathematics."""
    return text.replace("$", "\\$")


def _alignment_label(quantity: str) -> str:
    if quantity.startswith("feature/"):
        name = feature_label(quantity.removeprefix("feature/"))
        return f"alignment: {name}  (expectation of the feature)"
    return f"distance to the target: {title_of(quantity)}{unit_of(quantity)}"


def _samples_axis(axes: Axes) -> None:
    axes.set_xlabel("training samples drawn")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _labelled(curves: Sequence[Curve]) -> Iterator[tuple[str, Curve]]:
    """Yield every curve with its label, which is empty where an earlier one has the same."""
    seen: set[str] = set()
    for curve in curves:
        yield ("" if curve.label in seen else _plain(curve.label)), curve
        seen.add(curve.label)


def _divergence_panel(axes: Axes, curves: Sequence[Curve], name: str) -> None:
    smallest = math.inf
    for curve in curves:
        pairs = np.array([best(record, name) for record in curve.records])
        samples = [record["samples"] for record in curve.records]
        # Where no standard error is known it is NaN, and no band is drawn.
        value, error = pairs[:, 0], BAND * pairs[:, 1]
        if not np.isfinite(value).all():
            axes.text(
                0.5, 0.5, "infinite: the policy has mass\nwhere the target has none",
                transform=axes.transAxes, ha="center", va="center", color=MUTED,
            )  # fmt: skip
            axes.set_yticks([])
            continue

        own = len(curves) > 1 and curve.divergence == name
        axes.plot(
            samples, value, "-", marker=curve.marker, markersize=4, color=curve.color,
            label=_plain(curve.label), lw=2.8 if own else 1.6, zorder=3 if own else 2,
        )  # fmt: skip
        # A band that reaches zero has no end on a logarithmic axis.
        low = np.maximum(value - error, value / 10)
        axes.fill_between(samples, low, value + error, color=curve.color, alpha=0.2, lw=0)
        smallest = min(smallest, value.min())

    descended = len(curves) == 1 and curves[0].divergence == name
    axes.set_title(title_of(name) + ("  (descended)" if descended else ""))
    axes.set_ylabel(f"divergence{unit_of(name)}")
    # The ends differ by less than the way from the start: several runs need a logarithm.
    if len(curves) > 1 and 0 < smallest < math.inf:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        low, high = axes.get_ylim()
        axes.yaxis.set_minor_formatter(FuncFormatter(_minor_label(high / low)))
        axes.tick_params(axis="y", which="minor", labelsize=8, labelcolor=MUTED)
    else:
        axes.set_ylim(bottom=0.0)


def _minor_label(reach: float) -> Callable[[float, int], str]:
    """Return what labels ticks between two powers of ten on an axis of that reach.

    2 and 5, or every tick where those two may both lie outside.
    """
    digits = "25" if reach > 5 else "23456789"
    return lambda number, _: f"{number:g}" if f"{number:e}"[0] in digits else ""


def _feature_panel(axes: Axes, curves: Sequence[Curve], row: Mapping[str, Any]) -> None:
    name = row["feature"]
    # The policies: exact where the feature lives on the list, and sampled.
    for curve in curves:
        samples = [record["samples"] for record in curve.records]
        entries = [record["estimates"][f"feature/{name}"] for record in curve.records]
        if "exact" in entries[0]:
            exact = [float(item["exact"]["value"]) for item in entries]
            axes.plot(samples, exact, color=curve.color, label=f"{_plain(curve.label)}: exact")
        sampled = [float(item["sampled"]["value"]) for item in entries]
        error = [BAND * float(item["sampled"].get("standard_error", 0.0)) for item in entries]
        axes.errorbar(
            samples, sampled, error, fmt="o", markersize=4, capsize=3, color=curve.color, alpha=0.7,
            label=f"{_plain(curve.label)}: sampled ± 2 s.e.",
        )  # fmt: skip

    # Where they come from, and where they are to arrive.
    axes.axhline(row["target"], color=TARGET_COLOR, lw=2, ls="--", label="target p")
    axes.axhline(row["base"], color="black", lw=1.2, ls=":", label="base a")
    axes.set_title(feature_label(name))
    _samples_axis(axes)
    axes.set_ylabel("expectation of the feature")
    axes.legend(loc="best", fontsize=9)


def _newton_panel(axes: Axes, fit: Mapping[str, Any]) -> None:
    values = np.array(fit["dual_values"])
    gap = values - values.min()
    shown = gap > 0
    axes.semilogy(np.arange(len(gap))[shown], gap[shown], "-o", color=SERIES[0])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("Newton step")
    axes.set_ylabel("dual above its minimum (nats)")
    axes.set_title(f"Multipliers: residual {fit['gradient_norm']:.0e}")


def _partition_panel(
    axes: Axes, steps: Sequence[Mapping[str, Any]], target: Mapping[str, Any]
) -> None:
    drawn = np.array([step["samples"] for step in steps])
    batch, error = _numbers(steps, "batch_log_z"), _numbers(steps, "batch_log_z_error")
    axes.plot(drawn, batch, ".", color=SERIES[3], markersize=4, label="batch estimate")
    axes.fill_between(drawn, batch - error, batch + error, color=SERIES[3], alpha=0.25, lw=0)
    axes.plot(drawn, _numbers(steps, "log_z"), color=SERIES[0], label="used in the signal")
    if target["log_z_source"] == "exact":
        axes.axhline(target["log_z"], color="black", lw=1.2, ls=":", label="exact")
    axes.set_ylabel("log Z (nats)")
    axes.set_title("Partition function")
    axes.legend(loc="best")


def _numbers(records: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    values = [record[key] for record in records]
    return np.array([np.nan if value is None else float(value) for value in values])
