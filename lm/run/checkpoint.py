"""Checkpoints: complete or not there, verified before they are used, nothing pickled.

A checkpoint is a folder of three files::

    state.safetensors   weights, optimiser, random generator, Z, baseline, proposal, mean weights
    state.json          schedule, gradient scaler, byte lengths of the run's logs
    manifest.json       size and SHA-256 of the other two, and of metrics.jsonl as it was at that
                        step; written last

It is written under a temporary name, every file and the folder are flushed to the disk, and only
then it is renamed: a power cut or ``kill -9`` leaves the checkpoints before it. What the state is,
and who takes it up again, stands in `lm.run.state`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lm.errors import RunError
from lm.phases import phase
from lm.run.files import flush_to_disk, os_error
from lm.run.state import TrainingState

FORMAT = 1
TENSORS, NUMBERS, MANIFEST = "state.safetensors", "state.json", "manifest.json"
METRICS = "metrics.jsonl"
# What JSON raises that is valid and says something else.
_NOT_A_STATE = (*(ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError),)
_NAME = re.compile(r"step-(\d{8,})")


class CorruptCheckpoint(RunError):
    """A checkpoint that was changed after it was written."""


def log_digest(log: Path, length: int) -> str:
    """Return the SHA-256 of the first bytes of a log, in hexadecimal digits."""
    digest = hashlib.sha256()
    with log.open("rb") as file:
        while length > 0 and (block := file.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
    return digest.hexdigest()


def save_checkpoint(folder: Path, state: TrainingState, *, keep: int) -> Path:
    """Write a checkpoint, then drop those that it makes superfluous.

    Parameters
    ----------
    folder
        Of all checkpoints of the run; created if need be.
    state
        To be saved.
    keep
        How many of the newest stay, this one included. Later steps go: they belong to a course
        of the run that was abandoned.

    Returns
    -------
    Path
        The checkpoint.

    Raises
    ------
    OSError
        It cannot be written. Earlier checkpoints are untouched, and nothing of this one stays.
    """
    final = _folder_of(folder, state.step)
    partial = folder / f".{final.name}.partial"
    clear_unfinished(folder)
    partial.mkdir(parents=True)
    try:
        _write(partial, state)
        if final.exists():
            shutil.rmtree(final)
        partial.replace(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    flush_to_disk(folder)
    prune_checkpoints(folder, state.step, keep=keep)
    return final


def prune_checkpoints(folder: Path, newest: int, *, keep: int) -> None:
    """Drop all checkpoints but the `keep` newest up to a step."""
    steps = checkpoint_steps(folder)
    kept = [step for step in steps if step <= newest][:keep]
    for step in set(steps) - set(kept):
        shutil.rmtree(_folder_of(folder, step))


def clear_unfinished(folder: Path) -> None:
    """Drop half-written checkpoints of a process that was killed."""
    for leftover in folder.glob(".step-*.partial"):
        shutil.rmtree(leftover)


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps at which there are checkpoints, newest first; they are not verified."""
    matches = (_NAME.fullmatch(path.name) for path in folder.glob("step-*"))
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def load_newest(
    folder: Path, *, logs: Path, take: Callable[[TrainingState], None] = lambda _: None
) -> tuple[TrainingState | None, list[str]]:
    """Load the newest checkpoint that verifies and that can be taken up.

    Parameters
    ----------
    folder
        Of all checkpoints of the run; it need not exist.
    logs
        Folder of the run's logs as they are now. A checkpoint is not used if metrics.jsonl was
        longer when it was made, or has been changed since. Clock values are worth no checkpoint:
        timings.jsonl may be lost.
    take
        Takes a state up. If it fails on what is in it, the checkpoint is skipped.

    Returns
    -------
    state
        None if no checkpoint can be used.
    notes
        One sentence for each newer checkpoint that was skipped, and why.

    Raises
    ------
    RunError
        From `take`, if the state is whole but belongs to another run.
    """
    notes = []
    for step in checkpoint_steps(folder):
        try:
            state = load_checkpoint(_folder_of(folder, step))
            if state.step != step:
                raise CorruptCheckpoint(f"it says that it is of step {state.step}")
            _require_logs(state, logs)
            take(state)
        except CorruptCheckpoint as error:
            notes.append(f"the checkpoint of step {step} is skipped: {error}")
        except RunError:
            raise
        except _NOT_A_STATE as error:
            what = f"its content is not the state of a training ({error!r:.200})"
            notes.append(f"the checkpoint of step {step} is skipped: {what}")
        else:
            return state, notes
    return None, notes


