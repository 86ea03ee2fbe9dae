"""Where a table comes from: the commit of the code, and how long it took."""

from __future__ import annotations

import resource
import subprocess
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


class Stopwatch:
    """Begins when it is made; tells when that was and what has been used since."""

    def __init__(self) -> None:
        self._started, self._wall, self._cpu = time.gmtime(), time.perf_counter(), _cpu_seconds()

    def facts(self) -> dict[str, Any]:
        """Return start, seconds on the clock and of all processes' processor time, and commit."""
        return {
            "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", self._started),
            "wall_seconds": round(time.perf_counter() - self._wall, 1),
            "cpu_seconds": round(_cpu_seconds() - self._cpu, 1),
            "commits": [_commit()],
        }


def _cpu_seconds() -> float:
    # Workers count once they have ended.
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, who))


def _commit() -> str:
    """Return the commit of the working tree, marked where its code was changed since.

    lm.sweep.records does the same for its package: the core, which both know, reads nothing.
    """
    head = ("git", "rev-parse", "--short=12", "HEAD")
    changed = ("git", "status", "--porcelain", "--", "fdpg_ref", "toy")
    try:
        commit, changes = (
            subprocess.run(words, capture_output=True, text=True, check=True, cwd=_ROOT).stdout
            for words in (head, changed)
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.strip() + ("+changes" if changes else "")
