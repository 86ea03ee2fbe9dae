"""Pictures of the exact study: who wins which measure, and noise against regret."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fdpg_ref.display import INK
from study.names import FIVE, MEASURE_LABELS, MEASURES, label_of
from study.report.figures.drawing import color_of, dot, log_axis, panels, picture, rows_axis
from study.report.summaries import toy_wins
from study.statistics import spearman
from study.tables.selections import noise_and_regret
from study.tables.stored import Frame

PHASE_TITLES = {
    "optimum": "at the optimum",
    "exact": "after exact descent",
    "sampled": "after sampled descent",
}


@picture(
    "toy_wins",
    "Exact problems: which objective ends lowest on which measure, at the tuned rates. Ties "
    "share a win. The optimum is of problems whose target lies outside the family: inside it "
    "all objectives have the same.",
)
def wins_figure(frame: Frame) -> Figure | None:
    """Draw the share of problems that each of the five wins, per measure, one panel per phase."""
    table = toy_wins(frame)
    phases = list(table["phase"].unique())
    if not phases:
        return None

    figure, grid = panels(len(phases), 3, (4.2, 3.6))
    for axes, phase in zip(grid, phases, strict=True):
        part = table[table["phase"] == phase].pivot(
            index="measure", columns="objective", values="share"
        )

        # Stack the shares of each measure.
        part = part.reindex(MEASURES)
        floor = np.zeros(len(MEASURES))
        for name in FIVE:
            heights = part[name].fillna(0.0).to_numpy()
            bars = axes.bar(range(len(MEASURES)), heights, 0.72, floor, color=color_of(name))
            # White is hard to read on the one light colour.
            ink = INK if name.startswith("alpha") else "white"
            texts = [f"{h:.0%}" if h > 0.06 else "" for h in heights]
            axes.bar_label(bars, texts, label_type="center", color=ink, fontsize=9)
            floor += heights

        axes.set_xticks(range(len(MEASURES)), [MEASURE_LABELS[name] for name in MEASURES])
        axes.set_ylim(0.0, 1.0)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("measure")
        axes.set_ylabel("share of problems won")
        problems = table.loc[table["phase"] == phase, "problems"].max()
        axes.set_title(f"{PHASE_TITLES[phase]}\n({problems:,} problems)")

    handles = [Patch(color=color_of(name), label=label_of(name)) for name in FIVE]
    figure.legend(handles=handles, loc="outside upper left", ncols=5)
    return figure


@picture(
    "toy_noise",
    "Exact problems: does the noise of the gradient explain the order? Objectives from the "
    "least noisy to the noisiest; marks are medians over problems, bars hold the middle half "
    "of them. Right: the rank correlation within each problem.",
)
def noise_figure(frame: Frame) -> Figure:
    """Draw signal to noise beside mean regret, by objective, and their correlation by problem."""
    ratio, regret = noise_and_regret(frame)
    signal = ratio.values[:, 0, :, 0]
    order = np.argsort(-np.nanmedian(signal, axis=0), kind="stable")
    names = [ratio.objectives[place] for place in order]

    # Left and middle: noise and regret, in the same order of rows.
    figure, (left, middle, right) = panels(3, 3, (4.4, 4.8))
    _quartiles(left, signal[:, order], names, [label_of(name) for name in names])
    log_axis(left, "x")
    left.set_xlabel("signal to noise of the gradient,\nalong the exact path")
    left.set_title("Noise")
    _quartiles(middle, regret[:, order], names, [""] * len(names))
    middle.set_xlabel("mean regret after sampled descent\n(nats of logarithm)")
    middle.set_title("Regret")

    # Right: their rank correlation, problem by problem.
    correlations = spearman(signal, regret)
    known = correlations[np.isfinite(correlations)]
    bins = [k / 10 for k in range(-10, 11)]
    right.hist(known, bins=bins, color="#9AA5B1", edgecolor="white")
    right.axvline(known.mean(), color="black", lw=1.6, label=f"mean {known.mean():.2f}")
    right.set_xlabel("Spearman's correlation of the two\nover the objectives of a problem")
    right.set_ylabel("problems")
    right.set_title("Correlation")
    right.margins(y=0.15)
    right.legend(loc="upper left")
    return figure


def _quartiles(axes: Axes, values: np.ndarray, names: list[str], labels: list[str]) -> None:
    for place, name in enumerate(names):
        known = values[np.isfinite(values[:, place]), place]
        if known.size:
            low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
            dot(axes, middle, place, name, x_bar=(low, high))
    rows_axis(axes, labels)
