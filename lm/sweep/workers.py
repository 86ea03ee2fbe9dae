"""Runs in parallel: a few processes of one thread each, which report into one queue.

This module needs no torch in the parent; a worker imports it after its threads are settled.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from lm.config import RunConfig
from lm.config.base import BaseConfig
from lm.errors import RunError

if TYPE_CHECKING:
    from lm.train import StepRecord

POLL_SECONDS = 0.2
# One thread a process: the numbers are then the same however many workers there are.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


class Progress(NamedTuple):
    """What a worker says: which job (its label), steps done and steps in all."""

    label: str
    step: int
    steps: int


class Job(NamedTuple):
    """A function to call in a worker, its arguments, and a name for people."""

    label: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Workers:
    """A pool of worker processes; leave its ``with`` block to end them.

    Parameters
    ----------
    number
        Processes.
    report
        Called in this process for every message of a worker, and with None a few times a second.
    """

    def __init__(self, number: int, report: Callable[[Progress | None], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self._report, self._messages, self._stop = report, context.Queue(), context.Event()
        self._pool = ProcessPoolExecutor(
            number, context, initializer=_start_worker, initargs=(self._messages, self._stop)
        )

    def __enter__(self) -> Self:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what still runs, at its next step, and end the processes."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Call every job's function in a worker and return the results in the jobs' order.

        Parameters
        ----------
        jobs
            Started in order, as workers become free.

        Returns
        -------
        list
            One result a job.

        Raises
        ------
        RunError
            A worker was killed from outside.
        Exception
            Whatever a job raised.
        """
        with _environment(THREADS):
            futures = [self._pool.submit(_call, job) for job in jobs]
        error = self._wait(futures)
        if isinstance(error, BrokenProcessPool):
            raise RunError(
                "a worker process was killed before its run was complete (out of memory?): run "
                "the same command again"
            ) from error
        if error is not None:
            raise error
        return [future.result() for future in futures]

    def _wait(self, futures: Sequence[Future[Any]]) -> BaseException | None:
        """Wait for all jobs, or for the first that fails, and return its error."""
        while True:
            done, waiting = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION)
            self._drain()
            errors = [error for future in done if (error := future.exception()) is not None]
            if errors or not waiting:
                return errors[0] if errors else None

    def _drain(self) -> None:
        while True:
            try:
                self._report(self._messages.get_nowait())
            except queue.Empty:
                self._report(None)
                return


def train_base_job(config: BaseConfig) -> Path:
    """Train the base model, or find it in the cache."""
    from lm.training.base import train_base  # noqa: PLC0415  # torch is for workers only

    return train_base(config, progress=lambda step, steps, _loss: _report(step, steps))


def train_job(config: RunConfig) -> Path:
    """Make one run."""
    from lm.train import train  # noqa: PLC0415  # torch is for workers only

    def on_step(step: StepRecord) -> None:
        _report(step.step, step.steps)

    return train(config, on_step=on_step)


class Stopped(Exception):
    """Another job failed, or the user interrupted: this one ends at its next step."""


class _Worker:
    """What a worker process knows: where to report, when to stop, and the job it is on."""

    messages: Any = None
    stop: Any = None
    label: str = ""


def _start_worker(messages: Any, stop: Any) -> None:
    _Worker.messages, _Worker.stop = messages, stop
    # An interrupt is for the parent, which then sets `stop`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(job: Job) -> Any:
    _Worker.label = job.label
    return job.function(*job.arguments)


def _report(step: int, steps: int) -> None:
    if _Worker.stop is not None and _Worker.stop.is_set():
        raise Stopped
    if _Worker.messages is not None:
        _Worker.messages.put(Progress(_Worker.label, step, steps))


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set variables that a worker reads when it imports torch, and put them back."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
