"""What the estimates of KL(p||pi) say about a policy that dropped a mode, in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fdpg_ref import FDivergence
from fdpg_ref.display import title_of
from toy.files import PICTURE, replacing
from toy.measurement.exact import chance_to_see, median_report, quality
from toy.measurement.ways import WAYS
from toy.measurement.worlds import DROPPED, OUTSIDE, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

_BLIND, _SEEING, _EXACT = "#C43C39", "#2C6FBB", "#222222"
_SIDES = (("target", _SEEING, "samples of the target"), ("policy", _BLIND, "samples of the policy"))
# Where the right panel says how often the samples show what was dropped.
_MASSES = (3e-3, 1e-3, 1e-4, 1e-5)
_SIZES = np.unique(np.round(np.logspace(np.log10(64), 5, 25)).astype(int))


def draw(
    world_of_mass: Callable[[float], World], seen: float, n: int, *, divergence: FDivergence
) -> Figure:
    """Draw a divergence and what two kinds of samples say of it.

    Parameters
    ----------
    world_of_mass : callable
        From the policy's mass on what it dropped to the world.
    seen : float
        That mass, for the left panel.
    n : int
        Number of samples, for the right panel.
    divergence : FDivergence
        Which one is measured.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels, not yet saved: over the number of samples, and over the mass.
    """
    figure = Figure(figsize=(11.0, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    world = world_of_mass(seen)
    share = float(np.exp(world.log_target[DROPPED]))
    figure.suptitle(
        f"A policy dropped {share:.0%} of its target. Its own samples do not show it.",
        fontsize=13,
        fontweight="bold",
    )

    # Over the number of samples.
    of_size = [(int(size), world, int(size)) for size in _SIZES]
    _panel(left, of_size, divergence)
    left.set(xscale="log", xlabel="number of samples n", xlim=(64, 1e5))
    name = title_of(divergence.name)
    left.set_ylabel(
        f"{name} of policy to target" + (f" ({divergence.unit})" * bool(divergence.unit))
    )
    left.set_title(f"it gives that part a mass of {seen:.2g}", fontsize=11, loc="left")
    left.legend(fontsize=9, frameon=False, loc="upper left")

    # Over the policy's mass on what it dropped, from its share of what is left to a millionth.
    outside = float(np.sum(np.exp(world.log_policy[OUTSIDE:])))
    whole = share * (1 - outside)
    masses = np.logspace(np.log10(whole), -6, 31)
    _panel(right, [(float(mass), world_of_mass(float(mass)), n) for mass in masses], divergence)
    right.set(xscale="log", xlabel="policy's mass on what it dropped", xlim=(whole, 1e-6))
    right.set_title(f"n = {n}: the harder it drops, the better it looks", fontsize=11, loc="left")
    _chances(right, [(mass, world_of_mass(mass)) for mass in _MASSES], n)

    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    # Headroom for the legend and the chances.
    left.set_ylim(0, 1.25 * left.get_ylim()[1])
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; see `toy.files.replacing`."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={**PICTURE})


def _panel(axes: Axes, points: Sequence[tuple[float, World, int]], divergence: FDivergence) -> None:
    """Draw the truth, and of each side the median report with its band, and the mean."""
    places = [place for place, _, _ in points]
    for side, colour, label in _SIDES:
        way = WAYS[side]
        reports = [median_report(world, way, n, divergence=divergence) for _, world, n in points]
        values, errors = np.array(reports).T
        means = [quality(world, way, n, divergence=divergence).mean for _, world, n in points]
        axes.fill_between(
            places, values - 2 * errors, values + 2 * errors, color=colour, alpha=0.22, linewidth=0
        )
        axes.plot(
            places, values, color=colour, linewidth=2, label=f"{label}: a typical report ± 2 SE"
        )
        if way.estimated_z:
            # The other mean is the truth.
            axes.plot(places, means, color=colour, linestyle=":", label="their mean report")
    truths = [world.divergence(divergence) for _, world, _ in points]
    axes.plot(places, truths, color=_EXACT, linewidth=1.6, label="exact", zorder=5)


def _chances(axes: Axes, worlds: Sequence[tuple[float, World]], n: int) -> None:
    """Say along the top how many of the sample sets show what was dropped."""
    style = {"fontsize": 8.5, "color": _BLIND, "va": "top"}
    axes.text(
        0.01, 0.99, "sample sets of the policy\nthat show it:", transform=axes.transAxes, **style
    )
    for mass, world in worlds:
        chance = chance_to_see(world, WAYS["policy"], n, DROPPED)
        text = f"{chance:.0%}" if chance >= 0.01 else "<1%"
        place = {"transform": axes.get_xaxis_transform(), "ha": "center"}
        axes.text(mass, 0.99, text, **place, **style)
