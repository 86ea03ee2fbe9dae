"""One cell: make the run, keep its records in one file, complete or not there."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lm.config.base import BaseConfig
from lm.config.options import to_plain
from lm.config.run import PartitionConfig, RunConfig, resolve
from lm.config.target import TargetConfig
from lm.run.files import is_disk_full, write_atomic
from lm.run.records import FOUR
from lm.sweep.workers import Stopped, train_base_job, train_job

__all__ = ["record_path"]

# Of a training step, what the table keeps.
STEP_KEYS = ("step", "gradient_norm", "clipped", "gradient_signal_to_noise")
NEVER = 10**9


class CellJob(NamedTuple):
    """What a worker is told of a cell.

    Attributes
    ----------
    config
        Resolved.
    folder
        Of the sweep.
    run
        Name of the record.
    commit
        Of the code, for the record.
    also
        Another target that the trained policy and its base are measured against.
    kept
        Where the run's own folder stays; by default only its records do.
    """

    config: RunConfig
    folder: Path
    run: str
    commit: str
    also: TargetConfig | None = None
    kept: Path | None = None


def record_path(folder: Path, run: str) -> Path:
    """Return the file of a run's records."""
    return folder / "cells" / f"{run}.json"


def cell_job(job: CellJob) -> None:
    """Make a run and write its records; called in a worker.

    A run that fails, for whatever reason, is recorded as such and does not stop the others. It is
    not tried again: the same numbers would fail again. Delete its file to try.

    Parameters
    ----------
    job
        Which run.
    """
    # A run that is not kept lives in a scratch folder, and needs no checkpoint.
    scratch = job.folder / "scratch" / job.run
    config = replace(job.config, output=str(scratch))
    if job.kept is not None:
        config = replace(config, output=str(job.kept), overwrite=True, report=True)
    else:
        config = replace(config, checkpoint=replace(config.checkpoint, every=NEVER, keep=1))
        _forget(scratch)

    # Make the run.
    wall, cpu = time.perf_counter(), time.process_time()
    record: dict[str, Any] = {"config": to_plain(config), "commit": job.commit}
    try:
        folder = train_job(config)
        record |= _read(folder)
        if job.also is not None:
            record["also"] = _measure(config, job.also, folder)
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
    path = record_path(job.folder, job.run)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(record, allow_nan=False) + "\n").encode("utf-8"))
    _forget(scratch)


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
    for leftover in (scratch, scratch.with_name(f".{scratch.name}.partial")):
        shutil.rmtree(leftover, ignore_errors=True)


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


def _measure(config: RunConfig, also: TargetConfig, folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return the four divergences of base and trained policy to another target."""
    from lm.evaluation.evaluate import Evaluator  # noqa: PLC0415  # torch is for workers only
    from lm.policy.causal import load_policy  # noqa: PLC0415
    from lm.target.problem import build_problem  # noqa: PLC0415
    from lm.training.setup import load_base  # noqa: PLC0415

    # Any divergence will do that is finite everywhere: all four are measured.
    finite = replace(config, divergence="jensen_shannon", measure=None, partition=PartitionConfig())
    config = resolve(replace(finite, target=also))
    problem = build_problem(config, load_base(config))
    evaluator = Evaluator(
        problem, config.evaluation, divergence=config.divergence, seed=config.seed
    )
    trained = load_policy(folder / "policy", transform=config.law)
    found = {}
    for name, policy in (("base", problem.base), ("policy", trained)):
        estimates = evaluator.measure(policy, step=0, samples=0).record["estimates"]
        found[name] = {divergence: estimates[divergence] for divergence in FOUR}
    return found
