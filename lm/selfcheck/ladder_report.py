"""The precision ladder on paper: rows of a table, a figure, and the files of a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fdpg_ref.display import SERIES, STYLE, title_of
from lm.run.files import write_atomic
from lm.selfcheck.ladder import GRADIENTS
from lm.selfcheck.rungs import BAND, Ladder, Rung

PRECISION_COLORS: dict[str, str] = dict(
    zip(("float64", "float32", "bfloat16", "float16"), SERIES, strict=True)
)


def ladder_rows(ladder: Ladder) -> list[tuple[str, ...]]:
    """Return the table: a row per quantity, its name first, then a value per precision."""
    # What is shown of a rung.
    quantities: list[tuple[str, Callable[[Rung], str]]] = [
        (
            f"token ratio leaves {list(BAND)}",
            lambda rung: f"{100 * rung.tokens_outside:.3g} %",
        ),
        ("error of a token, max (nats)", lambda rung: _short(rung.token_error_max)),
        ("error of a sequence, max (nats)", lambda rung: _short(rung.sequence_error_max)),
        ("error of a sequence, mean (nats)", lambda rung: _short(rung.sequence_error_mean)),
        *(_gradient_rows()),
        ("token alone or among 8, max (nats)", lambda rung: _short(rung.batch_shape_max)),
        ("sampler less scorer, max (nats)", lambda rung: _short(rung.sampler_scorer_max)),
        ("sampler less scorer, mean (nats)", lambda rung: _short(rung.sampler_scorer_mean)),
        ("same draws as in float64", lambda rung: f"{100 * rung.same_draws:.3g} %"),
        ("scale of the loss", lambda rung: f"{rung.loss_scale:g}"),
        ("overflows before it", lambda rung: f"{rung.overflows}"),
    ]

    return [
        (name, *("–" if rung.unavailable else value(rung) for rung in ladder.rungs))
        for name, value in quantities
    ]


def ladder_notes(ladder: Ladder) -> list[str]:
    """Return one sentence for each precision that could not be measured, and why."""
    return [
        f"{rung.precision} could not be measured here: {rung.unavailable}"
        for rung in ladder.rungs
        if rung.unavailable
    ]


def ladder_figure(ladder: Ladder, *, title: str) -> Figure:
    """Draw the ladder: token errors, sequence errors, gradients, and what should be equal.

    Parameters
    ----------
    ladder
        What was measured.
    title
        Above the panels.

    Returns
    -------
    Figure
        Not yet saved.
    """
    rungs = [rung for rung in ladder.rungs if not rung.unavailable]
    below = [rung for rung in rungs if rung.precision != "float64"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 7.6))
        figure.suptitle(title, x=0.01, ha="left", fontsize=13)
        (tokens, sequences), (gradients, equal) = figure.subplots(2, 2)

        # Errors against float64: tokens, sequences, gradients.
        _token_panel(tokens, ladder, [rung.precision for rung in below])
        _points(
            sequences,
            below,
            {"max": lambda r: r.sequence_error_max, "mean": lambda r: r.sequence_error_mean},
        )
        sequences.set_ylabel("error (nats)")
        sequences.set_title("Log-probability of a sequence")
        _points(gradients, below, {title_of(name): _one_minus_cosine(name) for name in GRADIENTS})
        gradients.set_ylabel("1 − cosine with float64")
        gradients.set_title("Direction of the gradient")

        # What exact arithmetic would make equal, float64 included.
        _points(
            equal,
            rungs,
            {
                "token: batch of 1 or 8": lambda r: r.batch_shape_max,
                "sequence: sampler or scorer": lambda r: r.sampler_scorer_max,
            },
        )
        equal.set_ylabel("largest difference (nats)")
        equal.set_title("What exact arithmetic would make equal")

        # One legend for all panels.
        handles = [
            Line2D([], [], marker="o", color=PRECISION_COLORS[rung.precision], label=rung.precision)
            for rung in rungs
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def write_ladder(ladder: Ladder, folder: Path, *, about: Mapping[str, Any]) -> list[Path]:
    """Write ladder.json and ladder.png into a folder, which is made if need be.

    Parameters
    ----------
    ladder
        What was measured.
    folder
        Files of an earlier ladder in it are replaced.
    about
        Model, device, seed and versions, for the JSON file; ``model`` and ``device`` are used.

    Returns
    -------
    list of Path
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**about, **ladder.record()}, indent=2, allow_nan=False) + "\n"
    write_atomic(folder / "ladder.json", content.encode("utf-8"))
    title = f"Precision ladder of {about['model']} on {about['device']}, against float64"
    partial = folder / ".ladder.partial.png"
    ladder_figure(ladder, title=title).savefig(partial, dpi=110)
    partial.replace(folder / "ladder.png")
    return [folder / "ladder.json", folder / "ladder.png"]


