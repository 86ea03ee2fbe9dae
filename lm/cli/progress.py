"""One progress bar with ETA and the three metrics that matter; silent when not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from lm.config import RunConfig
from lm.features.registry import short_name
from lm.run.records import best

if TYPE_CHECKING:
    from lm.train import StepRecord


OnBase = Callable[[int, int, float], None]


@contextmanager
def run_progress(config: RunConfig) -> Iterator[tuple[OnBase, Callable[[StepRecord], None]]]:
    """Show a run's progress: the descended divergence, the first feature and the entropy.

    A target without features shows KL(policy, base) in its place.

    Parameters
    ----------
    config
        The run.

    Yields
    ------
    tuple of callables
        For ``train(on_base=..., on_step=...)``.
    """
    key, name = "kl_policy_base", "KL to base"
    if config.target.features:
        first = config.target.features[0]
        key, name = f"feature/{first}", f"E[{short_name(first)}]"
    with _progress() as progress:
        task = progress.add_task("train", total=config.steps, visible=False, metrics="")

        def on_step(step: StepRecord) -> None:
            progress.update(task, completed=step.step, visible=True)
            if step.evaluation is not None:
                divergence = best(step.evaluation, config.divergence)[0]
                aligned = best(step.evaluation, key)[0]
                entropy = best(step.evaluation, "entropy")[0]
                metrics = f"D {divergence:.4f}  {name} {aligned:.3f}  entropy {entropy:.2f}"
                progress.update(task, metrics=metrics)

        yield _base_task(progress), on_step


@contextmanager
def base_progress() -> Iterator[OnBase]:
    """Show the progress of a base model's training; nothing appears if it is cached.

    Yields
    ------
    callable
        For ``train_base(progress=...)``.
    """
    with _progress() as progress:
        yield _base_task(progress)


def _base_task(progress: Progress) -> OnBase:
    task = progress.add_task("base", total=None, visible=False, metrics="")

    def on_base(step: int, steps: int, loss: float) -> None:
        metrics = f"{loss:.3f} nats per character"
        progress.update(task, completed=step, total=steps, visible=step < steps, metrics=metrics)

    return on_base


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        # Not markup: E[female] is no tag.
        TextColumn("{task.fields[metrics]}", markup=False),
        console=console,
        disable=not sys.stderr.isatty(),
        transient=True,
    )
