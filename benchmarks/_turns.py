"""Several programs that train in turns, one step each, so that a busy machine slows them alike.

Each contender is a process of its own: it brings its own threads, its own memory and its own
libraries, and waits, asleep, for its turn. It calls `Laps.start` once and `Laps.lap` after each
step; the driver is `Contender`.
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

PREFIX = "@turn "


class Finished(Exception):
    """Enough steps were made."""


class Lap(NamedTuple):
    """One step: seconds on the clock and of processor time, and of the clock by phase.

    ``turn_cpu_seconds`` is the processor time of the whole turn, what the clock left out included.
    """

    seconds: float
    cpu_seconds: float
    phases: dict[str, float]
    peak_rss_mb: float
    turn_cpu_seconds: float


class Laps:
    """Times the steps of a loop that it is called from.

    Parameters
    ----------
    count
        How many laps to make.
    turns
        Wait for a line of the standard input before each lap, and report it on the output.
    """

    def __init__(self, count: int, *, turns: bool = False) -> None:
        self.count, self.turns = count, turns
        self.made: list[Lap] = []
        self._clock = self._cpu = 0.0
        self._stopped: tuple[float, float] | None = None

    def start(self) -> None:
        """Begin the first lap."""
        self._wait()

    def stop(self) -> None:
        """Stop the clock until the lap is ended: what follows is no part of the step."""
        self._stopped = self._elapsed()

    def lap(self, phases: dict[str, float] | None = None) -> None:
        """End a lap and begin the next; raises Finished where there is none."""
        seconds, cpu = self._stopped or self._elapsed()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        lap = Lap(seconds, cpu, phases or {}, peak, self._elapsed()[1])
        self.made.append(lap)
        if self.turns:
            print(PREFIX + json.dumps(lap._asdict()), flush=True)
        if len(self.made) == self.count:
            raise Finished
        self._wait()

    def _wait(self) -> None:
        if self.turns and not sys.stdin.readline():
            raise Finished
        self._clock, self._cpu, self._stopped = time.perf_counter(), time.process_time(), None

    def _elapsed(self) -> tuple[float, float]:
        return time.perf_counter() - self._clock, time.process_time() - self._cpu


class Contender:
    """A module of benchmarks in a process of its own, which makes a step when it is told to.

    Parameters
    ----------
    name
        What it is called in the results.
    arguments
        Of python: ``-m benchmarks.lm_step --size S ...``; ``--turns`` is added.
    """

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.laps: list[Lap] = []
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as this
        self._process = subprocess.Popen(
            [sys.executable, *arguments, "--turns"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def turn(self) -> Lap:
        """Let it make one step and wait for it.

        Raises
        ------
        RuntimeError
            The process has died; the message holds the end of its errors.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, which the end of its output shows
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(PREFIX):
                self.laps.append(Lap(**json.loads(line.removeprefix(PREFIX))))
                return self.laps[-1]
        self._process.wait()
        self._errors.seek(0)
        raise RuntimeError(f"{self.name} has died:\n{self._errors.read()[-3000:]}")

    def close(self) -> None:
        """Tell it that there is no further turn, and wait for its end."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def summary(laps: Sequence[Lap], *, warm_up: int) -> dict[str, Any]:
    """Return the medians of the laps after the first few, in seconds."""
    kept = laps[warm_up:]
    phases = {
        phase: statistics.median(lap.phases[phase] for lap in kept) for phase in kept[0].phases
    }
    return {
        "seconds_per_step": statistics.median(lap.seconds for lap in kept),
        "phases": phases,
        "cpu_over_wall": sum(lap.cpu_seconds for lap in kept) / sum(lap.seconds for lap in kept),
        "peak_rss_mb": max(lap.peak_rss_mb for lap in laps),
        "steps": len(kept),
    }
