"""Saving a run in progress, and going on with one that was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable

from lm.run.checkpoint import load_newest, save_checkpoint
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
    state = capture(moving, step, run.log_lengths(), main=run.main)
    if run.main:
        run.flush_logs()
        save_checkpoint(run.checkpoints, state, keep=keep)


def resume_state(run: RunFolder, moving: Moving, say: Callable[[str], None]) -> int:
    """Go on from the newest checkpoint that verifies, and cut the logs to its step.

    Parameters
    ----------
    run
        Of a run that was interrupted, or that begins.
    moving
        Freshly built; takes up the checkpoint's state.
    say
        Called with sentences for the user: what was skipped, and where the run goes on.

    Returns
    -------
    int
        Steps done: 0 if nothing can be used, and then the logs are empty.

    Raises
    ------
    RunError
        The checkpoint belongs to another model.
    """
    lengths = run.log_lengths()
    if not any(lengths.values()):
        return 0
    state, notes = load_newest(run.checkpoints, lengths=lengths)
    step = 0 if state is None else state.step
    if state is not None:
        restore(moving, state)
    run.cut_logs({} if state is None else state.offsets)
    where = f"goes on after step {step}" if step else "starts over: no checkpoint can be used"
    recorded = json.loads((run.partial / "environment.json").read_text("utf-8"))
    for change in environment_changes(recorded):
        notes.append(f"{change}: the numbers to come agree to rounding with an unbroken run's")
    for note in (*notes, f"the run {where}"):
        say(note)
    run.append("resumed.jsonl", {"step": step, "notes": notes, "environment": environment()})
    return step
