"""The figures of the report, as PNG in base64."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fdpg_ref import DIVERGENCES
from toy.cli.report import TITLES
from toy.verify.report import measures

# Okabe and Ito's palette, distinct for colour-blind readers; and line styles for those in grey.
_STYLES = {
    "forward_kl": ("#0072B2", "-"),
    "reverse_kl": ("#D55E00", "-"),
    "total_variation": ("#E69F00", "--"),
    "jensen_shannon": ("#009E73", "-"),
    "pearson_chi2": ("#CC79A7", "-"),
    "neyman_chi2": ("#56B4E9", "--"),
    "squared_hellinger": ("#8C8C8C", "-"),
    "jeffreys": ("#222222", "--"),
    "le_cam": ("#B8A800", "-."),
}
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
            colour, line = _STYLES[name]
            shown = [max(value, _FLOOR) for value in values]
            axes.loglog(
                measures.SIZES, shown, line, color=colour, marker="o", ms=3.5, label=TITLES[name]
            )
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
        colour, line = _STYLES[name]
        axes.loglog(masses, values, line, color=colour, label=TITLES[name])
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
    marks = {"none": ("#8C8C8C", "|"), "optimal": ("#009E73", "o")}
    marks |= {"running": ("#CC79A7", "s"), "leave_one_out": ("#0072B2", "D")}
    for baseline, by_name in noise.items():
        colour, mark = marks[baseline]
        values = [by_name[name] for name in names]
        axes.plot(
            values, range(len(names)), mark, color=colour, ms=6, label=baseline.replace("_", " ")
        )
    axes.set_yticks(range(len(names)), [TITLES[name] for name in names])
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("trace of the covariance over that of none, n = 5")
    figure.legend(loc="outside lower center", ncols=4, columnspacing=0.9, handletextpad=0.1)
    return _encoded(figure)


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
