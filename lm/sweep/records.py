"""One cell: make the run, keep its records in one file, complete or not there."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm.config import RunConfig
from lm.config.base import BaseConfig
from lm.config.options import to_plain
from lm.run.files import is_disk_full, write_atomic
from lm.run.owned import BEGUN_RUN, RUN, remove_owned
from lm.run.start import partial_folder
from lm.sweep.workers import Stopped, train_base_job, train_job

# Of a training step, what the table keeps.
STEP_KEYS = ("step", "gradient_norm", "clipped", "gradient_signal_to_noise")
NEVER = 10**9


def record_path(folder: Path, run: str) -> Path:
    """Return the file of a run's records."""
    return folder / "cells" / f"{run}.json"


def cell_job(config: RunConfig, path: Path, commit: str, keep: bool = False) -> None:
    """Make a run and write its records; called in a worker.

    A run that fails, for whatever reason, is recorded as such and does not stop the others. It is
    not tried again: the same numbers would fail again. Delete its file to try.

    Parameters
    ----------
    config
        Resolved; its output is the run's own folder.
    path
        Of the record, which is written when the run is done.
    commit
        Of the code, for the record.
    keep
        Whether the folder stays, with policy and report; else only the records do.
    """
    output = Path(config.output or "")
    if keep:
        config = replace(config, overwrite=True, report=True)
    else:
        config = replace(config, checkpoint=replace(config.checkpoint, every=NEVER, keep=1))
        _forget(output)

    # Make the run.
    wall, cpu = time.perf_counter(), time.process_time()
    record: dict[str, Any] = {"config": to_plain(config), "commit": commit}
    try:
        record |= _read(train_job(config))
    except Stopped:
        raise
    # A user's file may do anything, leaving the program included.
    except (Exception, SystemExit) as error:
        if is_disk_full(error.__cause__ or error):
            raise
        speaks = isinstance(error, ValueError | OSError) and str(error)
        record["failed"] = str(error) if speaks else f"{type(error).__name__}: {error}"
    record["wall_seconds"] = time.perf_counter() - wall
    record["cpu_seconds"] = time.process_time() - cpu

    # Only now is there a record, and it is complete.
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(record, allow_nan=False) + "\n").encode("utf-8"))
    if not keep:
        _forget(output)


def base_job(config: BaseConfig) -> None:
    """Train a base, or find it; called in a worker.

    One that cannot be had fails again in each run that needs it, and is recorded there.
    """
    with contextlib.suppress(ValueError, OSError):
        train_base_job(config)


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


def _forget(scratch: Path) -> None:
    remove_owned(scratch, RUN)
    remove_owned(partial_folder(scratch), BEGUN_RUN)


def _read(run: Path) -> dict[str, Any]:
    def lines(name: str) -> list[str]:
        return (run / name).read_text(encoding="utf-8").splitlines()

    records = list(map(json.loads, lines("metrics.jsonl")))
    clock = map(json.loads, lines("timings.jsonl"))
    target = json.loads((run / "target.json").read_text(encoding="utf-8"))
    return {
        "evaluations": [record for record in records if record["kind"] == "evaluation"],
        "steps": [{key: r[key] for key in STEP_KEYS} for r in records if r["kind"] == "step"],
        "seconds": [round(record["seconds"], 5) for record in clock if "seconds" in record],
        "texts": [lines("samples_before.txt"), lines("samples_after.txt")],
        "target": {row["feature"]: row["target"] for row in target["features"]},
        "description": target,
        "environment": json.loads((run / "environment.json").read_text(encoding="utf-8")),
    }
