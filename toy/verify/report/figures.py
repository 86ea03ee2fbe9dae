"""The figures of the report, as PNG in base64."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fdpg_ref import DIVERGENCES
from fdpg_ref.display import SERIES, color_of
from toy.verify.report import measures

# Line styles too, for those who read in grey.
_LINES = ("-", "--", "-.", ":")
# Biases below this are rounding, and lie on the floor of the figure.
_FLOOR = 1e-4


@cache
def bias_figure() -> str:
    """Return the bias against the batch size for the Z policies, one panel each."""
    curves = measures.bias_curves()
    figure = _figure(5.2, 9.4)
    panels = figure.subplots(len(curves), 1, sharex=True, sharey=True)
    for axes, (title, by_name) in zip(panels, curves.items(), strict=True):
        for name, values in by_name.items():
            shown = [max(value, _FLOOR) for value in values]
            axes.loglog(measures.SIZES, shown, marker="o", ms=3.5, **_line_of(name))
        axes.set_title(f"Z: {title}", fontsize=10, loc="left")
        axes.set_ylim(_FLOOR / 1.5, 5)
        axes.set_ylabel("relative bias")
    panels[-1].set_xticks(measures.SIZES, [str(n) for n in measures.SIZES], minor=False)
    panels[-1].minorticks_off()
    panels[-1].set_xlabel("batch size n")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return _encoded(figure)


@cache
def mode_figure() -> str:
    """Return the signal-to-noise ratio of each divergence where the policy misses a mode."""
    masses, ratios = measures.missing_mode()
    figure = _figure(5.2, 4.6)
    axes = figure.subplots()
    for name, values in ratios.items():
        axes.loglog(masses, values, **_line_of(name))
    axes.set_xlabel("policy's mass on a mode that has 0.45 of the target")
    axes.set_ylabel("|mean| / noise of the gradient, n = 5")
    figure.legend(loc="outside lower center", ncols=2)
    return _encoded(figure)


@cache
def baseline_figure() -> str:
    """Return the noise of each baseline over that of none, by divergence."""
    noise = measures.noise_of_baselines()
    names = list(DIVERGENCES)[::-1]
    figure = _figure(5.2, 4.2)
    axes = figure.subplots()
    marks = {"none": "|", "optimal": "o", "running": "s", "leave_one_out": "D"}
    for colour, (baseline, by_name) in zip(SERIES, noise.items(), strict=True):
        values = [by_name[name] for name in names]
        label = baseline.replace("_", " ")
        axes.plot(values, range(len(names)), marks[baseline], color=colour, ms=6, label=label)
    axes.set_yticks(range(len(names)), [DIVERGENCES[name].title for name in names])
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("trace of the covariance over that of none, n = 5")
    figure.legend(loc="outside lower center", ncols=4, columnspacing=0.9, handletextpad=0.1)
    return _encoded(figure)


def _line_of(name: str) -> dict[str, str]:
    line = _LINES[list(DIVERGENCES).index(name) % len(_LINES)]
    return {"color": color_of(name), "linestyle": line, "label": DIVERGENCES[name].title}


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _encoded(figure: Figure) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    buffer = BytesIO()
    # No date and no version inside: the same numbers give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return b64encode(buffer.getvalue()).decode("ascii")
