"""Run what is left of a sweep, then print, draw and store what it gave."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from lm.config.base import BaseConfig
from lm.errors import RunError
from lm.phases import duration, phase, speaking
from lm.run.files import held, write_output
from lm.run.owned import holds_keys, holds_text, require_replaceable_file
from lm.sweep.bars import progress_bars
from lm.sweep.cells import Cell, expand, short_names
from lm.sweep.config import SweepConfig
from lm.sweep.kept import kept_parts
from lm.sweep.page import MARK, SUMMARY_KEYS, Story, markdown, write_page
from lm.sweep.promises import checks, findings
from lm.sweep.records import (
    base_job,
    cell_job,
    code_commit,
    read_record,
    record_path,
)
from lm.sweep.results import read_outcomes
from lm.sweep.summary import NOTE, check_table, terminal_tables
from lm.sweep.table import is_table, require_pyarrow, table_rows, write_table
from lm.sweep.workers import Job, Workers

VERSIONS = ("torch", "transformers", "numpy")
# Without a terminal: seconds between two lines on how far the sweep is.
QUIET_SECONDS = 60.0
# Lines of warnings on a terminal; the page and the Markdown file have all.
MOST_WARNINGS = 20
# What an evaluation has to do with the listed names costs as much as so many samples.
COST_OF_LIST = 8000


def run_sweep(
    sweep: SweepConfig,
    *,
    command: str,
    console: Console | None = None,
    every: float = QUIET_SECONDS,
) -> int:
    """Make every run of a sweep that is not made yet, then say what all of them gave.

    Parameters
    ----------
    sweep
        What to run.
    command
        As it was called, for the record.
    console
        Where progress and tables go; the standard output by default.
    every
        Without a terminal: seconds between two lines of progress.

    Returns
    -------
    int
        0, or 1 if a run failed or a promise does not hold.

    Raises
    ------
    UsageError
        A combination means nothing; pyarrow is missing.
    RunError
        A worker was killed, a folder cannot be written, or no run succeeded. What is finished
        stays finished.
    """
    require_outputs(sweep)
    with held(Path(sweep.output)):
        return run_held_sweep(sweep, command=command, console=console, every=every)


def require_outputs(sweep: SweepConfig) -> None:
    """Raise a UsageError unless a sweep means something and its files may be written.

    Parameters
    ----------
    sweep
        Nothing of it is run.
    """
    if sweep.table is not None:
        require_pyarrow()
        require_replaceable_file(Path(sweep.table), "a sweep's table", is_table)
    if sweep.store is not None:
        proves = holds_text("\n- command: ", "\n- machine: ", "\n- processor time: ")
        require_replaceable_file(Path(sweep.store), "a sweep's Markdown file", proves)
    if sweep.page is not None:
        page, summary = Path(sweep.page), Path(sweep.page).with_name("summary.json")
        require_replaceable_file(page, "a sweep's page", holds_text(MARK))
        require_replaceable_file(summary, "a sweep's summary", holds_keys(*SUMMARY_KEYS))
    # Large models that the runs read are hashed here, before there are bars that say so.
    with speaking(sys.stderr):
        _ = kept_parts(sweep, expand(sweep))


def run_held_sweep(
    sweep: SweepConfig, *, command: str, console: Console | None, every: float
) -> int:
    """Do what `run_sweep` does in a folder that this process holds already.

    Parameters
    ----------
    sweep, command, console, every
        As for `run_sweep`, after `require_outputs`.

    Returns
    -------
    int
        As `run_sweep`.
    """
    console = Console() if console is None else console
    for path in filter(None, (sweep.store, sweep.table, sweep.page)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    cells, folder, commit = expand(sweep), Path(sweep.output), code_commit()
    begun = time.perf_counter()

    # Cells that agree in all but their place are one run, and a finished run is a file.
    runs = {cell.run: cell for cell in reversed(cells)}
    left = [cell for run, cell in runs.items() if not record_path(folder, run).exists()]
    for run in runs.keys() - {cell.run for cell in left}:
        _ = read_record(folder, run)  # a damaged one is told of before the others are made
    console.print(
        f"{len(cells)} cells, {len(runs)} different runs, {len(runs) - len(left)} of them done",
        highlight=False,
    )
    if left:
        names = short_names(list(runs.values()))
        _run(left[::-1], names, sweep, commit, console=console, every=every)

    # What failed is named at the end, where it is seen.
    records = {run: read_record(folder, run) for run in runs}
    failed = {runs[run].name: r["failed"] for run, r in records.items() if "failed" in r}
    good = {run: record for run, record in records.items() if "failed" not in record}
    if not good:
        raise RunError(f"every run failed, the first one: {next(iter(failed.values()))}")
    if sweep.table is not None:
        with speaking(sys.stderr), phase("writing the table"):
            _write_table(sweep, cells, records, failed, command)
    sitting = f"{duration(time.perf_counter() - begun)} for {len(left)} of {len(runs)} runs"
    story = _story(sweep, cells, good, command, sitting)
    _tell(sweep, story, console)
    for name, reason in failed.items():
        console.print(Text(f"failed: {name}: {reason}", style="bold red"), soft_wrap=True)
    if failed:
        advice = f"{len(failed)} of {len(runs)} runs failed; to try one again, delete its file in "
        console.print(Text(f"{advice}{folder / 'cells'}"), soft_wrap=True)
    console.print(f"{time.perf_counter() - begun:.0f} seconds:", style="dim", highlight=False)
    for path in (sweep.store, sweep.table, sweep.page):
        if path is not None:
            console.print(Text(path), soft_wrap=True)
    return int(bool(failed) or not all(check.passed for check in story.checks))


def cost(cell: Cell) -> float:
    """Return about how long a cell takes, in seconds on one core, for the time that is left.

    Fitted once to steps of 1x32, 2x64 and 4x128: close to linear in layers times width.
    """
    config = cell.config
    evaluations = config.steps // config.evaluation.every + 2 + len(config.evaluation.early)
    measured = 2 * config.evaluation.sizes.samples + COST_OF_LIST
    samples = config.steps * config.batch_size + evaluations * measured
    return samples * _cost_of_sample(config.base)


def base_cost(base: BaseConfig) -> float:
    """Return the same of a base; 0 if it is cached."""
    samples = 0.0 if base.folder().exists() else 1.3 * base.steps * base.batch_size
    return samples * _cost_of_sample(base)


def _cost_of_sample(base: BaseConfig) -> float:
    return 1e-6 * (36 + 0.76 * base.layers * base.width)


def machine() -> str:
    """Return what processor this is, and how many of its cores may be used."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = model[1] if model else platform.processor() or platform.machine()
    affinity = getattr(os, "sched_getaffinity", None)
    return f"{name}, {len(affinity(0)) if affinity else os.cpu_count()} cores"


