"""Pictures of the demonstration: a divergence has the same colour in every one of them.

Each picture is made for one target and legible at the width of a phone; the ones with several
panels come wide (for a desktop and the README) and tall (for a phone).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lm.demo.results import Outcome, Run, over_seeds
from lm.report.figures import BAND, COLORS, LABELS, STYLE, TARGET_COLOR, UNITLESS
from lm.run.records import FOUR, best

INK = "#1c2430"
MUTED = "#5b6675"
FIT_COLORS = ("#0072B2", "#D55E00")
# Beside the colours, so that lines are told apart in grey too.
MARKERS = {"forward_kl": "o", "reverse_kl": "v", "total_variation": "s", "jensen_shannon": "D"}
NAMES_SHOWN = 10


def trajectory_figure(outcome: Outcome) -> Figure:
    """Draw alignment against entropy along every run, from the base to the end of training.

    Parameters
    ----------
    outcome
        The runs toward one target; those of one divergence share a colour.

    Returns
    -------
    Figure
        One panel; the target is a star, the base a square.
    """
    feature = f"feature/{outcome.target.feature}"
    row = _feature_row(outcome)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.9))
        axes = figure.subplots()
        for run in outcome.runs:
            x = [best(record, feature)[0] for record in run.evaluations]
            y = [best(record, "entropy")[0] for record in run.evaluations]
            color, marker = COLORS[run.divergence], MARKERS[run.divergence]
            axes.plot(x, y, "-", color=color, lw=1.6, alpha=0.75)
            axes.plot(x[1:-1], y[1:-1], ".", color=color, markersize=4, alpha=0.75)
            error = BAND * best(run.last, "entropy")[1]
            axes.errorbar(
                x[-1], y[-1], error, fmt=marker, color=color, markersize=9, zorder=4,
                markeredgecolor="white", capsize=0,
            )  # fmt: skip
        origin = outcome.base(feature).value, outcome.base("entropy").value
        target = outcome.target_entropy()
        star = row["target"], target.value
        axes.errorbar(*star, BAND * target.error, color=INK, lw=1.2, capsize=4, zorder=5)
        axes.plot(*origin, "s", color="black", markersize=9, zorder=5)
        axes.plot(*star, "*", color=TARGET_COLOR, markersize=22, markeredgecolor="black", zorder=6)
        axes.margins(x=0.12, y=0.1)
        # Room on the right, where nothing else is, for the name of the star.
        axes.set_xlim(right=axes.get_xlim()[1] + 0.12 * np.ptp(axes.get_xlim()))
        # The lines leave the base toward the star: its name stands on the other side.
        _name_point(axes, "base a", origin, (6, -18 if star[1] > origin[1] else 10))
        _name_point(axes, "target p", star, (15, -4))
        axes.set_xlabel(f"alignment: exact E$_π$[{outcome.target.feature}]")
        axes.set_ylabel("diversity: entropy of π (nats per name)")
        axes.set_title(outcome.target.title)
        _legend(axes)
    return figure


def divergence_figure(outcome: Outcome, *, columns: int) -> Figure:
    """Draw each divergence to the target against the samples drawn, on a logarithmic scale.

    Parameters
    ----------
    outcome
        The runs toward one target.
    columns
        Panels side by side.

    Returns
    -------
    Figure
        One panel a measure and one line a divergence that was descended: the mean over the seeds
        with a band of two standard errors.
    """
    rows = len(FOUR) // columns
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.7 * columns, 3.3 * rows + 0.9))
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, measure in zip(grid.ravel(), FOUR, strict=True):
            _divergence_panel(axes, outcome, measure)
        for axes in grid[-1]:
            axes.set_xlabel("training samples drawn")
        title = f"{outcome.target.title} · lines: what was descended"
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, title=title, alignment="left",
            title_fontproperties={"weight": "bold"}, loc="outside upper left", ncols=2,
        )  # fmt: skip
    return figure


def multiplier_figure(outcomes: Sequence[Outcome], *, columns: int) -> Figure:
    """Draw the fit of the multipliers: dual value and moment error after each Newton step.

    Parameters
    ----------
    outcomes
        Both targets.
    columns
        Panels side by side, 1 or 2.

    Returns
    -------
    Figure
        Two panels, one line a target.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.7 * columns, 3.9 * (2 // columns)))
        left, right = figure.subplots(2 // columns, columns).ravel()
        for outcome, color, marker in zip(outcomes, FIT_COLORS, "os", strict=True):
            fit = outcome.description["fit"]
            steps = range(len(fit["dual_values"]))
            label = f"{outcome.target.title.split(':')[0]}: {_multipliers(outcome)}"
            style = {"color": color, "marker": marker, "markersize": 6, "label": label}
            left.plot(steps, fit["dual_values"], **style)
            # An error of exactly zero has no place on a logarithmic axis.
            errors = np.maximum(fit["moment_errors"], 1e-17)
            right.semilogy(steps, errors, **style)
        left.set_title("Dual value falls to −KL(p‖a)")
        left.set_ylabel("log Z − λ·μ (nats)")
        left.legend(loc="best", fontsize=9)
        right.axhline(1e-10, color=MUTED, lw=1, ls=":")
        right.text(0, 1.6e-10, "asked for", color=MUTED, fontsize=9)
        right.set_title("Moments are met")
        right.set_ylabel("largest moment error (feature spreads)")
        for axes in (left, right):
            axes.set_xlabel("Newton step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def samples_figure(
    outcome: Outcome, is_listed: Callable[[str], bool], satisfies: Callable[[str], bool]
) -> Figure:
    """Write samples of the base and of each policy, listed names apart from invented ones.

    Parameters
    ----------
    outcome
        The runs toward one target; the first seed is shown.
    is_listed
        Whether a text is a listed name.
    satisfies
        Whether a text has the target's feature, which colours its background.

    Returns
    -------
    Figure
        One column of names for the base and for each divergence.
    """
    columns = sample_columns(outcome)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 0.36 * NAMES_SHOWN + 1.5))
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_xlim(-0.02, len(columns))
        axes.set_ylim(NAMES_SHOWN + 0.2, -1.3)
        for place, (label, texts) in enumerate(columns.items()):
            color = COLORS.get(label, "black")
            heading = LABELS[label].replace(" ", "\n", 1) if label in LABELS else label
            axes.text(place, -0.55, heading, color=color, weight="bold", va="center", fontsize=11)
            for line, text in enumerate(texts[:NAMES_SHOWN]):
                at = place, line + 0.3
                _sample_text(axes, at, text, listed=is_listed(text), hit=satisfies(text))
        axes.set_title(f"{outcome.target.title} · first samples, none picked")
        note = (
            f"shaded: {outcome.target.feature} · grey italics: not a listed name · the same random "
            "numbers in every column"
        )
        axes.text(0, NAMES_SHOWN + 0.1, note, color=MUTED, fontsize=10, va="top")
    return figure


