"""Drawing and grading for the notebooks; the mathematics stays in fdpg_ref and toy.

``python notebooks/lesson.py FILE.png`` draws the gradient fields of the README.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Polygon

from fdpg_ref import DIVERGENCES, FDivergence, display, exact_divergence
from toy.categorical import log_probs, score_matrix
from toy.exact import exact_gradient

# benchmarks/ is not installed; the notebooks take it from the root of the repository.
sys.path.append(str(Path(__file__).resolve().parent.parent))

COLOURS = {
    name: display.COLORS[name]
    for name in ("forward_kl", "reverse_kl", "jensen_shannon", "total_variation")
}
LEVELS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5)
# Corners A, B, C of an equilateral triangle; a point of the simplex is their weighted mean.
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3.0) / 2]])
ELLIPSE_OF_95_PERCENT = np.sqrt(-2 * np.log(0.05))


class NotSolved(Exception):
    """An exercise is still open. Shown as one friendly line, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Still open: {self}"]


def compare(prediction: object, measured: object) -> None:
    """Print the reader's prediction beside what came out."""
    said = (
        "nothing yet (set it above and run both cells again)" if prediction is None else prediction
    )
    print(f"you predicted: {said}\nmeasured:      {measured}")


def title(name: str) -> str:
    """Return a divergence's name as a heading."""
    words = display.title_of(name)
    return words[0].upper() + words[1:]


def house_style() -> None:
    """Set fonts, sizes and spines for all figures of a notebook."""
    # Smaller and lighter than on a page: several panels share the width of a cell.
    own = {"figure.dpi": 110, "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "normal"}
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


def draw_field(
    axes: Axes, log_target: np.ndarray, *, divergence: FDivergence, cells: int = 61
) -> QuadContourSet:
    """Draw D_f(policy||target) in colour and the flow of its gradient over the simplex."""
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
    u, v = (np.ma.masked_invalid(part.reshape(x.shape)) for part in flow.T)
    lines = axes.streamplot(
        x[0], y[:, 0], u, v, density=0.9, color="#333333", linewidth=0.8, arrowsize=0.9, zorder=2
    ).lines
    for drawn in (filled, lines):
        drawn.set_clip_path(Polygon(CORNERS, transform=axes.transData))
    draw_triangle(axes)
    return filled


def fields_figure(target: Sequence[float], names: Sequence[str] = tuple(COLOURS)) -> Figure:
    """Draw the gradient field of each named divergence around one target on three outcomes."""
    log_target = np.log(np.asarray(target))
    figure, grid = plt.subplots(1, len(names), figsize=(3.1 * len(names), 3.7))
    fields = [
        draw_field(axes, log_target, divergence=DIVERGENCES[name])
        for axes, name in zip(grid, names, strict=True)
    ]
    for axes, name in zip(grid, names, strict=True):
        star = to_plane(np.asarray(target))
        axes.scatter(*star, s=190, marker="*", color="#D55E00", edgecolor="white", zorder=5)
        axes.set_title(title(name), loc="center", pad=16)
    bar = figure.colorbar(
        fields[0], ax=grid, location="bottom", shrink=0.6, aspect=45, ticks=LEVELS
    )
    bar.set_label("divergence of policy to target (nats); star: target; lines: where it flows")
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
    """Draw sampled gradients in the plane where those of a softmax lie, and the 95 % ellipse."""
    points, centre = to_plane(estimates), to_plane(exact)
    axes.scatter(*points.T, s=5, color=colour, alpha=0.35, linewidths=0, rasterized=True)
    values, vectors = np.linalg.eigh(CORNERS.T @ covariance @ CORNERS)
    angle = np.degrees(np.arctan2(vectors[1, -1], vectors[0, -1]))
    width, height = 2 * ELLIPSE_OF_95_PERCENT * np.sqrt(values[::-1])
    axes.add_patch(Ellipse(tuple(centre), width, height, angle=angle, fill=False, linewidth=1.5))
    axes.plot(*centre, marker="+", markersize=16, markeredgewidth=2, color="#222222")
    axes.plot(0, 0, marker="o", markersize=4, color="#999999")


def main(arguments: Sequence[str]) -> int:
    """Write the picture of the README to the named file."""
    if len(arguments) != 1 or not arguments[0].endswith(".png"):
        print("usage: python notebooks/lesson.py FILE.png", file=sys.stderr)
        return 2
    house_style()
    fields_figure((0.62, 0.28, 0.10)).savefig(arguments[0], dpi=130)
    print(arguments[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
