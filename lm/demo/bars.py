"""The progress of the demonstration: one bar for all runs, and a line for each in progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lm.sweep.workers import Progress as Message


@contextmanager
def progress_bars(console: Console) -> Iterator[Bars]:
    """Show the bars while the runs last; without a terminal, a line for each complete run.

    Parameters
    ----------
    console
        Where they appear.

    Yields
    ------
    Bars
        To be told what the workers say.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(
        *columns, console=console, transient=True, expand=True, disable=not console.is_terminal,
        speed_estimate_period=120,
    ) as progress:  # fmt: skip
        yield Bars(progress, console)


class Bars:
    """One bar for everything, with the time that is left, and a line for each run in progress."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress, self._console = progress, console
        self._total: TaskID | None = None
        self._lines: dict[str, TaskID] = {}
        self._steps: dict[str, int] = {}

    def expect(self, steps: int) -> None:
        """Announce how many steps all runs have together."""
        self._total = self._progress.add_task("[bold]all runs", total=steps)

    def on_message(self, message: Message) -> None:
        """Move the bars; where there is no terminal, print a line when a run is complete."""
        label, step, steps = message
        if label not in self._lines:
            self._lines[label] = self._progress.add_task(label, total=steps)
        line = self._lines[label]
        self._progress.update(line, completed=step, visible=step < steps)
        if self._total is not None:
            self._progress.advance(self._total, step - self._steps.get(label, 0))
        self._steps[label] = step
        if step == steps and not self._console.is_terminal:
            self._console.print(f"{label}: {steps} steps", highlight=False)