def sample_columns(outcome: Outcome) -> dict[str, Sequence[str]]:
    """Return the first texts of the base and of each divergence's first run, none picked."""
    first: dict[str, Run] = {name: outcome.of(name)[0] for name in FOUR}
    after: dict[str, Sequence[str]] = {name: run.after for name, run in first.items()}
    return {"base a": first[FOUR[0]].before, **after}


def _divergence_panel(axes: Axes, outcome: Outcome, measure: str) -> None:
    for name in FOUR:
        runs = outcome.of(name)
        samples = [record["samples"] for record in runs[0].evaluations]
        pairs = [
            over_seeds(records, measure)
            for records in zip(*(run.evaluations for run in runs), strict=True)
        ]
        value = np.array([pair.value for pair in pairs])
        error = BAND * np.array([pair.error for pair in pairs])
        own = name == measure
        axes.plot(
            samples, value, "-", marker=MARKERS[name], markersize=4.5 if own else 3,
            color=COLORS[name], lw=2.8 if own else 1.5, label=LABELS[name], zorder=3 if own else 2,
        )  # fmt: skip
        # On a logarithmic axis a band that reaches zero has no end.
        low = np.maximum(value - error, value / 10)
        axes.fill_between(samples, low, value + error, color=COLORS[name], alpha=0.16, lw=0)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(_minor_label))
    axes.tick_params(axis="y", which="minor", labelsize=8, labelcolor=MUTED)
    axes.set_title(LABELS[measure])
    axes.set_ylabel("no unit" if measure in UNITLESS else "nats")


def _thousands(number: float, _: int | None = None) -> str:
    return f"{number / 1000:g}k" if number else "0"


def _minor_label(number: float, _: int | None = None) -> str:
    digit = number / 10 ** np.floor(np.log10(number))
    return f"{number:g}" if round(digit) in (2, 5) else ""


def _name_point(axes: Axes, text: str, point: tuple[float, float], offset: tuple[int, int]) -> None:
    label = axes.annotate(
        text, point, xytext=offset, textcoords="offset points", weight="bold", color=INK, zorder=7
    )
    label.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _legend(axes: Axes) -> None:
    for name in FOUR:
        axes.plot(
            [], [], "-", marker=MARKERS[name], color=COLORS[name], markersize=8,
            markeredgecolor="white", label=LABELS[name],
        )  # fmt: skip
    axes.legend(loc="best", title="descending", alignment="left")


def _feature_row(outcome: Outcome) -> Mapping[str, Any]:
    rows = outcome.description["features"]
    return next(row for row in rows if row["feature"] == outcome.target.feature)


def _multipliers(outcome: Outcome) -> str:
    values = outcome.description["fit"]["multipliers"]
    return "λ = " + ", ".join(f"{value:.3f}" for value in values)


def _sample_text(
    axes: Axes, at: tuple[float, float], text: str, *, listed: bool, hit: bool
) -> None:
    shade = {"boxstyle": "round,pad=0.18", "facecolor": "#fdebc0", "edgecolor": "none"}
    axes.text(
        *at, text or "(empty)", va="center", fontsize=12, family="monospace",
        style="normal" if listed else "italic", color=INK if listed else "#8a94a3",
        bbox=shade if hit else None,
    )  # fmt: skip
