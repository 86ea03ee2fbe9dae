"""What a command is doing, said as soon as somebody might wonder: no phase is silent for long.

Work is named where it is done: ``with phase("loading the model"):``. That costs nothing and says
nothing, unless a command listens (`speaking`): then a phase that takes longer than two seconds is
told of, on a terminal by a bar and else by plain lines. A program that calls this package, a
sweep's worker and a process that is not the main one stay silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO, TypeVar

# Seconds without a word. A line of a log comes later, once its phase is long: after a tenth of the
# time that it has taken, and within a minute.
SILENCE, SHARE, LONGEST_SILENCE = 2.0, 0.1, 60.0
# How often it is looked, and how soon a bar appears, as shares of the silence.
LOOK, SHOW = 1 / 8, 1 / 4

_Item = TypeVar("_Item")


class Phase:
    """A part of the work, while it is being done.

    Parameters
    ----------
    what
        A participle and its object: loading the model.
    total
        How many parts it has, if that is known.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done, self.words = what, total, 0, ""
        self.started = time.monotonic()
        # The first word on how far it is: before it, libraries warm up, or a run continues.
        self._first: tuple[float, int] | None = None
        self._latest = self.started

    def update(self, done: int, *, words: str | None = None) -> None:
        """Say how many parts are done, and in words what else is known by now."""
        self.done, self._latest = done, time.monotonic()
        self._first = self._first or (self._latest, done)
        self.words = self.words if words is None else words

    def seconds_left(self, now: float) -> float | None:
        """Return the time until all parts are done; None as long as nothing says it."""
        if self.total is None or self._first is None or self.done <= self._first[1]:
            return None
        pace = (self._latest - self._first[0]) / (self.done - self._first[1])
        return max(0.0, pace * (self.total - self.done) - (now - self._latest))

    def describe(self, now: float) -> str:
        """Return what a line or a bar says of it: time, parts, time left, and words."""
        # 0 of 1 says nothing.
        parts = [] if self.total in {None, 1} else [f"{self.done} of {self.total}"]
        left = self.seconds_left(now)
        rest = [] if left is None else [f"about {duration(left)} left"]
        words = [self.words] if self.words else []
        return "; ".join([duration(now - self.started), *parts, *rest, *words])


@contextmanager
def phase(what: str, total: int | None = None) -> Iterator[Phase]:
    """Name a part of the work; it is told of if it takes long and somebody listens.

    Parameters
    ----------
    what, total
        As for `Phase`.

    Yields
    ------
    Phase
        To be told how far it is.
    """
    one, speaker = Phase(what, total), _Listening.speaker
    if speaker is not None:
        speaker.begin(one)
    try:
        yield one
    except KeyboardInterrupt as interrupt:
        # The innermost phase that is left says what it was.
        interrupt.args = interrupt.args or (f"interrupted while {what}",)
        raise
    finally:
        if speaker is not None:
            speaker.end(one)


def each(what: str, items: Sequence[_Item]) -> Iterator[_Item]:
    """Yield items, as a phase of so many parts."""
    with phase(what, len(items)) as progress:
        for number, item in enumerate(items):
            yield item
            progress.update(number + 1)


@contextmanager
def speaking(stream: TextIO | None, *, silence: float | None = None) -> Iterator[None]:
    """Tell of long phases while a command runs.

    Parameters
    ----------
    stream
        Where: bars if it is a terminal, else lines. None says nothing.
    silence
        Seconds without a word; by default two.
    """
    silence = SILENCE if silence is None else silence
    if stream is None or _Listening.speaker is not None:
        yield
        return
    speaker = _Bars(stream, silence) if stream.isatty() else _Speaker(stream, silence)
    _Listening.speaker = speaker
    speaker.start()
    try:
        yield
    finally:
        _Listening.speaker = None
        speaker.stop()


def duration(seconds: float) -> str:
    """Return seconds as people say them: 40 s, 12 min, 3.2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _Listening:
    """Who tells of phases now, in this process."""

    speaker: _Speaker | None = None


class _Speaker:
    """Says lines about the phases in progress, from a thread of its own."""

    def __init__(self, stream: TextIO, silence: float) -> None:
        self._stream, self._silence = stream, silence
        self._phases: list[Phase] = []
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._said = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def begin(self, one: Phase) -> None:
        with self._lock:
            self._phases.append(one)

    def end(self, one: Phase) -> None:
        with self._lock:
            # With those inside it, whose generators an error may have left open.
            if one in self._phases:
                del self._phases[self._phases.index(one) :]
            self._tell()

    def _watch(self) -> None:
        while not self._stopped.wait(self._silence * LOOK):
            with self._lock:
                self._tell()

    def _tell(self) -> None:
        # Nobody may read it any more: the work goes on.
        with suppress(OSError, ValueError):
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        """Say something of what is in progress, if it is time to."""
        if not self._phases:
            return
        # The innermost long one: short ones inside it would hide how far it is.
        long = [one for one in self._phases if now - one.started >= self._silence * (1 - LOOK)]
        one = long[-1] if long else self._phases[-1]
        wait = max(self._silence, min(SHARE * (now - one.started), LONGEST_SILENCE))
        if now - self._said + self._silence * LOOK >= wait:
            self._said = now
            print(f"{one.what} ... ({one.describe(now)})", file=self._stream, flush=True)


class _Bars(_Speaker):
    """Shows a bar for each phase in progress, on a terminal."""

    def __init__(self, stream: TextIO, silence: float) -> None:
        super().__init__(stream, silence)
        # Only here: it is slow to import, and help and errors need none.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn  # noqa: PLC0415

        # Not markup: E[female] is no tag. Results go to the standard output, past the bars.
        columns: tuple[Any, ...] = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[words]}", markup=False),
        )
        self._progress = Progress(
            *columns, console=Console(file=stream), transient=True, redirect_stdout=False
        )
        self._tasks: dict[Phase, Any] = {}

    def stop(self) -> None:
        super().stop()
        self._progress.stop()

    def _look(self, now: float) -> None:
        # Take away what is over.
        for one in [one for one in self._tasks if one not in self._phases]:
            self._progress.remove_task(self._tasks.pop(one))
        if not self._tasks:
            self._progress.stop()

        # Show what is in progress, and how far.
        for one in self._phases:
            if one not in self._tasks and now - one.started < self._silence * SHOW:
                continue
            if one not in self._tasks:
                self._progress.start()
                self._tasks[one] = self._progress.add_task(one.what, total=one.total, words="")
            words = one.describe(now)
            self._progress.update(self._tasks[one], completed=one.done, words=words)
