"""The folder of a run: complete or not there.

A run writes to ``.NAME.partial``, next to its folder, and renames it when everything is in it. A
file of a finished run is::

    config.yaml, config.json        the resolved configuration
    inputs.json                     a hash of every file and local folder that it reads
    environment.json                versions and machine
    status.json                     what is proven about the gradient (verdict, factor, reason)
    target.json                     features, moments, multipliers, fit certificate, log Z
    metrics.jsonl                   one step or evaluation per line; its scheme: lm/run/records.py
    timings.jsonl                   clock values, kept apart: metrics.jsonl is reproducible
    samples_before.txt, samples_after.txt, figures/*.png, summary.json, report.html, README.md
    texts.jsonl                     samples at an interval, if that was asked for
    target_samples.jsonl            samples of the target, where it can be sampled
    policy/                         the trained model, a plain Hugging Face folder
    checkpoints/                    the state of the last step (lm/run/checkpoint.py)
    resumed.jsonl                   if it was interrupted: where it continued, and on which machine
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import yaml

from lm.config import RunConfig
from lm.config.options import from_plain, to_plain
from lm.errors import RunBusy, RunError, RunInterrupted, reason_of
from lm.features.registry import admit_names
from lm.phases import each
from lm.policy.protocol import Policy
from lm.run.checkpoint import checkpoint_steps, clear_unfinished, prune_checkpoints
from lm.run.environment import environment
from lm.run.files import append_line, flush_to_disk, is_disk_full, write_atomic
from lm.run.inputs import input_digests
from lm.run.owned import BEGUN_RUN, LOCK, RUN, remove_owned
from lm.run.start import (
    INPUTS,
    has_records,
    how_to_start,
    is_partial,
    old_folder,
    partial_folder,
    require_replaceable,
)
from lm.target.problem import Problem, describe_problem
from lm.target.proven_status import status_of

LOGS = ("metrics.jsonl", "timings.jsonl")
# Of sample texts at an interval, where there are any; it goes on with the others.
TEXTS = "texts.jsonl"
# On one machine they are the same numbers; rounding on another one moves them by less than this.
SAME_FACTS = 1e-3
# What reading facts raises where somebody has edited them.
_NO_FACTS = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


class RunFolder:
    """Where a run in progress writes.

    Parameters
    ----------
    final
        The folder's name once the run is complete.
    main
        Whether this process writes; of several processes one does, and the others read.
    """

    def __init__(self, final: Path, *, main: bool = True) -> None:
        self.final = final
        self.main = main
        self.partial = partial_folder(final)
        self.checkpoints = self.partial / "checkpoints"

    def write_text(self, name: str, text: str) -> None:
        """Write a file at once or not at all."""
        if self.main:
            write_atomic(self.partial / name, text.encode("utf-8"))

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file at once or not at all; NaN is refused."""
        self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Append one line of JSON, the whole line or nothing; NaN is refused."""
        if self.main:
            append_line(self.partial / name, json.dumps(record, allow_nan=False))

    def log_lengths(self) -> dict[str, int]:
        """Return the byte length of each log; 0 where there is none yet."""
        paths = {name: self.partial / name for name in self._logs()}
        return {name: path.stat().st_size if path.exists() else 0 for name, path in paths.items()}

    def _logs(self) -> tuple[str, ...]:
        return (*LOGS, TEXTS) if (self.partial / TEXTS).exists() else LOGS

    def flush_logs(self) -> None:
        """Bring the logs to the disk, so that a checkpoint never knows more than they hold."""
        if self.main:
            for name in self._logs():
                flush_to_disk(self.partial / name)
            flush_to_disk(self.partial)

    def cut_logs(self, lengths: Mapping[str, int]) -> None:
        """Forget what was logged after a checkpoint: it will be computed and logged again."""
        if self.main:
            for name in self._logs():
                with (self.partial / name).open("ab") as file:
                    # A log that was lost is not filled up with zero bytes.
                    file.truncate(min(file.tell(), lengths.get(name, 0)))

    def write_problem(self, measured: Problem, trained: Problem) -> None:
        """Record what the run is about; of a run that continues, check that it still is that.

        Parameters
        ----------
        measured, trained
            What it is measured against and what it descends; mostly one and the same.

        Raises
        ------
        RunError
            The target is another one: the model, a feature or the prompts have changed.
        """
        found, path = describe_problem(measured), self.partial / "target.json"
        # A reward alone is no distribution: nothing is known of it under the base.
        if trained is not measured and trained.anchor is not None:
            found["trained"] = describe_problem(trained)
        if not path.exists():
            self.write_json(path.name, found)
            return

        # A run that continues must still be about the same.
        try:
            then = _facts(json.loads(path.read_text(encoding="utf-8")))
        except _NO_FACTS as error:
            raise RunError(
                f"{path} cannot be read, so that the target of the run is not known: put it back, "
                "or start again with --overwrite and without --resume"
            ) from error
        now = _facts(found)
        for name in {**now, **then}:
            # What is not there is no number, and no number is close to it.
            value, before = now.get(name, math.nan), then.get(name, math.nan)
            if not math.isclose(value, before, rel_tol=SAME_FACTS, abs_tol=SAME_FACTS):
                raise RunError(
                    f"{name} is {value:.6g} now, but {path} says {before:.6g}: that file, the "
                    "model's folder, a feature or the prompts have changed since the run began. "
                    "Put back what there was, or start again with --overwrite and without --resume"
                )

    def write_policy(self, policy: Policy) -> None:
        """Save the policy as a plain Hugging Face folder, the whole folder or nothing."""
        folder = self.partial / "policy"
        unfinished = self.partial / ".policy.partial"
        for leftover in (folder, unfinished):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished.mkdir()
        policy.save(unfinished)
        unfinished.replace(folder)


@contextmanager
def open_run(config: RunConfig, *, main: bool = True) -> Iterator[RunFolder]:
    """Create the run's partial folder or find the interrupted one, and name it when complete.

    A run that fails before its first record leaves nothing. One that fails later, or is
    interrupted, leaves its partial folder: its records may explain why, and ``--resume``
    continues from its newest checkpoint. The error says where it is.

    Parameters
    ----------
    config
        A resolved configuration of a run that is not complete (`lm.run.start.how_to_start`).
    main
        Whether this process writes. The others get the same folder and leave it as it is; they
        enter once the main process has.

    Yields
    ------
    RunFolder
        With configuration, environment and status already written.

    Raises
    ------
    RunError
        The folder exists and may not be replaced, cannot be created, belongs to a process that
        still writes it, or the disk is full.
    """
    run = RunFolder(Path(config.output or ""), main=main)
    if not main:
        yield run
        return

    how_to_start(config)  # refuses before anything is created
    with _claimed(run):
        try:
            # Again: another process may have finished the same run since.
            start = how_to_start(config)
            if start == "complete":
                raise RunError(f"{run.final} was completed by another process just now")
            if start == "new":
                _begin(run, config)
            clear_unfinished(run.checkpoints)
            yield run
            _complete(run)
        except RunInterrupted:
            raise
        except BaseException as error:
            _leave(run, error)
            raise


def require_complete(folder: Path) -> None:
    """Raise a RunError if a folder is that of a run which was interrupted."""
    if is_partial(folder) or (not folder.exists() and has_records(partial_folder(folder))):
        raise RunError(
            f"the run {folder} is not complete: continue it by the command that began it and "
            f"--resume, or take its newest checkpoint out: python -m lm export {folder} FOLDER"
        )


def read_config(folder: Path, *, complete: bool = True) -> RunConfig:
    """Read the configuration of a run.

    Parameters
    ----------
    folder
        Of the run.
    complete
        Whether only a finished run will do.

    Raises
    ------
    RunError
        The folder is not a run, or one that was interrupted.
    """
    if complete:
        require_complete(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(f"{folder} is not a run folder: it has no config.json. Runs are in runs/")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(plain, dict) or not isinstance(plain.get("target"), dict):
            raise ValueError("it is not the configuration of a run")
        for target in (plain["target"], plain.get("measure")):
            if isinstance(target, dict):
                admit_names(target)
        return from_plain(RunConfig, plain)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read: {reason_of(error)}. It was changed, or another version of "
            "this program wrote it"
        ) from error


@contextmanager
def _claimed(run: RunFolder) -> Iterator[None]:
    """Hold the partial folder for this process; the claim ends with it, however it ends."""
    lock = None
    while lock is None:
        lock = _lock(run)
    with lock:
        yield


def _lock(run: RunFolder) -> TextIO | None:
    """Lock the partial folder; None if its owner has just renamed or removed it."""
    try:
        run.partial.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise RunError(
            f"the run folder {run.final} cannot be created ({error}): choose another --output"
        ) from error

    try:
        lock = (run.partial / LOCK).open("a")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise RunBusy(
            f"another process is writing {run.partial}: wait until it is done, or stop it"
        ) from error
    if _is_same_file(lock.fileno(), run.partial / LOCK):
        return lock
    lock.close()  # that of a run that was completed meanwhile
    return None


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _facts(target: Mapping[str, Any]) -> dict[str, float]:
    """Return what tells a base with its target from another one, of what target.json holds."""
    facts = {f"E[{row['feature']}] of the base": float(row["base"]) for row in target["features"]}
    facts["log Z of the target"] = float(target["log_z"])
    trained = _facts(target["trained"]) if "trained" in target else {}
    return facts | {f"{name}, as it is trained,": value for name, value in trained.items()}


def _begin(run: RunFolder, config: RunConfig) -> None:
    # It is ours: `how_to_start` has looked at it, and the lock is held since.
    for old in run.partial.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        elif old.name != LOCK:
            old.unlink()
    (run.partial / "figures").mkdir()
    plain = to_plain(config)
    run.write_json("config.json", plain)
    run.write_text("config.yaml", yaml.safe_dump(plain, sort_keys=False))
    run.write_json(INPUTS, input_digests(config))
    run.write_json("environment.json", environment())
    run.write_json("status.json", status_of(config)._asdict())
    flush_to_disk(run.partial.parent)


def _complete(run: RunFolder) -> None:
    """Give the run its name, once every byte of it is on the disk."""
    steps = checkpoint_steps(run.checkpoints)
    if steps:
        prune_checkpoints(run.checkpoints, steps[0], keep=1)
    files = [*run.partial.rglob("*"), run.partial]
    for path in each("bringing the run to the disk", files):
        flush_to_disk(path)

    # Something else may have got the name while the run trained.
    began = json.loads((run.partial / "config.json").read_text(encoding="utf-8"))
    require_replaceable(run.final, overwrite=bool(began.get("overwrite")))
    old = old_folder(run.final)
    remove_owned(old, RUN)

    # The lock is held until the run has its name: no other process may take it for unfinished.
    if run.final.exists():
        run.final.replace(old)
    run.partial.replace(run.final)
    (run.final / LOCK).unlink()
    flush_to_disk(run.final)
    flush_to_disk(run.final.parent)
    remove_owned(old, RUN)


def _leave(run: RunFolder, error: BaseException) -> None:
    """Say what a run that stops leaves behind, and take away what is of no use."""
    advice = "run the same command again"
    if not has_records(run.partial):
        try:
            remove_owned(run.partial, BEGUN_RUN)
        except RunError as kept:
            error.add_note(str(kept))
        else:
            if isinstance(error, KeyboardInterrupt):
                error.add_note("no step was done yet, so nothing of the run is kept")
    else:
        error.add_note(f"what was recorded until then is in {run.partial}")
        steps = checkpoint_steps(run.checkpoints)
        if steps:
            error.add_note(
                f"the newest checkpoint is of step {steps[0]}: --resume continues from there"
            )
        advice = "run the same command with --resume"

    if is_disk_full(error):
        full = RunError(f"the disk is full, so the run stops: free some space, then {advice}")
        for note in getattr(error, "__notes__", ()):
            full.add_note(note)
        raise full from error
