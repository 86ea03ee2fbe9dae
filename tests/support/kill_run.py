"""Runs of `python -m lm` that a test kills: forked from one warm process, to import torch once.

As a program it reads commands from its standard input, one JSON line each: the words after
``python -m lm``, and functions that shall take their time. Each is carried out by a forked child
through the command line's own `main`. It prints the child's process id, and when the child
is gone how it ended.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, Self

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0
POLL_SECONDS = 0.0005


class Death(NamedTuple):
    """A run that was killed: the last step on record, and the checkpoint it was writing."""

    step: int
    writing: str | None


class WarmProcess:
    """A process that has imported everything, and forks one child a command."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pipe(self._process.stdin).close()
        _ = self._process.wait(PATIENCE_SECONDS)
        self._pipe(self._process.stdout).close()

    def start(self, words: Sequence[str], *, slow: Mapping[str, float] | None = None) -> int:
        """Begin a command on a disk that takes its time for some functions; return its process."""
        stdin = self._pipe(self._process.stdin)
        _ = stdin.write(json.dumps({"words": list(words), "slow": slow or {}}) + "\n")
        stdin.flush()
        return int(self._pipe(self._process.stdout).readline())

    def ended(self) -> int:
        """Wait for the command and return its exit code, or minus the signal that ended it."""
        return int(self._pipe(self._process.stdout).readline())

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def last_step(partial: Path) -> int:
    """Return the last step of which the logs hold a whole line; -1 before the first evaluation."""
    path = partial / "timings.jsonl"
    whole = path.read_text("utf-8").rpartition("\n")[0] if path.exists() else ""
    return max((json.loads(line)["step"] for line in whole.splitlines()), default=-1)


def being_written(partial: Path) -> str | None:
    """Return the name of the checkpoint that has only its temporary name."""
    found = sorted((partial / "checkpoints").glob(".step-*.partial"))
    return found[-1].name if found else None


def kill_at_step(process: int, partial: Path, step: int, delay: float) -> Death:
    """Kill a run a moment after it has recorded a step."""
    _wait_until(lambda: last_step(partial) >= step, process)
    return _kill(process, partial, delay)


def kill_in_checkpoint(process: int, partial: Path, step: int, delay: float) -> Death:
    """Kill a run while it writes the checkpoint of a step, or of a later one if that is past."""
    _wait_until(lambda: (being_written(partial) or "") >= f".step-{step:08d}.partial", process)
    return _kill(process, partial, delay)


def _kill(process: int, partial: Path, delay: float) -> Death:
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    # Gone once it is reaped, by the warm process or by `Popen`; a dead one writes no more anyway.
    time.sleep(0.05)
    return Death(last_step(partial), being_written(partial))


def _wait_until(condition: Callable[[], bool], process: int) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        _require_running(process)
        if time.monotonic() > end:
            raise TimeoutError("the run did not get there")
        time.sleep(POLL_SECONDS)


def _require_running(process: int) -> None:
    os.kill(process, 0)  # raises if there is no such process
    # One that this process started stays there, dead, until it is waited for.
    with suppress(ChildProcessError):
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            raise ProcessLookupError("the run is already over")


def _serve() -> None:
    import lm.cli.commands  # noqa: F401  # warm: whatever is imported here is not imported by a child

    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_run(command["words"], command["slow"]))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(words: Sequence[str], slow: Mapping[str, float]) -> int:
    from lm.cli.main import main

    for name, seconds in slow.items():
        _slow_down(name, seconds)
    _ = os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return main(words)


def _slow_down(name: str, seconds: float) -> None:
    """Let a function, `module.function`, take so many seconds longer."""
    module, _, function = name.rpartition(".")
    owner = importlib.import_module(module)
    original = getattr(owner, function)

    def slow(*arguments):
        time.sleep(seconds)
        return original(*arguments)

    setattr(owner, function, slow)


if __name__ == "__main__":
    _serve()
