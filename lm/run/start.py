"""How a run starts: from nothing, where an interrupted one stopped, or not at all. No torch.

The interrupted run lies in ``.NAME.partial`` beside its folder. It is never deleted without being
asked, and never continued with a configuration that would give other numbers.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lm.config.options import GONE, flatten, to_plain, without_gone
from lm.config.run import RunConfig
from lm.errors import RunError
from lm.run.files import require_new_folder

Start = Literal["new", "resumed", "complete"]

# What may differ between the beginning of a run and its continuation: where it is, how often it
# is saved, and who else is told. `steps` may not: the learning rate depends on it.
MAY_DIFFER = ("output", "overwrite", "resume", "checkpoint", "tracker")
# Written with the first record: from here on something was computed that is worth keeping.
FIRST_RECORD = "timings.jsonl"


def partial_folder(final: Path) -> Path:
    """Return where a run is while it is not complete."""
    return final.with_name(f".{final.name}.partial")


def is_partial(folder: Path) -> bool:
    """Return whether a folder is one that `partial_folder` names."""
    return folder.name.startswith(".") and folder.name.endswith(".partial")


def has_records(partial: Path) -> bool:
    """Return whether a run that is not complete computed anything."""
    return (partial / FIRST_RECORD).exists()


def how_to_start(config: RunConfig) -> Start:
    """Decide how a run starts, before anything is computed or written.

    Parameters
    ----------
    config
        A resolved configuration.

    Returns
    -------
    str
        new; resumed: an interrupted run of the same configuration goes on; complete: a finished
        one is there and nothing is left to do.

    Raises
    ------
    RunError
        The folder cannot be written; something is there that may not be replaced; or the run to
        be continued has another configuration.
    """
    final = Path(config.output or "")
    partial = partial_folder(final)
    if config.resume and has_records(partial):
        began = _read(partial)
        _require_same(config, began, partial, "was interrupted")
        # A run that began as the replacement of an older one is still that.
        require_new_folder(final, overwrite=began.get("overwrite", False))
        return "resumed"
    if config.resume and (final / "config.json").is_file():
        _require_same(config, _read(final), final, "is complete")
        return "complete"
    if has_records(partial) and not config.overwrite:
        raise RunError(
            f"an interrupted run of this name is in {partial}: add --resume to go on with it, or "
            "--overwrite to delete it and start again"
        )
    require_new_folder(final, overwrite=config.overwrite)
    return "new"


def differences(config: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """Return one line for each key whose value changes a run's numbers and is not the same.

    Parameters
    ----------
    config, recorded
        As `lm.config.options.to_plain` returns them: now, and when the run began.

    Returns
    -------
    list of str
        ``key is X now, but was Y``; empty if the run may go on.
    """
    now, then = flatten(config), flatten(without_gone(recorded))
    gone = [
        f"{key} was {json.dumps(recorded[key])}, and is gone" for key in GONE if recorded.get(key)
    ]
    keys = [key for key in {**then, **now} if key.split(".")[0] not in MAY_DIFFER]
    return gone + [
        f"{key} is {_shown(now, key)} now, but was {_shown(then, key)}"
        for key in keys
        if _shown(now, key) != _shown(then, key)
    ]


def resume_command(words: Sequence[str]) -> str:
    """Return the command that goes on with an interrupted run.

    Parameters
    ----------
    words
        What followed ``python -m lm train`` when it began.

    Returns
    -------
    str
        For a shell. Started by a launcher, it is to be started by the same one.
    """
    kept, drop_value = [], False
    for word in words:
        value_of_it, drop_value = drop_value and not word.startswith("-"), False
        if word.split("=")[0] in {"--overwrite", "--resume"}:
            drop_value = "=" not in word
        elif not value_of_it:
            kept.append(word)
    return shlex.join(["python", "-m", "lm", "train", *kept, "--resume"])


def _require_same(config: RunConfig, recorded: Mapping[str, Any], folder: Path, state: str) -> None:
    changed = differences(to_plain(config), recorded)
    if changed:
        raise RunError(
            f"the run in {folder} {state} with another configuration, so that --resume would not "
            f"give its numbers: {'; '.join(changed)}. Give the values that it had, choose another "
            "--output, or drop --resume and pass --overwrite to start again"
        )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read, so nobody knows what run this is: pass --overwrite without "
            "--resume to start again"
        ) from error


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"
