"""Draw the picture of each page in docs/concepts: ``python tools/concept_figures.py``.

Everything is summed exactly on problems of a handful of outcomes; nothing is drawn at random.
Each has a second file for phones, NAME-phone.png, with its panels one below the other.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fdpg_ref import (
    DIVERGENCES,
    constrained,
    exact_log_partition,
    exponential_family,
    fit_multipliers,
    optimal_baseline,
    reward_tilted,
    score_signal,
)
from fdpg_ref.display import COLORS, INK, MUTED, STYLE, TARGET_COLOR, title_of
from toy.estimators.composition import world_of
from toy.estimators.estimates import batch_of, gradient_estimates
from toy.exact import batch_expectation, estimator_moments, exact_gradient
from toy.problems import PROBLEMS, Problem

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "concepts"
FOUR = ("forward_kl", "jensen_shannon", "total_variation", "reverse_kl")
DPI = 110
# A phone shows these at 100 pixels an inch, so that 8 points are 11 pixels; it has two to a pixel.
PHONE_WIDTH, PHONE_HEIGHT, PHONE_DPI, PHONE_POINTS = 3.4, 5.6, 200, 8
NAMES = [title_of(name).replace(" ", "\n").replace("–", "–\n") for name in FOUR]


def targets_figure() -> Figure:
    """Draw one base and the three targets that are made from it."""
    letters = np.arange(10)
    log_base = np.log(np.exp(-0.35 * letters) / np.exp(-0.35 * letters).sum())
    allowed = letters >= 6
    reward = letters / 9.0
    features = allowed[:, None].astype(float)
    fit = fit_multipliers(log_base, features, np.array([0.5]))
    cases = {
        "a reward, β = 0.2": reward_tilted(log_base, reward, beta=0.2),
        "a rule: only 6 to 9": constrained(log_base, allowed),
        "a share: half 6 to 9": exponential_family(log_base, features, fit.multipliers),
    }

    figure, grid = _panels(len(cases))
    for axes, (title, log_score) in zip(grid, cases.items(), strict=True):
        target = np.exp(log_score - exact_log_partition(log_score))
        axes.bar(letters, target, color=TARGET_COLOR, width=0.8, label="target p")
        axes.step(letters, np.exp(log_base), where="mid", color=INK, label="base a")
        axes.set_title(title)
        axes.set_xlabel("outcome")
        axes.set_xticks(letters[::3])
    grid[0].set_ylabel("probability")
    grid[0].legend(loc="upper right")
    return figure


def divergences_figure() -> Figure:
    """Draw the signal of four divergences, and what they charge for missed and for stray mass."""
    u = np.linspace(-4.0, 4.0, 401)
    figure, (left, right) = _panels(2)
    for name in FOUR:
        signal = score_signal(u, np.zeros_like(u), divergence=DIVERGENCES[name])
        left.plot(u, signal, color=COLORS[name], label=title_of(name))
    left.set_ylim(-4.0, 4.0)
    left.axvline(0.0, color=MUTED, lw=0.8)
    left.set_xlabel("log(π/p): too little ← 0 → too much")
    left.set_ylabel("signal")
    left.legend(fontsize=8)

    # The price of a unit of mass, where the other distribution has none.
    for place, name in enumerate(FOUR):
        divergence = DIVERGENCES[name]
        for shift, price in ((-0.2, divergence.value_at_zero), (0.2, divergence.slope_at_infinity)):
            height = min(price, 1.35)
            hatch = "//" if shift > 0 else ""
            right.bar(place + shift, height, 0.36, color=COLORS[name], hatch=hatch, ec="white")
            if not np.isfinite(price):
                right.text(place + shift, height + 0.02, "∞", ha="center", fontsize=13)
    right.set_ylim(0.0, 1.6)
    right.set_xticks(range(len(FOUR)), NAMES, fontsize=8)
    right.set_ylabel("price of a unit of mass")
    right.set_title("plain: missed by π; hatched: where p has none", fontsize=9)
    return figure


def partition_figure() -> Figure:
    """Draw how well samples of the base know Z, and what a Z of the batch does to the gradient."""
    figure, (left, right) = _panels(2)
    samples = np.array([2**k for k in range(4, 21)])
    for share, look in ((0.1, "-"), (0.01, "--"), (0.001, ":")):
        error = np.sqrt((1.0 - share) / (share * samples))
        left.plot(samples, error, look, color=INK, label=f"base rate {share:g}")
    left.axhline(0.1, color=MUTED, lw=0.8)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("samples of the base")
    left.set_ylabel("relative error of Ẑ")
    left.legend(fontsize=8)

    problem, sizes = PROBLEMS["distributional"](), (2, 3, 4, 5)
    for name in FOUR:
        color = COLORS[name]
        for partition, line, fill in (("same_batch", "-", color), ("leave_one_out", "--", "w")):
            gaps = [_gap(problem, name, n, partition=partition) for n in sizes]
            label = title_of(name) if partition == "same_batch" else None
            right.plot(sizes, gaps, marker="o", color=color, label=label, ls=line, mfc=fill)
    right.set_xticks(sizes)
    right.set_xlabel("samples in the batch")
    right.set_ylabel("bias / gradient")
    right.set_title("filled: Z of the same batch; hollow: leave one out", fontsize=9)
    right.legend(fontsize=8)
    return figure


def baselines_figure() -> Figure:
    """Draw the noise of one sample's gradient without a baseline and with the best constant."""
    problem = PROBLEMS["rare"]()
    world = world_of(problem)
    figure, (left, right) = _panels(2)
    for place, name in enumerate(FOUR):
        signal = score_signal(world.log_policy, problem.log_target, divergence=DIVERGENCES[name])
        squares = np.sum(world.scores**2, axis=-1)
        best = float(optimal_baseline(signal, squares, log_mass=world.log_policy)[0])
        mean = float(np.exp(world.log_policy) @ signal)
        for shift, baseline, hatch in ((-0.26, 0.0, ""), (0.0, mean, "//"), (0.26, best, "..")):
            moments = estimator_moments(world.log_policy, signal - baseline, world.scores)
            noise = np.sqrt(np.trace(moments.covariance)) / np.linalg.norm(moments.mean)
            left.bar(place + shift, noise, 0.24, color=COLORS[name], hatch=hatch, ec="white")
    left.set_xticks(range(len(FOUR)), NAMES, fontsize=8)
    left.set_ylabel("noise / gradient")
    left.set_title("plain: none; hatched: mean signal; dotted: best", fontsize=9)

    sizes = np.arange(2, 17)
    right.plot(sizes, np.ones(len(sizes)), "s-", color=INK, label="mean of the others")
    right.plot(sizes, (sizes - 1) / sizes, "o-", color=TARGET_COLOR, label="mean of all")
    right.set_ylim(0.0, 1.15)
    right.set_xlabel("samples in the batch")
    right.set_ylabel("expected / true gradient")
    right.legend(fontsize=8, loc="lower right")
    return figure


