"""Pictures of runs: axes named with their units, colours that mean the same everywhere.

Every function takes curves, one a run, so that a single run and a comparison of several look alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from lm.features.registry import short_name
from lm.run.records import FOUR, best

__all__ = ["LABELS", "Curve", "alignment_figure", "divergence_figure"]

# Okabe and Ito's palette: distinguishable without colour vision.
COLORS = {
    "forward_kl": "#0072B2",
    "reverse_kl": "#D55E00",
    "total_variation": "#009E73",
    "jensen_shannon": "#A1478B",
}
OTHER_COLOR = "#555555"
LABELS = {
    "forward_kl": "forward KL(p‖π)",
    "reverse_kl": "reverse KL(π‖p)",
    "total_variation": "total variation",
    "jensen_shannon": "Jensen–Shannon",
    "pearson_chi2": "Pearson χ²(π‖p)",
    "neyman_chi2": "Neyman χ²(p‖π)",
    "squared_hellinger": "squared Hellinger",
    "jeffreys": "Jeffreys",
    "le_cam": "Le Cam",
}
ALPHA = "alpha_"
# Total variation and Le Cam are pure numbers; the others are written in nats.
UNITLESS = ("total_variation", "le_cam", "squared_hellinger", "pearson_chi2", "neyman_chi2")
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 2.0,
    "figure.constrained_layout.use": True,
}
BAND = 2.0
PANELS_IN_A_ROW = 3
TARGET_COLOR = "#E6A100"


def label_of(divergence: str) -> str:
    """Return what pictures and tables call a divergence: its name, or alpha with its number."""
    if divergence.startswith(ALPHA):
        return f"alpha {divergence.removeprefix(ALPHA)}"
    return LABELS.get(divergence, divergence)


class Curve(NamedTuple):
    """One run in a picture: what to call it, its divergence, and its evaluation records."""

    label: str
    divergence: str
    records: Sequence[Mapping[str, Any]]

    @property
    def color(self) -> str:
        """The colour of the divergence that the run descends."""
        return COLORS.get(self.divergence, OTHER_COLOR)


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
        figure = Figure(figsize=(7.2, 5.0))
        axes = figure.subplots()
        for curve in curves:
            x = [best(record, quantity)[0] for record in curve.records]
            y = [best(record, "entropy")[0] for record in curve.records]
            axes.plot(x, y, "-o", color=curve.color, markersize=4, label=curve.label)
            axes.plot(x[-1:], y[-1:], "o", color=curve.color, markersize=10, zorder=4)
        start = curves[0].records[0]
        origin = best(start, quantity)[0], best(start, "entropy")[0]
        axes.plot(*origin, "s", color="black", markersize=9, zorder=5, label="base a")
        axes.plot(
            *target,
            "*",
            color=TARGET_COLOR,
            markersize=20,
            markeredgecolor="black",
            zorder=6,
            label="target p",
        )
        axes.set_xlabel(_alignment_label(quantity))
        axes.set_ylabel("diversity: entropy of π  (nats per text)")
        axes.set_title(title or "From the base toward the target")
        axes.margins(0.08)
        axes.legend(loc="best")
    return figure


def divergence_figure(
    curves: Sequence[Curve], names: Sequence[str] = FOUR, *, title: str = ""
) -> Figure:
    """Draw each divergence to the target against samples drawn, with bands of 2 standard errors."""
    with mpl.rc_context(STYLE):
        rows = -(-len(names) // 2)
        figure = Figure(figsize=(7.6, 2.9 * rows))
        grid = figure.subplots(rows, 2, squeeze=False, sharex=True).ravel()
        for axes, name in zip(grid, names, strict=False):
            _divergence_panel(axes, curves, name)
        for axes in grid[len(names) :]:
            axes.set_visible(False)
        for axes in grid[-2:]:
            _samples_axis(axes)
        if len(curves) > 1:
            grid[0].legend(loc="best")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
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
        place = np.arange(len(rows))
        for shift, key, color in ((-0.2, "base", "#9aa5b1"), (0.2, "moments", TARGET_COLOR)):
            values = [row["base" if key == "base" else "target"] for row in rows]
            label = "base a" if key == "base" else "target p"
            bars = left.bar(place + shift, values, 0.36, color=color, label=label)
            left.bar_label(bars, fmt="%.3g", fontsize=9, padding=2)
        wanted = [row["wanted"] for row in rows]
        left.plot(place + 0.2, wanted, "k_", markersize=26, label="asked for")
        ticks = [f"{short_name(row['feature'])}\nλ = {row['weight']:.3f} nats" for row in rows]
        left.set_xticks(place, ticks)
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
        second.plot(drawn, _numbers(steps, "ess_share"), color="#0072B2", label="effective samples")
        second.plot(
            drawn, _numbers(steps, "largest_share"), color="#D55E00", label="largest sample"
        )
        second.set_ylim(-0.02, 1.02)
        second.set_ylabel("share of the batch")
        second.set_title("Weights p/π")
        second.legend(loc="best")
        third.plot(drawn, _numbers(steps, "gradient_norm"), color="#555555", lw=1.2)
        third.set_ylim(bottom=0.0)
        third.set_ylabel("norm (nats per unit weight)")
        third.set_title("Gradient of a batch")
        ratio = _numbers(steps, "gradient_signal_to_noise")
        known = np.isfinite(ratio)
        fourth.plot(drawn[known], ratio[known], "-o", color="#A1478B")
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
    # A dollar sign of the user's would open mathematics.
    shown = short_name(name).replace("$", "\\$")
    return f"E$_π$[{shown}]"


def _alignment_label(quantity: str) -> str:
    if quantity.startswith("feature/"):
        name = feature_label(quantity.removeprefix("feature/"))
        return f"alignment: {name}  (expectation of the feature)"
    unit = "" if quantity in UNITLESS else "  (nats)"
    return f"distance to the target: {label_of(quantity)}{unit}"


def _samples_axis(axes: Axes) -> None:
    axes.set_xlabel("training samples drawn")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _divergence_panel(axes: Axes, curves: Sequence[Curve], name: str) -> None:
    for curve in curves:
        pairs = [best(record, name) for record in curve.records]
        samples = [record["samples"] for record in curve.records]
        value = np.array([pair[0] for pair in pairs])
        if not np.isfinite(value).all():
            axes.text(
                0.5,
                0.5,
                "infinite: the policy has mass\nwhere the target has none",
                transform=axes.transAxes,
                ha="center",
                va="center",
                color="#777777",
            )
            axes.set_yticks([])
            continue
        # Where no standard error is known, no band is drawn.
        error = np.array([0.0 if np.isnan(pair[1]) else pair[1] for pair in pairs])
        axes.plot(samples, value, "-o", markersize=4, color=curve.color, label=curve.label)
        low = np.maximum(value - BAND * error, 0.0)
        axes.fill_between(samples, low, value + BAND * error, color=curve.color, alpha=0.2, lw=0)
    descended = len(curves) == 1 and curves[0].divergence == name
    axes.set_title(label_of(name) + ("  (descended)" if descended else ""))
    axes.set_ylabel("divergence" if name in UNITLESS else "divergence (nats)")
    axes.set_ylim(bottom=0.0)


def _feature_panel(axes: Axes, curves: Sequence[Curve], row: Mapping[str, Any]) -> None:
    name = row["feature"]
    for curve in curves:
        samples = [record["samples"] for record in curve.records]
        entries = [record["estimates"][f"feature/{name}"] for record in curve.records]
        if "exact" in entries[0]:
            exact = [float(item["exact"]["value"]) for item in entries]
            axes.plot(samples, exact, color=curve.color, label=f"{curve.label}: exact")
        sampled = [float(item["sampled"]["value"]) for item in entries]
        error = [BAND * float(item["sampled"].get("standard_error", 0.0)) for item in entries]
        axes.errorbar(
            samples,
            sampled,
            error,
            fmt="o",
            markersize=4,
            capsize=3,
            color=curve.color,
            alpha=0.7,
            label=f"{curve.label}: sampled ± 2 s.e.",
        )
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
    axes.semilogy(np.arange(len(gap))[shown], gap[shown], "-o", color="#0072B2")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("Newton step")
    axes.set_ylabel("dual above its minimum (nats)")
    axes.set_title(f"Multipliers: residual {fit['gradient_norm']:.0e}")


def _partition_panel(
    axes: Axes, steps: Sequence[Mapping[str, Any]], target: Mapping[str, Any]
) -> None:
    drawn = np.array([step["samples"] for step in steps])
    batch, error = _numbers(steps, "batch_log_z"), _numbers(steps, "batch_log_z_error")
    axes.plot(drawn, batch, ".", color="#9aa5b1", markersize=4, label="batch estimate")
    axes.fill_between(drawn, batch - error, batch + error, color="#9aa5b1", alpha=0.25, lw=0)
    axes.plot(drawn, _numbers(steps, "log_z"), color="#0072B2", label="used in the signal")
    if target["log_z_source"] == "exact":
        axes.axhline(target["log_z"], color="black", lw=1.2, ls=":", label="exact")
    axes.set_ylabel("log Z (nats)")
    axes.set_title("Partition function")
    axes.legend(loc="best")


def _numbers(records: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    values = [record[key] for record in records]
    return np.array([np.nan if value is None else float(value) for value in values])