def _run(
    left: Sequence[Cell],
    names: Mapping[str, str],
    sweep: SweepConfig,
    commit: str,
    *,
    console: Console,
    every: float,
) -> None:
    # The longest first, so that no worker is left alone with one at the end.
    order = sorted(left, key=cost, reverse=True)
    folder, jobs = Path(sweep.output), []
    for cell in order:
        # A name alone is not enough: it may be that of another run in a later or an earlier sweep.
        kept = f"{names[cell.run]}-{cell.run[:8]}"
        place = folder / kept if sweep.keep else folder / "scratch" / cell.run
        config = replace(cell.config, output=str(place))
        words = (config, record_path(folder, cell.run), commit, sweep.keep)
        jobs.append(Job(names[cell.run], cell_job, words))

    # First the bases, then what is fine-tuned from them, then the runs.
    needed = dict.fromkeys(base for cell in order for base in cell.bases)
    labels = {base: f"base {base.layers}x{base.width} {base.fingerprint()[:4]}" for base in needed}
    costs = [
        {labels[base]: base_cost(base) for base in needed if base.initial is None},
        {labels[base]: base_cost(base) for base in needed if base.initial is not None},
        {names[cell.run]: cost(cell) for cell in order},
    ]
    with (
        progress_bars(console, costs, workers=sweep.workers, every=every) as bars,
        Workers(sweep.workers, bars.on_message) as pool,
    ):
        for stage in costs[:2]:
            pool.run([Job(labels[b], base_job, (b,)) for b in needed if labels[b] in stage])
        reasons = pool.run(jobs)
    unmade = [(job.label, why) for job, why in zip(jobs, reasons, strict=True) if why is not None]
    if unmade:
        (name, why), number = unmade[0], len(unmade)
        raise RunError(
            f"{number} of {len(jobs)} runs could not be made now, the first one, {name}: {why}. "
            "All others are kept: run the same command again"
        )


