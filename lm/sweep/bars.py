"""The progress of a sweep: one bar in seconds of work, and when the work will be done."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from lm.phases import duration
from lm.sweep.workers import Progress as Message

# What must be done in a stage before its speed is one: seconds of work, and by the clock, as
# messages are read in bursts.
ENOUGH = 0.5


class Bars:
    """One bar for everything, with the time that is left, and a line for each run in progress.

    Parameters
    ----------
    progress, console
        Where they appear.
    stages
        Costs in seconds of work by label: what is done at the same time, stage after stage.
    workers
        How many jobs of a stage are worked on at once.
    every
        Without a terminal: seconds between two lines.
    """

    def __init__(
        self,
        progress: Progress,
        console: Console,
        stages: Sequence[Mapping[str, float]],
        *,
        workers: int,
        every: float,
    ) -> None:
        self._progress, self._console, self._every = progress, console, every
        self._stages = [stage for stage in stages if stage]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self._at_once = [min(workers, cores or 1, len(stage)) for stage in self._stages]
        self._shares = {label: 0.0 for stage in self._stages for label in stage}
        # When a stage spoke first; and by label, its share at its own first word: what was done
        # before that was done before anybody looked at the clock.
        self._begun: dict[int, float] = {}
        self._before: dict[str, float] = {}
        self._started = self._said = time.monotonic()
        self._lines: dict[str, TaskID] = {}
        self._announced = False
        # Seconds of work that one worker does in a second of this machine, once it is known.
        self._speed: float | None = None
        total = sum(sum(stage.values()) for stage in self._stages)
        self._all = progress.add_task("[bold]all", total=total, left="starting")

    def on_message(self, message: Message | None) -> None:
        """Take a worker's word on how far it is; None only says that time passes."""
        if message is not None and message.label in self._shares:
            self._advance(message)
        now, left = time.monotonic(), self.seconds_left()
        if left is not None and not self._announced:
            self._announced = True
            whole = duration(now - self._started + left)
            self._console.print(f"about {whole} in all, by the first steps", highlight=False)
        if not self._console.is_terminal and now - self._said >= self._every:
            self._said = now
            line = self._line(now - self._started, left)
            self._console.print(line, highlight=False, soft_wrap=True)

    def seconds_left(self) -> float | None:
        """Return the time until all is done, None until the first steps say how fast they are."""
        rest = 0.0
        for number, stage in enumerate(self._stages):
            done, total = self._done(stage), sum(stage.values())
            now = time.monotonic()
            work, elapsed = self._seen(stage), now - self._begun.get(number, now)
            if done < total and work >= ENOUGH and elapsed >= ENOUGH:
                self._speed = work / elapsed / self._at_once[number]
            if done == total:
                continue
            if self._speed is None:
                return None
            rest += (total - done) / (self._speed * self._at_once[number])
        return rest

    def _advance(self, message: Message) -> None:
        label, step, steps = message
        if label not in self._lines:
            self._lines[label] = self._progress.add_task(label, total=steps, left="")
        self._progress.update(self._lines[label], completed=step, visible=step < steps)
        self._shares[label] = step / steps

        # A stage begins with its first word: before, its workers only import their libraries.
        number = next(i for i, stage in enumerate(self._stages) if label in stage)
        self._begun.setdefault(number, time.monotonic())
        self._before.setdefault(label, self._shares[label])
        left = self.seconds_left()
        words = "" if left is None else f"{duration(left)} left"
        self._progress.update(self._all, completed=sum(map(self._done, self._stages)), left=words)

    def _done(self, stage: Mapping[str, float]) -> float:
        return sum(self._shares[label] * cost for label, cost in stage.items())

    def _seen(self, stage: Mapping[str, float]) -> float:
        begun = self._before.keys() & stage.keys()
        return sum((self._shares[label] - self._before[label]) * stage[label] for label in begun)

    def _line(self, elapsed: float, left: float | None) -> str:
        current = [label for label, share in self._shares.items() if 0 < share < 1]
        rest = "" if left is None else f", about {duration(left)} left"
        doing = ", ".join(f"{label} {self._shares[label]:.0%}" for label in current)
        finished = sum(share == 1 for share in self._shares.values())
        doing = doing or "waiting for a process to begin"
        return f"{elapsed:4.0f} s: {finished} of {len(self._shares)} done{rest}; {doing}"


@contextmanager
def progress_bars(
    console: Console, stages: Sequence[Mapping[str, float]], *, workers: int, every: float
) -> Iterator[Bars]:
    """Show the bars while a sweep lasts; without a terminal, lines.

    Parameters
    ----------
    console, stages, workers, every
        As for `Bars`.

    Yields
    ------
    Bars
        To be told what the workers say.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(
        *columns, console=console, transient=True, expand=True, disable=not console.is_terminal
    ) as progress:
        yield Bars(progress, console, stages, workers=workers, every=every)
