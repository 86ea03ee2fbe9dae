"""Run what is left of a sweep, with a bar, and write its table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from lm.config.base import BaseConfig
from lm.errors import RunError
from lm.sweep.cells import Cell, expand
from lm.sweep.config import SweepConfig
from lm.sweep.records import cell_job, code_commit, read_record, record_path
from lm.sweep.table import require_pyarrow, table_rows, write_table
from lm.sweep.workers import Job, Workers, train_base_job
from lm.sweep.workers import Progress as Message

__all__ = ["run_sweep"]

VERSIONS = ("torch", "transformers", "numpy")
# Without a terminal: seconds between two lines on how far the sweep is.
QUIET_SECONDS = 60.0


def run_sweep(sweep: SweepConfig, *, command: str, console: Console | None = None) -> Path:
    """Make every run of a sweep that is not made yet, then write the table.

    Parameters
    ----------
    sweep
        What to run.
    command
        As it was called, for the record.
    console
        Where progress goes; the standard output by default.

    Returns
    -------
    Path
        The table.

    Raises
    ------
    UsageError
        A combination means nothing; pyarrow is missing.
    RunError
        A worker was killed, or a folder cannot be written. What is finished stays finished.
    """
    console = Console() if console is None else console
    require_pyarrow()
    cells, folder, commit = expand(sweep), Path(sweep.output), code_commit()
    begun = time.perf_counter()
    runs = {cell.run: cell for cell in cells}
    left = [cell for run, cell in runs.items() if not record_path(folder, run).exists()]
    console.print(
        f"{len(cells)} cells, {len(runs)} different runs, {len(runs) - len(left)} of them done",
        highlight=False,
    )
    if left:
        _run(left, folder, commit, sweep.workers, console)
    path, failed = _write(sweep, cells, command)
    for name, reason in failed.items():
        console.print(Text(f"failed: {name}: {reason}", style="bold red"))
    console.print(
        f"{time.perf_counter() - begun:.0f} seconds; table:", style="dim", highlight=False
    )
    console.print(Text(str(path)), soft_wrap=True)
    return path


def cost(cell: Cell) -> float:
    """Return about how long a cell takes, in seconds on one core, for the time that is left.

    Fitted once to steps of 1x32, 2x64 and 4x128: close to linear in layers times width.
    """
    config = cell.config
    evaluations = config.steps // config.evaluation.every + 2 + len(config.evaluation.early)
    samples = config.steps * config.batch_size + evaluations * 2 * config.evaluation.samples
    return samples * 1e-6 * (36 + 0.76 * config.base.layers * config.base.width)


def _run(left: Sequence[Cell], folder: Path, commit: str, workers: int, console: Console) -> None:
    # The longest first, so that no worker is left alone with one at the end.
    order = sorted(left, key=cost, reverse=True)
    jobs = [Job(cell.run, cell_job, (cell.config, folder, cell.run, commit)) for cell in order]
    with _bar(order, console) as on_message, Workers(workers, on_message) as pool:
        for bases in _stages(order):
            pool.run([Job(f"base {base.folder().name}", train_base_job, (base,)) for base in bases])
        pool.run(jobs)


def _stages(cells: Sequence[Cell]) -> list[list[BaseConfig]]:
    """Return the models that cells need: bases first, then what is fine-tuned from them."""
    needed = dict.fromkeys(base for cell in cells for base in cell.bases)
    fresh = [base for base in needed if base.initial is None]
    return [fresh, [base for base in needed if base.initial is not None]]


@contextmanager
def _bar(cells: Sequence[Cell], console: Console) -> Iterator[Any]:
    """Show one bar in seconds of work, with the time left; without a terminal, a line a minute."""
    costs = {cell.run: cost(cell) for cell in cells}
    names = {cell.run: cell.name for cell in cells}
    total, shares = sum(costs.values()), dict.fromkeys(costs, 0.0)
    columns = (
        TextColumn("{task.fields[done]}/{task.fields[cells]} runs"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[now]}", markup=False),
    )
    started = said = time.monotonic()
    with Progress(
        *columns, console=console, transient=True, expand=True, disable=not console.is_terminal,
        speed_estimate_period=300,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=total, done=0, cells=len(cells), now="")

        def on_message(message: Message) -> None:
            nonlocal said
            if message.label not in costs:
                progress.update(task, now=f"{message.label} {message.step}/{message.steps}")
                return
            shares[message.label] = message.step / message.steps
            done = sum(share == 1.0 for share in shares.values())
            work = sum(share * costs[run] for run, share in shares.items())
            progress.update(task, completed=work, done=done, now=names[message.label])
            now = time.monotonic()
            # A run's first message says that it has begun: no work is done that tells how fast.
            if not console.is_terminal and now - said > QUIET_SECONDS and work > 0:
                said = now
                rest = (now - started) * (total / work - 1.0) / 60
                console.print(
                    f"{done} of {len(cells)} runs, about {rest:.0f} minutes left", highlight=False
                )

        yield on_message


def _write(sweep: SweepConfig, cells: Sequence[Cell], command: str) -> tuple[Path, dict[str, str]]:
    folder, rows = Path(sweep.output), []
    failed: dict[str, str] = {}
    runs: dict[str, dict[str, Any]] = {}
    tasks = {key: {"title": task.title, "group": task.group} for key, task in sweep.tasks.items()}
    for cell in cells:
        record = runs.setdefault(cell.run, read_record(folder, cell.run))
        if "failed" in record:
            failed[cell.name] = record["failed"]
            continue
        task = sweep.tasks[cell.labels.task]
        rows += table_rows(sweep.name, cell, task.group, record)
        tasks[cell.labels.task] |= {"target_moments": record["target"]}
    if not rows:
        raise RunError(f"every run failed, the first one: {next(iter(failed.values()))}")
    facts = {
        "sweep": sweep.name,
        "command": command,
        "log": str(folder / "cells"),
        "started": _first_start(folder, runs),
        # Of all sittings together, and of the workers at once.
        "wall_seconds": round(sum(r["wall_seconds"] for r in runs.values()) / sweep.workers, 1),
        "cpu_seconds": round(sum(r["cpu_seconds"] for r in runs.values()), 1),
        "commits": sorted({record["commit"] for record in runs.values()}),
        "cells": len(cells),
        "runs": len(runs),
        "failed": failed,
        "tasks": tasks,
        "versions": {name: metadata.version(name) for name in VERSIONS},
    }
    path = Path(sweep.table)
    write_table(path, rows, json.loads(json.dumps(facts)))
    return path, failed


def _first_start(folder: Path, runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return when the first of the runs began."""
    first = min(
        record_path(folder, run).stat().st_mtime - record["wall_seconds"]
        for run, record in runs.items()
    )
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(first))