def load_checkpoint(folder: Path) -> TrainingState:
    """Load one checkpoint, every byte of which is verified first.

    Parameters
    ----------
    folder
        As `save_checkpoint` returned it.

    Returns
    -------
    TrainingState
        With its tensors on the CPU.

    Raises
    ------
    CorruptCheckpoint
        A file is missing, cut or changed, or of another version of this program.
    OSError
        A file cannot be read, which says nothing about its content.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if manifest["format"] != FORMAT:
            raise CorruptCheckpoint(f"its format is {manifest['format']}, not {FORMAT}")
        if set(manifest["files"]) != {TENSORS, NUMBERS}:
            raise CorruptCheckpoint(f"{MANIFEST} does not name {TENSORS} and {NUMBERS}")
        for name, recorded in manifest["files"].items():
            with phase(f"verifying {name} of {folder.name}"):
                _require_same_file(folder / name, recorded)

        # Every byte is what was written: now see that it says what a checkpoint says.
        content = json.loads((folder / NUMBERS).read_text("utf-8"))
        numbers, offsets = content["numbers"], content["offsets"]
        digests = manifest.get("logs", {})
        if not all(isinstance(part, dict) for part in (numbers, offsets, digests)):
            raise CorruptCheckpoint(f"{NUMBERS} or {MANIFEST} holds a list where names belong")
        return TrainingState(
            int(manifest["step"]), load_file(folder / TENSORS), numbers, offsets, digests
        )
    except FileNotFoundError as error:
        raise CorruptCheckpoint(f"{Path(error.filename).name} is missing") from error
    except (*_NOT_A_STATE, SafetensorError) as error:
        if isinstance(error, CorruptCheckpoint):
            raise
        raise CorruptCheckpoint(f"{folder} is not a checkpoint ({error!r})") from error


def _folder_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def _write(folder: Path, state: TrainingState) -> None:
    try:
        save_file(_apart(state.tensors), folder / TENSORS)
    except SafetensorError as error:
        raise os_error(error, folder / TENSORS) from error

    # Numbers, then the manifest, which vouches for both files.
    content = {"numbers": state.numbers, "offsets": state.offsets}
    (folder / NUMBERS).write_text(json.dumps(content, indent=2), encoding="utf-8")
    files = {name: _fingerprint(folder / name) for name in (TENSORS, NUMBERS)}
    manifest = {
        "format": FORMAT,
        "step": state.step,
        "files": files,
        "logs": dict(state.digests),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")

    for name in (TENSORS, NUMBERS, MANIFEST):
        flush_to_disk(folder / name)
    flush_to_disk(folder)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU that share no memory, as safetensors wants them; few are copied.

    Views of a flat buffer share it, and so may two names.
    """
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu()
        memory = here.untyped_storage()
        whole = here.is_contiguous() and memory.nbytes() == here.nbytes
        apart[name] = here if whole and memory.data_ptr() not in seen else here.clone().contiguous()
        seen.add(memory.data_ptr())
    return apart


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest}


def _require_same_file(path: Path, recorded: Mapping[str, Any]) -> None:
    found = _fingerprint(path)
    if found["bytes"] != recorded["bytes"]:
        raise CorruptCheckpoint(
            f"{path.name} has {found['bytes']} bytes, but {recorded['bytes']} were written"
        )
    if found != recorded:
        raise CorruptCheckpoint(f"the bytes of {path.name} have changed since they were written")


def _require_logs(state: TrainingState, logs: Path) -> None:
    offset = state.offsets.get(METRICS, 0)
    path = logs / METRICS
    found = path.stat().st_size if path.exists() else 0
    if found < offset:
        raise CorruptCheckpoint(f"{METRICS} has {found} bytes, but had {offset} at that step")
    digest = state.digests.get(METRICS)
    if digest is not None and log_digest(path, offset) != digest:
        raise CorruptCheckpoint(f"{METRICS} has been changed since, in a line up to that step")
