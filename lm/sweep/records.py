"""One cell: make the run, keep its records in one file, complete or not there."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm.config.options import to_plain
from lm.config.run import RunConfig
from lm.errors import RunError
from lm.run.files import write_atomic
from lm.sweep.workers import train_job

__all__ = ["record_path"]

# Of a training step, what the table keeps.
STEP_KEYS = ("step", "gradient_norm", "clipped", "gradient_signal_to_noise")
NEVER = 10**9


def record_path(folder: Path, run: str) -> Path:
    """Return the file of a run's records."""
    return folder / "cells" / f"{run}.json"


def cell_job(config: RunConfig, folder: Path, run: str, commit: str) -> None:
    """Make a run and write its records; called in a worker.

    A run that fails is recorded as such, with its reason, and is not tried again: the same numbers
    would fail again. Delete its file to try.

    Parameters
    ----------
    config
        Resolved.
    folder
        Of the sweep.
    run
        Name of the record.
    commit
        Of the code, for the record.
    """
    scratch = folder / "scratch" / run
    shutil.rmtree(scratch, ignore_errors=True)
    partial = scratch.with_name(f".{run}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    config = replace(
        config, output=str(scratch), checkpoint=replace(config.checkpoint, every=NEVER, keep=1)
    )
    wall, cpu = time.perf_counter(), time.process_time()
    record: dict[str, Any] = {"config": to_plain(config), "commit": commit}
    try:
        train_job(config)
        record |= _read(scratch)
    except RunError as error:
        record["failed"] = str(error)
    record["wall_seconds"] = time.perf_counter() - wall
    record["cpu_seconds"] = time.process_time() - cpu
    path = record_path(folder, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(record, allow_nan=False) + "\n").encode("utf-8"))
    for leftover in (scratch, partial):
        shutil.rmtree(leftover, ignore_errors=True)


def read_record(folder: Path, run: str) -> dict[str, Any]:
    """Read a finished run's records."""
    return json.loads(record_path(folder, run).read_text(encoding="utf-8"))


def code_commit() -> str:
    """Return the commit of the working tree, marked where its code was changed since."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "fdpg_ref", "lm")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+changes" if changed else head


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    return done.stdout.strip()


def _read(run: Path) -> dict[str, Any]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = list(map(json.loads, lines))
    steps = [
        {key: record[key] for key in STEP_KEYS} for record in records if record["kind"] == "step"
    ]
    target = json.loads((run / "target.json").read_text(encoding="utf-8"))
    return {
        "evaluations": [record for record in records if record["kind"] == "evaluation"],
        "steps": steps,
        "target": {row["feature"]: row["target"] for row in target["features"]},
        "environment": json.loads((run / "environment.json").read_text(encoding="utf-8")),
    }