def kl_penalties_figure() -> Figure:
    """Draw the three estimates of a KL, and what each multiplies the score with."""
    u = np.linspace(-2.5, 2.5, 401)
    values = {"k1": u, "k2": u**2 / 2.0, "k3": np.exp(-u) - 1.0 + u}
    slopes = {"k1": np.ones_like(u), "k2": u, "k3": 1.0 - np.exp(-u)}
    looks = {"k1": "-", "k2": "--", "k3": ":"}

    # What is left of the value, by where it is put.
    figure, grid = _panels(3)
    parts = {
        "value k(u), the detached reward": values,
        "derivative k′(u), in the loss": slopes,
        "k + k′, with a differentiable ratio": {k: values[k] + slopes[k] for k in values},
    }
    for axes, (title, curves) in zip(grid, parts.items(), strict=True):
        for name, curve in curves.items():
            axes.plot(u, curve, looks[name], color=INK, label=name)
        axes.axvline(0.0, color=MUTED, lw=0.8)
        axes.axhline(0.0, color=MUTED, lw=0.8)
        axes.set_ylim(-4.0, 4.0)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("u = log(π/ref)")

    grid[0].set_ylabel("multiplies the score")
    grid[0].legend(fontsize=8)
    return figure


FIGURES = {
    "targets": targets_figure,
    "divergences": divergences_figure,
    "partition": partition_figure,
    "baselines": baselines_figure,
    "kl-penalties": kl_penalties_figure,
}


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False).ravel())


def stack(figure: Figure) -> None:
    """Put the panels of a figure one below the other, as wide as a phone."""
    panels = figure.axes
    grid, what = figure.add_gridspec(len(panels), 1), panels[0].get_ylabel()
    below = [axes.get_xlabel() for axes in panels[1:]] + [""]
    for row, (axes, next_label) in enumerate(zip(panels, below, strict=True)):
        axes.set_subplotspec(grid[row])
        # A label that panels share is beside each, and below the last.
        axes.set_ylabel(axes.get_ylabel() or what, fontsize=PHONE_POINTS)
        own = axes.get_xlabel()
        axes.set_xlabel("" if own == next_label else own, fontsize=PHONE_POINTS)
        axes.set_title(textwrap.fill(axes.get_title(loc="left"), 34), fontsize=PHONE_POINTS + 1)
        axes.tick_params(labelsize=PHONE_POINTS)
        if legend := axes.get_legend():
            for text in legend.get_texts():
                text.set_fontsize(PHONE_POINTS)
    figure.set_size_inches(PHONE_WIDTH, PHONE_HEIGHT)


def _gap(problem: Problem, name: str, n: int, **parts: str) -> float:
    """Return |E[estimate] - gradient| / |gradient| over all batches of n samples of the policy."""
    world, divergence = world_of(problem), DIVERGENCES[name]
    rows = np.broadcast_to(world.log_policy, (n, world.log_policy.size))
    mean = batch_expectation(
        rows,
        n,
        lambda drawn: gradient_estimates(batch_of(world, drawn, rows, past=0), divergence, **parts),
    )
    exact = exact_gradient(
        world.log_policy, problem.log_target, world.scores, divergence=divergence
    )
    return float(np.linalg.norm(mean - exact) / np.linalg.norm(exact))


def main() -> None:
    """Write every picture."""
    for name, draw in FIGURES.items():
        with mpl.rc_context(STYLE):
            figure, look = draw(), {"facecolor": "white", "metadata": {"Software": None}}
            figure.savefig(FOLDER / f"{name}.png", dpi=DPI, **look)
            stack(figure)
            figure.savefig(FOLDER / f"{name}-phone.png", dpi=PHONE_DPI, **look)
        print(f"written: docs/concepts/{name}.png and {name}-phone.png")


if __name__ == "__main__":
    main()
