"""One cell: make the run, keep its records in one file, complete or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm.config import RunConfig
from lm.config.base import BaseConfig
from lm.config.options import to_plain
from lm.errors import RunBusy, RunInterrupted, UsageError, reason_of
from lm.run.files import is_disk_full, write_atomic
from lm.run.owned import BEGUN_RUN, RUN, remove_owned
from lm.run.start import partial_folder
from lm.sweep.workers import Stopped, train_base_job, train_job

# Of a training step, what the table keeps.
STEP_KEYS = ("step", "gradient_norm", "clipped", "gradient_signal_to_noise")
NEVER = 10**9
# Without these a file is not the record of a run, or not that of one that succeeded.
RECORD_KEYS = {"config", "commit", "wall_seconds", "cpu_seconds"}
SUCCESS_KEYS = {"evaluations", "steps", "seconds", "texts", "target", "description"}


def record_path(folder: Path, run: str) -> Path:
    """Return the file of a run's records."""
    return folder / "cells" / f"{run}.json"


def cell_job(config: RunConfig, path: Path, commit: str, keep: bool = False) -> str | None:
    """Make a run and write its records; called in a worker.

    A run that fails by what it is, is recorded as such and does not stop the others. It is not
    tried again: the same numbers would fail again. Delete its file to try. One that fails by the
    machine as it is now, such as its memory, has no record, and is tried the next time.

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

    Returns
    -------
    str or None
        Why the run could not be made now; None if there is a record.
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
    except (Stopped, RunInterrupted):
        raise
    # A user's file may do anything, leaving the program included.
    except (Exception, SystemExit) as error:
        if is_disk_full(error.__cause__ or error):
            raise
        if is_of_the_moment(error):
            return reason_of(error)
        speaks = isinstance(error, ValueError | OSError) and str(error)
        record["failed"] = str(error) if speaks else f"{type(error).__name__}: {error}"
    record["wall_seconds"] = time.perf_counter() - wall
    record["cpu_seconds"] = time.process_time() - cpu

    # Only now is there a record, and it is complete.
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(record, allow_nan=False) + "\n").encode("utf-8"))
    if not keep:
        _forget(output)
    return None


def is_of_the_moment(error: BaseException) -> bool:
    """Return whether an error says something of the machine as it is now, and not of the run.

    Parameters
    ----------
    error
        Of a run. What caused it counts as well.
    """
    one: BaseException | None = error
    while one is not None:
        # A package that is missing is installed, or was just being installed again.
        if (
            isinstance(one, RunBusy | MemoryError | ImportError)
            or type(one).__name__ == "OutOfMemoryError"
        ):
            return True
        # The CPU allocator of torch has no exception of its own.
        if isinstance(one, RuntimeError) and "can't allocate memory" in str(one):
            return True
        # What is not there is what the run names.
        absent = {None, errno.ENOENT, errno.ENOTDIR}
        if isinstance(one, OSError) and one.errno not in absent:
            return True
        one = one.__cause__
    return False


def base_job(config: BaseConfig) -> None:
    """Train a base, or find it; called in a worker.

    One that cannot be had fails again in each run that needs it, and is recorded there.
    """
    with contextlib.suppress(ValueError, OSError):
        train_base_job(config)


def read_record(folder: Path, run: str) -> dict[str, Any]:
    """Read a finished run's records.

    Parameters
    ----------
    folder
        Of the sweep.
    run
        Which.

    Returns
    -------
    dict
        As `cell_job` wrote it.

    Raises
    ------
    UsageError
        The file is damaged.
    """
    path = record_path(folder, run)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(_damaged(path, reason_of(error))) from error
    if not isinstance(record, dict):
        raise UsageError(_damaged(path, f"it holds a {type(record).__name__}"))
    wanted = RECORD_KEYS if "failed" in record else RECORD_KEYS | SUCCESS_KEYS
    if missing := sorted(wanted - record.keys()):
        raise UsageError(_damaged(path, f"it has no {', '.join(missing)}"))
    return record


def _damaged(path: Path, why: str) -> str:
    return f"{path} is not the record of a run ({why}): delete it, and the run is made again"


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
