"""Save a run in progress, and continue one that was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lm.errors import RunError
from lm.phases import phase
from lm.run.checkpoint import METRICS, checkpoint_steps, load_newest, log_digest, save_checkpoint
from lm.run.environment import environment, environment_changes
from lm.run.folder import RunFolder
from lm.run.state import Moving, capture, restore


def save_state(run: RunFolder, moving: Moving, step: int, *, keep: int) -> None:
    """Write a checkpoint; all processes call it, for they may hold parts of the weights.

    Parameters
    ----------
    run
        Of the run; its logs are brought to the disk first.
    moving
        What is saved.
    step
        Steps done.
    keep
        How many of the newest checkpoints stay.

    Raises
    ------
    OSError
        It cannot be written; earlier ones are untouched.
    """
    with phase(f"saving the checkpoint of step {step}"):
        state = capture(moving, step, run.log_lengths(), main=run.main)
        if run.main:
            run.flush_logs()
            digests = {METRICS: log_digest(run.partial / METRICS, state.offsets[METRICS])}
            save_checkpoint(run.checkpoints, state._replace(digests=digests), keep=keep)


def resume_state(run: RunFolder, moving: Moving, say: Callable[[str], None]) -> int:
    """Continue from the newest checkpoint that verifies, and cut the logs to its step.

    Parameters
    ----------
    run
        Of a run that was interrupted, or that begins.
    moving
        Freshly built; takes up the checkpoint's state.
    say
        Called with sentences for the user: what was skipped, and where the run continues.

    Returns
    -------
    int
        Steps done: 0 if nothing can be used, and then the logs are empty.

    Raises
    ------
    RunError
        The checkpoint belongs to another model, or there are checkpoints and none can be used.
    """
    found = checkpoint_steps(run.checkpoints)
    if not found and not any(run.log_lengths().values()):
        return 0
    with phase("loading the newest checkpoint"):
        state, notes = load_newest(
            run.checkpoints, logs=run.partial, take=lambda state: restore(moving, state)
        )
    if state is None and found:
        # Starting over would delete them, and with them what may still be saved.
        raise RunError(
            f"no checkpoint of the run can be used: {'; '.join(notes)}. Nothing was changed. Put "
            "back what there was, take the weights out with python -m lm export, or start again "
            "with --overwrite and without --resume"
        )

    step = 0 if state is None else state.step
    run.cut_logs({} if state is None else state.offsets)
    where = f"continues after step {step}" if step else "starts over: no checkpoint can be used"
    for change in _changes_since(run.partial / "environment.json"):
        notes.append(f"{change}: the numbers to come agree to rounding with an unbroken run's")
    for note in (*notes, f"the run {where}"):
        say(note)
    run.append("resumed.jsonl", {"step": step, "notes": notes, "environment": environment()})
    return step


def _changes_since(environment_file: Path) -> list[str]:
    """Return what differs from the machine that a run began on."""
    try:
        return environment_changes(json.loads(environment_file.read_text("utf-8")))
    except (FileNotFoundError, ValueError, AttributeError, RecursionError):
        return [f"{environment_file.name} cannot be read, and this may be another machine"]
