"""Pictures that several notebooks draw: the triangle of three outcomes, gradients and clouds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Polygon
from matplotlib.quiver import Quiver

from fdpg_ref import DIVERGENCES, FDivergence, display, exact_divergence
from toy.categorical import log_probs, score_matrix
from toy.exact import exact_gradient

COLOURS = {
    name: display.COLORS[name]
    for name in ("forward_kl", "reverse_kl", "jensen_shannon", "total_variation")
}
LEVELS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5)
# Corners A, B, C of an equilateral triangle; a point of the simplex is their weighted mean.
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3.0) / 2]])
ELLIPSE_OF_95_PERCENT = np.sqrt(-2 * np.log(0.05))
# How long an arrow is drawn, in sides of the triangle for each nat per unit of logit.
ARROW = 0.25


def title(name: str) -> str:
    """Return a divergence's name as a heading."""
    words = display.title_of(name)
    return words[0].upper() + words[1:]


def house_style() -> None:
    """Set fonts, sizes and spines for all figures of a notebook."""
    # Smaller and lighter than on a page: several panels share the width of a cell.
    own: dict[Any, Any] = {
        "figure.dpi": 110,
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "normal",
    }
    plt.rcParams.update(display.STYLE | own)


def to_plane(weights: np.ndarray) -> np.ndarray:
    """Map points of the simplex, or velocities on it, from (..., 3) to the (..., 2) plane."""
    return weights @ CORNERS


def velocity(logits: np.ndarray, log_target: np.ndarray, *, divergence: FDivergence) -> np.ndarray:
    """Return d pi / d time when the logits follow the exact gradient downhill.

    Each probability moves by pi(x) times its score along the step.
    """
    log_policy, scores = log_probs(logits), score_matrix(logits)
    gradient = exact_gradient(log_policy, log_target, scores, divergence=divergence)
    return -np.exp(log_policy) * (scores @ gradient)


def draw_triangle(axes: Axes, labels: Sequence[str] = ("A", "B", "C")) -> None:
    """Draw the border of the simplex and name its corners."""
    border = np.vstack([CORNERS, CORNERS[:1]])
    axes.plot(*border.T, color="#222222", linewidth=1.2, zorder=3)
    offsets = ((-0.05, -0.045), (0.05, -0.045), (0.0, 0.045))
    for corner, offset, label in zip(CORNERS, offsets, labels, strict=True):
        x, y = corner + offset
        axes.text(x, y, label, ha="center", va="center", fontsize=12)
    axes.set_aspect("equal")
    axes.axis("off")


def draw_landscape(
    axes: Axes, log_target: np.ndarray, *, divergence: FDivergence, cells: int = 61, lines: bool
) -> QuadContourSet:
    """Draw D_f(policy‖target) in colour over the simplex; lines: and where its gradient leads."""
    # A grid over the triangle, in the coordinates of its corners.
    x, y = np.meshgrid(np.linspace(0, 1, cells), np.linspace(0, CORNERS[2, 1], cells))
    weights = np.linalg.solve(
        np.vstack([CORNERS.T, np.ones(3)]), np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    ).T

    # Divergence and velocity at each of its points.
    value, flow = np.full(x.size, np.nan), np.full((x.size, 2), np.nan)
    # Points up to one cell outside are moved to the border, so that the colour reaches it.
    for i in np.flatnonzero(np.min(weights, axis=-1) > -1.5 / cells):
        logits = np.log(np.maximum(weights[i], 1e-3))
        value[i] = exact_divergence(log_probs(logits), log_target, divergence=divergence)
        flow[i] = to_plane(velocity(logits, log_target, divergence=divergence))

    # Colours and lines of flow, cut off at the border.
    norm = BoundaryNorm(LEVELS, plt.get_cmap("YlGnBu").N, extend="max")
    filled = axes.contourf(
        x, y, value.reshape(x.shape), levels=LEVELS, norm=norm, cmap="YlGnBu", extend="max"
    )
    border = Polygon(CORNERS, transform=axes.transData)
    filled.set_clip_path(border)
    if lines:
        u, v = (np.ma.masked_invalid(part.reshape(x.shape)) for part in flow.T)
        axes.streamplot(
            x[0], y[:, 0], u, v, density=0.9, color="#333333", linewidth=0.8, arrowsize=0.9
        ).lines.set_clip_path(border)
    draw_triangle(axes)
    return filled


def draw_arrows(
    axes: Axes,
    policies: np.ndarray,
    log_target: np.ndarray,
    *,
    divergence: FDivergence,
    colour: str = "#222222",
) -> Quiver:
    """Draw steps against the exact gradient in the logits, as arrows of true length.

    A step in three logits that sums to zero is a step in the plane of the triangle, so an arrow has
    the gradient's direction and `ARROW` times its length, on every axes of every figure.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        With a triangle.
    policies : numpy.ndarray, shape (n, 3)
        Probabilities, none of them zero.
    log_target : numpy.ndarray, shape (3,)
        Nats; it need not sum to one.
    divergence : FDivergence
        What is descended.
    colour : str
        Of the arrows.

    Returns
    -------
    matplotlib.quiver.Quiver
        The arrows.
    """
    steps = [
        -exact_gradient(np.log(p), log_target, score_matrix(np.log(p)), divergence=divergence)
        for p in policies
    ]
    # The map to the plane shortens every such step by the same factor, the root of two.
    at, step = to_plane(policies), np.sqrt(2) * to_plane(np.stack(steps))
    return axes.quiver(
        *(*at.T, *step.T),
        **{"angles": "xy", "scale_units": "xy", "scale": 1 / ARROW},
        **{"color": colour, "width": 0.009, "minlength": 0.6, "zorder": 4},
    )


