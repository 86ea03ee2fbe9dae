"""A descent as a table on the terminal."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fdpg_ref.display import title_of
from toy.config import TrainConfig
from toy.problems import Problem
from toy.train import Trajectory

# Rows that are shown of a descent of any length, its first and last point among them.
_ROWS = 11


def print_trajectory(
    problem: Problem, trajectory: Trajectory, config: TrainConfig, console: Console
) -> None:
    """Print about ten points of a descent, evenly spaced, the first and the last among them.

    Parameters
    ----------
    problem : Problem
        The problem that was descended on.
    trajectory : Trajectory
        Every point on the way.
    config : TrainConfig
        The settings, printed above the table.
    console : rich.console.Console
        Where to; 80 columns are enough.
    """
    # Only what has a bearing: an exact gradient has neither batch nor seed.
    used = ["divergence", "gradient", "learning_rate", "steps"]
    if config.gradient == "sampled":
        used += ["batch_size", "partition", "proposal", "seed"]
    console.print(f"[bold]{config.problem}[/bold]: {problem.description}", highlight=False)
    settings = "  ".join(f"{name}={getattr(config, name)}" for name in used)
    console.print(settings, style="dim", highlight=False)

    # One column per divergence, and the rows that are shown.
    table = Table(box=box.HORIZONTALS, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("step", justify="right")
    for name in trajectory.divergences:
        mark = "bold green" if name == config.divergence else ""
        heading = title_of(name).replace(" ", "\n").replace("–", "–\n")
        table.add_column(heading, justify="right", style=mark, header_style=mark)
    if trajectory.alignment is not None:
        table.add_column(Text("E[phi]"), justify="right")
    table.add_column("entropy", justify="right")

    last = len(trajectory.theta) - 1
    for step in np.unique(np.linspace(0, last, _ROWS).round().astype(int)):
        values = [values[step] for values in trajectory.divergences.values()]
        if trajectory.alignment is not None:
            values.append(trajectory.alignment[step])
        values.append(trajectory.entropy[step])
        table.add_row(str(step), *(_number(float(value)) for value in values))
    console.print(table)
    phi = f"; phi: {problem.feature_name}" if trajectory.alignment is not None else ""
    console.print(f"divergences to the target and entropy in nats, exact{phi}", style="dim")


def _number(value: float) -> str:
    """Return four digits, in powers of ten only below a thousandth."""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.4f}"
