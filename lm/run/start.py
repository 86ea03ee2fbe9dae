"""How a run starts: from nothing, where an interrupted one stopped, or not at all. No torch.

The interrupted run lies in ``.NAME.partial``, next to its folder. It is never deleted without being
asked, and never continued with a configuration that would give other numbers.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lm.config import RunConfig
from lm.config.options import GONE, flatten, to_plain, without_gone
from lm.errors import RunError
from lm.features.files import path_of
from lm.run.files import require_new_folder
from lm.run.inputs import input_digests
from lm.run.owned import BEGUN_RUN, RUN, require_owned

Start = Literal["new", "resumed", "complete"]

# What may differ between the beginning of a run and its continuation: where it is, how often it
# is saved, and who else is told. `steps` may not: the learning rate depends on it.
MAY_DIFFER = ("output", "overwrite", "resume", "checkpoint", "tracker", "plan")
# Of a log: the base's evaluation, then a step.
FIRST_LINES = 3
# What was in the files that a run read when it began.
INPUTS = "inputs.json"


def partial_folder(final: Path) -> Path:
    """Return where a run is while it is not complete."""
    return final.with_name(f".{final.name}.partial")


def is_partial(folder: Path) -> bool:
    """Return whether a folder is one that `partial_folder` names."""
    return folder.name.startswith(".") and folder.name.endswith(".partial")


def old_folder(final: Path) -> Path:
    """Return where a run that is being replaced is for a moment."""
    return final.with_name(f".{final.name}.old")


def has_records(partial: Path) -> bool:
    """Return whether a run that is not complete did a step: from then on it is worth keeping.

    Each of its files may be lost; one that shows a step is enough.
    """
    if any((partial / "checkpoints").glob("step-*")):
        return True
    return any(_shows_a_step(partial / name) for name in ("metrics.jsonl", "timings.jsonl"))


def how_to_start(config: RunConfig) -> Start:
    """Decide how a run starts, before anything is computed or written.

    Parameters
    ----------
    config
        A resolved configuration.

    Returns
    -------
    str
        new; resumed: an interrupted run of the same configuration continues; complete: a finished
        one is there and nothing is left to do.

    Raises
    ------
    RunError
        The folder cannot be written; something is there that may not be replaced; or the run to
        be continued has another configuration.
    """
    final = Path(config.output or "")
    require_new_folder(final, overwrite=True)
    partial = partial_folder(final)
    require_owned(old_folder(final), RUN)

    if config.resume and has_records(partial):
        began = _read(partial)
        _require_same(config, began, partial, "was interrupted")
        # A run that began as the replacement of an older one is still that.
        require_replaceable(final, overwrite=bool(began.get("overwrite", False)))
        return "resumed"
    if config.resume and (final / "config.json").is_file():
        recorded = _read(final)
        if not RUN.proves(final):  # a model has a file of this name, too
            raise RunError(
                f"{final} is not a run that this program wrote, so there is nothing to resume: "
                "choose another --output"
            )
        _require_same(config, recorded, final, "is complete")
        return "complete"
    if has_records(partial) and not config.overwrite:
        raise RunError(
            f"an interrupted run of this name is in {partial}: add --resume to continue it, or "
            "--overwrite to delete it and start again"
        )

    require_replaceable(final, overwrite=config.overwrite)
    require_owned(partial, BEGUN_RUN)
    _require_inputs_outside(config, final, partial)
    return "new"


def require_replaceable(final: Path, *, overwrite: bool) -> None:
    """Raise a RunError unless a finished run may take the name of a folder.

    Parameters
    ----------
    final
        The name.
    overwrite
        Whether a run of that name may be replaced; anything else that is there never is.
    """
    require_new_folder(final, overwrite=overwrite)
    require_owned(final, RUN)


def differences(config: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """Return one line for each key whose value changes a run's numbers and is not the same.

    Parameters
    ----------
    config, recorded
        As `lm.config.options.to_plain` returns them: now, and when the run began.

    Returns
    -------
    list of str
        ``key is X now, but was Y``; empty if the run may continue.
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


def changed_inputs(config: RunConfig, folder: Path) -> list[str]:
    """Return what a run reads and what has changed since it began, one phrase for each path.

    Parameters
    ----------
    config
        Of the run.
    folder
        Its folder, complete or not. One of an earlier version does not know what it read.

    Raises
    ------
    RunError
        The record cannot be read.
    """
    path = folder / INPUTS
    if not path.is_file():
        return []
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(then, dict):
            raise ValueError(f"it holds {then!r:.40}")
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read, so that it is not known what the run read: put it back, or "
            "start again with --overwrite and without --resume"
        ) from error
    now = input_digests(config)
    changed = [f"{name} has changed" for name in then if name in now and now[name] != then[name]]
    gone = [f"{name} is not there any more" for name in then if name not in now]
    return changed + gone + [f"{name} is new" for name in now if name not in then]


def resume_command(words: Sequence[str]) -> str:
    """Return the command that continues an interrupted run.

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


def _require_inputs_outside(config: RunConfig, final: Path, partial: Path) -> None:
    """Refuse to replace a run by one that reads from it."""
    for key, name in inputs_of(config):
        path = Path(name).resolve()
        for folder in (final, partial):
            if path.exists() and path.is_relative_to(folder.resolve()):
                raise RunError(
                    f"{key} {name} lies in the run folder {folder}, which would be replaced: "
                    "choose another --output"
                )


def inputs_of(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield the key and the path of every file or folder that a run reads, where it names one."""
    measured = [] if config.measure is None else [("measure", config.measure)]
    given = {
        "model": config.model,
        "base.initial": config.base.initial,
        "prompts.file": config.prompts.file,
        "target.teacher": config.target.teacher,
        "measure.teacher": config.measure.teacher if config.measure else None,
    }
    yield from ((key, name) for key, name in given.items() if name is not None)
    for group, target in (("target", config.target), *measured):
        for name in (*target.features, *([target.score] if target.score else [])):
            if path_of(name) is not None:
                yield group, str(path_of(name))


def _shows_a_step(log: Path) -> bool:
    """Return whether one of a log's first lines is of a step after the base's evaluation."""
    if not log.is_file():
        return False
    with log.open("rb") as file:
        first = [file.readline() for _ in range(FIRST_LINES)]
    for line in first:
        try:
            step = json.loads(line)["step"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if step != 0:
            return True
    return False


def _require_same(config: RunConfig, recorded: Mapping[str, Any], folder: Path, state: str) -> None:
    changed = differences(to_plain(config), recorded)
    if changed:
        raise RunError(
            f"the run in {folder} {state} with another configuration, so that --resume would not "
            f"give its numbers: {'; '.join(changed)}. Give the values that it had, choose another "
            "--output, or drop --resume and pass --overwrite to start again"
        )
    if read := changed_inputs(config, folder):
        raise RunError(
            f"what the run in {folder} reads is not what it was when the run began, so that "
            f"--resume would not give its numbers: {'; '.join(read)}. Put back what there was, "
            "choose another --output, or drop --resume and pass --overwrite to start again"
        )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds {content!r:.40}")
    except (FileNotFoundError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read, and without it there is no saying which run this is: pass "
            "--overwrite without --resume to start again"
        ) from error
    return content


def _shown(flat: Mapping[str, Any], key: str) -> str:
    # A key that a run of an earlier version does not have is one that it left to itself.
    return json.dumps(flat[key]) if flat.get(key) is not None else "absent"
