"""Timing the steps of a training loop, alone or in turns with other programs.

A loop calls `Laps.start` once and `Laps.lap` after each step. In turns, it waits, asleep, until the
driver (`benchmarks.lm_speed`) tells it to make the next step.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

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
