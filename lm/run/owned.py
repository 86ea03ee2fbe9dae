"""What this program may delete: folders that it can prove to be its own, and nothing else.

``--overwrite`` replaces a run by a run and an exported model by an exported model. A folder that
this program did not write, or that holds a file of another origin at any depth, is refused, and the
message names the file. A single file, as after ``--json``, is replaced by one of its kind only.
Needs no torch.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lm.errors import RunError, UsageError

LOCK = "run.lock"


class Kind(NamedTuple):
    """A kind of folder that this program writes.

    Attributes
    ----------
    name
        With its article, for messages.
    proves
        Whether a folder holds the file that only this program writes.
    files
        Patterns of what it writes there, folder by folder: ``figures/*.png``.
    """

    name: str
    proves: Callable[[Path], bool]
    files: tuple[str, ...]


def require_owned(folder: Path, kind: Kind) -> None:
    """Raise a RunError unless a folder is absent, empty, or wholly of a kind that we write.

    Parameters
    ----------
    folder
        About to be replaced or deleted.
    kind
        What it must be.
    """
    if folder.is_symlink():
        raise RunError(f"{folder} is a link, which is not replaced: name the folder itself")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not kind.proves(folder):
        raise RunError(
            f"{folder} is not {kind.name} that this program wrote, so it is not replaced: choose "
            "another folder, or move this one away yourself"
        )
    foreign = sorted(_foreign(folder, (), kind))
    if foreign:
        named = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if foreign[3:] else "")
        raise RunError(
            f"{folder} also holds {named}, which this program did not write, so it is not "
            "replaced: move that away, or choose another folder"
        )


def remove_owned(folder: Path, kind: Kind) -> None:
    """Delete a folder of ours with all that is in it; any other is refused as by `require_owned`.

    Parameters
    ----------
    folder
        Need not exist.
    kind
        What it must be.
    """
    require_owned(folder, kind)
    if folder.exists():
        shutil.rmtree(folder)


def require_replaceable_file(path: Path, what: str, proves: Callable[[Path], bool]) -> None:
    """Raise a UsageError unless a file may be written, before anything is computed.

    Parameters
    ----------
    path
        What is no regular file, such as ``/dev/null``, is written to and never replaced.
    what
        What is written, with its article, for the message.
    proves
        Whether an existing file is such a one. An empty file always may be replaced.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    final = path.resolve()
    for folder in final.parents:
        words = final.relative_to(folder).parts
        if _matches(words, RUN.files) and (_proves_run(folder) or (folder / LOCK).is_file()):
            raise UsageError(f"{path} is a file of the run {folder}: choose another name")
    if path.is_file() and path.stat().st_size and not proves(path):
        raise UsageError(
            f"{path} exists and is not {what} that this program wrote, so it is not replaced: "
            "choose another name, or move it away yourself"
        )


def holds_keys(*keys: str) -> Callable[[Path], bool]:
    """Return what says whether a file is a JSON object with these keys.

    Parameters
    ----------
    *keys
        That together only this program writes.
    """
    return lambda path: set(keys) <= json_object(path).keys()


def holds_text(*texts: str) -> Callable[[Path], bool]:
    """Return what says whether a file is text that holds all of these.

    Parameters
    ----------
    *texts
        That together only this program writes.
    """

    def proves(path: Path) -> bool:
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return False
        return all(text in content for text in texts)

    return proves


def _foreign(folder: Path, above: tuple[str, ...], kind: Kind) -> Iterator[str]:
    """Yield what this program did not write, at any depth; a link is looked at as a file."""
    for path in folder.iterdir():
        words = (*above, path.name)
        if path.is_dir() and not path.is_symlink():
            depth = len(words)
            begun = ("/".join(p.split("/")[:depth]) for p in kind.files if p.count("/") >= depth)
            if _matches(words, tuple(begun)):
                yield from _foreign(path, words, kind)
            else:
                yield "/".join(words)
        elif not _matches(words, kind.files):
            # A file of ours may have been left half-written under its temporary name.
            whole = re.fullmatch(r"\.(.+)\.partial", path.name)
            if whole is None or not _matches((*above, whole[1]), kind.files):
                yield "/".join(words)


def _matches(words: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    parts = (pattern.split("/") for pattern in patterns)
    return any(
        len(own) == len(words) and all(map(fnmatch.fnmatchcase, words, own)) for own in parts
    )


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _proves_run(folder: Path) -> bool:
    return {"target", "divergence", "steps", "seed"} <= json_object(folder / "config.json").keys()


def _proves_begun_run(folder: Path) -> bool:
    return (folder / LOCK).is_file() or _proves_run(folder)


def _proves_model(folder: Path) -> bool:
    # These five keys, and no others: an id file that was written by hand has fewer.
    written = {"bos_id", "eos_ids", "pad_id", "max_new_tokens", "letters"}
    return json_object(folder / "fdpg_ref.json").keys() == written


_MODEL_FILES = (
    *("config.json", "generation_config.json", "fdpg_ref.json", "model*.safetensors"),
    *("model.safetensors.index.json", "tokenizer*", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*"),
)
_CHECKPOINT_FILES = ("state.safetensors", "state.json", "manifest.json")
_RUN_FILES = (
    *("config.yaml", "config.json", "inputs.json"),
    *("environment.json", "status.json", "target.json"),
    *("metrics.jsonl", "timings.jsonl", "resumed.jsonl", "samples_before.txt", "samples_after.txt"),
    *("target_samples.jsonl", "texts.jsonl"),
    *("summary.json", "report.html", "README.md", LOCK),
    *("figures/*.png", "tensorboard/events.out.tfevents.*"),
    *(f"{folder}/{name}" for folder in ("policy", ".policy.partial") for name in _MODEL_FILES),
    *(f"checkpoints/step-*/{name}" for name in _CHECKPOINT_FILES),
    *(f"checkpoints/.step-*.partial/{name}" for name in _CHECKPOINT_FILES),
)
RUN = Kind("a run", _proves_run, _RUN_FILES)
BEGUN_RUN = Kind("a run in progress", _proves_begun_run, _RUN_FILES)
# Not base.json: a base in the cache is the start of other runs.
MODEL = Kind("a model", _proves_model, (*_MODEL_FILES, "README.md"))