def inner_points(parts: int) -> np.ndarray:
    """Return the (n, 3) policies whose probabilities are multiples of 1/parts, none of them 0."""
    return np.array(
        [[i, j, parts - i - j] for i in range(1, parts - 1) for j in range(1, parts - i)]
    ) / float(parts)


def fields_figure(
    target: Sequence[float],
    names: Sequence[str] = tuple(COLOURS),
    *,
    start: Sequence[float] | None = None,
) -> Figure:
    """Draw the gradient of each named divergence around one target on three outcomes.

    Parameters
    ----------
    target : sequence of float
        Three probabilities: the star.
    names : sequence of str
        A panel each.
    start : sequence of float, optional
        With it, gradients are arrows of true length, and the one at this policy is orange; without
        it, lines lead from everywhere to the target.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    log_target, star = np.log(np.asarray(target)), to_plane(np.asarray(target))
    figure, grid = plt.subplots(1, len(names), figsize=(3.1 * len(names), 3.7))
    fields = [
        draw_landscape(axes, log_target, divergence=DIVERGENCES[name], lines=start is None)
        for axes, name in zip(grid, names, strict=True)
    ]
    for axes, name in zip(grid, names, strict=True):
        axes.scatter(*star, s=190, marker="*", color="#D55E00", edgecolor="white", zorder=5)
        axes.set_title(title(name), loc="center", pad=16)

    # Every arrow of every panel in the same scale, with one of half a nat beside them.
    shown = "lines: where it flows"
    if start is not None:
        shown = "arrows: steps against the gradient in the logits, all in one scale"
        for axes, name in zip(grid, names, strict=True):
            divergence, first = DIVERGENCES[name], np.asarray([start])
            draw_arrows(axes, inner_points(11), log_target, divergence=divergence)
            arrows = draw_arrows(axes, first, log_target, divergence=divergence, colour="#D55E00")
            axes.quiverkey(arrows, 0.93, 0.88, 0.5, "0.5 nats", labelpos="N")

    bar = figure.colorbar(
        fields[0], ax=grid, location="bottom", shrink=0.6, aspect=45, ticks=LEVELS
    )
    bar.set_label(f"divergence of policy to target (nats); star: target; {shown}")
    bar.ax.set_xticklabels([f"{level:g}" for level in LEVELS])
    return figure


def descents(
    starts: Sequence[np.ndarray],
    log_target: np.ndarray,
    *,
    divergence: FDivergence,
    rate: float,
    steps: int,
) -> Iterator[np.ndarray]:
    """Yield, for each start (logits), the (steps + 1, 3) probabilities of an exact descent."""
    for start in starts:
        logits, visited = start, [np.exp(log_probs(start))]
        for _ in range(steps):
            gradient = exact_gradient(
                log_probs(logits), log_target, score_matrix(logits), divergence=divergence
            )
            logits = logits - rate * gradient
            visited.append(np.exp(log_probs(logits)))
        yield np.stack(visited)


def draw_cloud(
    axes: Axes, estimates: np.ndarray, exact: np.ndarray, covariance: np.ndarray, *, colour: str
) -> None:
    """Draw sampled gradients of a softmax over three outcomes, in lengths of the exact one.

    The exact gradient leads from the grey dot to (1, 0), so clouds can be compared between panels.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Give all panels the same limits.
    estimates : numpy.ndarray, shape (n, 3)
        Sampled gradients in the logits.
    exact : numpy.ndarray, shape (3,)
        The exact one; not zero.
    covariance : numpy.ndarray, shape (3, 3)
        Of an estimate; its ellipse holds 95 % of a normal distribution.
    colour : str
        Of the points.
    """
    # Along the exact gradient and across it, in the plane of gradients that sum to zero.
    x, y = to_plane(exact) / (to_plane(exact) @ to_plane(exact))
    frame = CORNERS @ np.array([[x, -y], [y, x]])
    axes.scatter(*(estimates @ frame).T, s=5, color=colour, alpha=0.35, linewidths=0)
    values, vectors = np.linalg.eigh(frame.T @ covariance @ frame)
    angle = np.degrees(np.arctan2(vectors[1, -1], vectors[0, -1]))
    width, height = 2 * ELLIPSE_OF_95_PERCENT * np.sqrt(values[::-1])
    axes.add_patch(Ellipse((1.0, 0.0), width, height, angle=angle, fill=False, linewidth=1.5))
    axes.plot(1, 0, marker="+", markersize=16, markeredgewidth=2, color="#222222")
    axes.plot(0, 0, marker="o", markersize=4, color="#999999")