def _gradient_rows() -> list[tuple[str, Callable[[Rung], str]]]:
    def ratio(name: str) -> Callable[[Rung], str]:
        return lambda rung: f"{rung.gradients[name].norm_ratio:.5f}"

    def angle(name: str) -> Callable[[Rung], str]:
        return lambda rung: _short(rung.gradients[name].one_minus_cosine)

    rows = []
    for name in GRADIENTS:
        words = title_of(name)
        rows.append((f"gradient, {words}, 1 - cosine", angle(name)))
        rows.append((f"gradient, {words}, norm ratio", ratio(name)))
    return rows


def _one_minus_cosine(name: str) -> Callable[[Rung], float]:
    return lambda rung: rung.gradients[name].one_minus_cosine


def _token_panel(axes: Axes, ladder: Ladder, precisions: Sequence[str]) -> None:
    """Draw the share of tokens whose error exceeds the abscissa."""
    for precision in precisions:
        errors = np.sort(ladder.token_errors[precision].numpy())
        share = 1.0 - np.arange(len(errors)) / len(errors)
        color = PRECISION_COLORS[precision]
        shown = errors > 0
        axes.step(errors[shown], share[shown], where="post", color=color)
    axes.axvline(math.log(BAND[1]), color="#5b6675", lw=1.2, ls=":")
    beside = axes.get_xaxis_transform()
    words = {"rotation": 90, "ha": "left", "va": "bottom", "color": "#5b6675"}
    axes.text(1.3 * math.log(BAND[1]), 0.02, "ratio 1.1", transform=beside, **words)
    # Stated, for a log axis finds no limits of its own where every error is zero.
    axes.set(xscale="log", yscale="log", xlim=(1e-9, 10.0), ylim=(0.5 / ladder.tokens, 1.5))
    axes.set_xlabel("error of a token's log-probability (nats)")
    axes.set_ylabel("share of tokens beyond it")
    axes.set_title("Tokens")


def _points(
    axes: Axes, rungs: Sequence[Rung], groups: Mapping[str, Callable[[Rung], float]]
) -> None:
    """Draw a group of points per quantity, one per precision; a zero lies on the bottom line."""
    heights = np.array([[value(rung) for value in groups.values()] for rung in rungs])
    shown = heights[(heights > 0) & np.isfinite(heights)]
    floor = shown.min(initial=1.0) / 10

    # The precisions side by side within a group, each with its value.
    for index, (rung, row) in enumerate(zip(rungs, heights, strict=True)):
        places = np.arange(len(groups)) + (index - (len(rungs) - 1) / 2) * 0.22
        color = PRECISION_COLORS[rung.precision]
        axes.plot(places, np.maximum(row, floor), "o", color=color, markersize=9)
        for place, height in zip(places, row, strict=True):
            axes.annotate(
                _short(float(height)),
                (place, max(height, floor)),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )

    # Room above for the values.
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set(
        yscale="log",
        xlim=(-0.6, len(groups) - 0.4),
        ylim=(floor / 3, 30 * shown.max(initial=floor)),
    )


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"