def _story(
    sweep: SweepConfig,
    cells: Sequence[Cell],
    records: Mapping[str, Mapping[str, Any]],
    command: str,
    sitting: str,
) -> Story:
    outcomes = read_outcomes(sweep, cells, records)
    first, seeds = cells[0].config, sorted({cell.labels.seed for cell in cells})
    rates = sorted({cell.config.optimizer.lr for cell in cells})
    processor = sum(record["cpu_seconds"] for record in records.values())

    settings = {
        "command": command,
        "machine": f"{machine()}; {sweep.workers} processes of one thread; "
        f"load {os.getloadavg()[0]:.1f}",
        "wall time": sitting,
        "processor time": f"{duration(processor)} in the runs, without the base",
        "seeds": ", ".join(map(str, seeds)),
        "a run": f"{first.steps} steps of {first.batch_size} samples, Adam at "
        f"{' or '.join(f'{rate:g}' for rate in rates)}, {first.optimizer.schedule} schedule with "
        f"{first.optimizer.warmup_steps} steps of warm-up, no stopping on a metric",
        "measured": f"on {first.evaluation.sizes.samples} samples of the policy and as many of the "
        "base",
        "versions": ", ".join(f"{name} {metadata.version(name)}" for name in VERSIONS),
        "commit": ", ".join(sorted({record["commit"] for record in records.values()})),
    }

    return Story(
        title=sweep.title or sweep.name,
        about=sweep.about,
        outcomes=outcomes,
        checks=checks(outcomes),
        findings=list(findings(outcomes)),
        settings=settings,
        warnings=warnings_of({cell.run: cell.name for cell in cells}, records),
    )


def warnings_of(names: Mapping[str, str], records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return one line for each run that has warnings: the last of them, and how many there are.

    Parameters
    ----------
    names
        By run, for people.
    records
        By run, of those that succeeded.
    """
    lines = []
    for run, record in records.items():
        found = [(r["step"], text) for r in record["evaluations"] for text in r.get("warnings", ())]
        if found:
            step, text = found[-1]
            more = f" (and {len(found) - 1} earlier)" if len(found) > 1 else ""
            lines.append(f"{names[run]}, step {step}: {text}{more}")
    return lines


def _tell(sweep: SweepConfig, story: Story, console: Console) -> None:
    """Print tables, findings and checks; write the page and the Markdown file."""
    for outcome in story.outcomes:
        console.print(Rule(Text(outcome.title, style="bold"), align="left"))
        for table in terminal_tables(outcome, console.width):
            console.print(table)
    console.print(NOTE, style="dim")

    for finding in story.findings:
        console.print(Text(finding.question, style="bold"))
        console.print(Padding(Text(finding.answer), (0, 0, 0, 2)))
    if story.checks:
        console.print(check_table(story.checks))
    for line in story.warnings[:MOST_WARNINGS]:
        console.print(Text(f"warning: {line}"), soft_wrap=True)
    if (more := len(story.warnings) - MOST_WARNINGS) > 0:
        place = Path(sweep.output) / "cells"
        console.print(Text(f"warnings of {more} more runs: see the records in {place}"))

    if sweep.store is not None:
        write_output(Path(sweep.store), markdown(story).encode("utf-8"))
    if sweep.page is not None:
        with console.status("drawing the pictures"):
            write_page(story, Path(sweep.page))


def _write_table(
    sweep: SweepConfig,
    cells: Sequence[Cell],
    runs: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
    command: str,
) -> None:
    rows: list[dict[str, Any]] = []
    tasks = {key: {"title": task.title, "group": task.group} for key, task in sweep.tasks.items()}
    for cell in cells:
        record = runs[cell.run]
        if "failed" not in record:
            rows += table_rows(sweep.name, cell, sweep.tasks[cell.labels.task].group, record)
            tasks[cell.labels.task] |= {"target_moments": record["target"]}

    folder = Path(sweep.output)
    first = min(record_path(folder, r).stat().st_mtime - runs[r]["wall_seconds"] for r in runs)
    facts = {
        "sweep": sweep.name,
        "command": command,
        "log": str(folder / "cells"),
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(first)),
        # Of all sittings together, and of the workers at once.
        "wall_seconds": round(sum(r["wall_seconds"] for r in runs.values()) / sweep.workers, 1),
        "cpu_seconds": round(sum(r["cpu_seconds"] for r in runs.values()), 1),
        "commits": sorted({record["commit"] for record in runs.values()}),
        "cells": len(cells),
        "runs": len(runs),
        "failed": dict(failed),
        "tasks": tasks,
        "versions": {name: metadata.version(name) for name in VERSIONS},
    }
    if sweep.texts:
        good = {run: record["texts"] for run, record in runs.items() if "failed" not in record}
        facts["texts"] = {
            run: {"before": both[0][: sweep.texts], "after": both[1][: sweep.texts]}
            for run, both in good.items()
        }

    # A table is of the whole sweep: what it holds of other parts stays.
    if (kept := kept_parts(sweep, cells)) is not None:
        facts = kept.joined(facts, list(runs))
    write_table(Path(sweep.table or ""), rows, facts, kept.rows if kept else None)
