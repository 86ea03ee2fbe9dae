"""What the pictures have in common: colours, markers, panels and legends.

The colours of the four divergences are those of every picture of the project; shape says the same
as colour, so that a picture in grey is readable too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fdpg_ref import display
from fdpg_ref.display import MUTED, OTHER_COLOR, OTHER_MARKER, STYLE, TARGET_COLOR
from study.names import label_of, method_order
from study.report.blocks import Picture

# What is compared with the divergences and is none has colours and markers here.
COLORS = display.COLORS | {"rl_kl": "#8C564B", "reward": "#7A7A7A"}
MARKERS = display.MARKERS | {"rl_kl": "P", "reward": "X"}
DPI = 130


def picture(
    name: str, caption: str
) -> Callable[[Callable[[Any], Figure | None]], Callable[[Any], Picture | None]]:
    """Return a decorator: the function draws in our style, and its figure becomes a `Picture`."""

    def decorate(draw: Callable[[Any], Figure | None]) -> Callable[[Any], Picture | None]:
        @wraps(draw)
        def drawn(source: Any) -> Picture | None:
            with mpl.rc_context(STYLE):
                figure = draw(source)
            return None if figure is None else Picture(name, caption, figure)

        return drawn

    return decorate


def panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, the last row filled with nothing.

    Parameters
    ----------
    count, columns
        How many panels, and how many side by side.
    size
        Of one panel, in inches.

    Returns
    -------
    Figure, list of Axes
        Room for a legend above is left by constrained layout.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.6))
    grid = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def color_of(method: str) -> str:
    """Return the colour of an objective."""
    return COLORS.get(method, OTHER_COLOR)


def marker_of(method: str) -> str:
    """Return the marker of an objective."""
    return MARKERS.get(method, OTHER_MARKER)


def legend_of(
    figure: Figure,
    methods: Iterable[str],
    extra: Sequence[Line2D] = (),
    *,
    title: str = "",
    columns: int = 5,
) -> None:
    """Put one legend for all panels above them."""
    handles = [
        Line2D([], [], color=color_of(name), marker=marker_of(name), label=label_of(name))
        for name in sorted(set(methods), key=method_order)
    ]
    figure.legend(
        handles=[*handles, *extra],
        loc="outside upper left",
        ncols=columns,
        title=title,
        alignment="left",
        title_fontproperties={"weight": "bold"},
    )


def base_mark() -> Line2D:
    """Return the legend's entry of the base."""
    return Line2D([], [], color="black", marker="s", ls="", label="base a")


def target_mark() -> Line2D:
    """Return the legend's entry of the target."""
    return Line2D(
        [], [], color=TARGET_COLOR, marker="*", ls="", ms=14, mec="black", label="target p"
    )


def dot(
    axes: Axes, x: float, y: float, method: str, *, x_bar: Any = None, y_bar: Any = None
) -> None:
    """Draw one objective's value with its bars, given as (low, high) on either axis."""
    axes.errorbar(
        x,
        y,
        xerr=_lengths(x, x_bar),
        yerr=_lengths(y, y_bar),
        fmt=marker_of(method),
        color=color_of(method),
        markersize=8,
        markeredgecolor="white",
        markeredgewidth=0.6,
        elinewidth=1.6,
        capsize=3,
        zorder=4,
    )


def rows_axis(axes: Axes, labels: Sequence[str]) -> None:
    """Give each row of dots its name, the first one at the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def log_axis(axes: Axes, which: str) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2 and 5 times the powers of ten."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
    # Over many decades the powers alone fill the axis.
    steps = (1.0, 2.0, 5.0) if high / max(low, 1e-300) < 300.0 else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def say_infinite(axes: Axes) -> None:
    """Say in a panel without values why it has none."""
    words = "infinite: the policy has mass\nwhere the target has none"
    place = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, words, color=MUTED, fontsize=10, **place)


def save(picture: Picture, folder: Path) -> Path:
    """Write a picture as PNG and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{picture.name}.png"
    with mpl.rc_context(STYLE):
        # Without the version of matplotlib in it, the same tables give the same bytes.
        picture.figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": None})
    return path


def _lengths(middle: float, ends: Any) -> Any:
    if ends is None:
        return None
    low, high = ends
    return [[max(0.0, middle - low)], [max(0.0, high - middle)]]
