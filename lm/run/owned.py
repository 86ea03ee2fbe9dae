"""What this program may delete: folders that it can prove to be its own, and nothing else.

``--overwrite`` replaces a run by a run and an exported model by an exported model. A folder that
this program did not write, or that holds a file of another origin, is refused, and the message
names the file.
Needs no torch.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lm.errors import RunError

LOCK = "run.lock"
UNFINISHED = "UNFINISHED.txt"


class Kind(NamedTuple):
    """A kind of folder that this program writes.

    Attributes
    ----------
    name
        With its article, for messages.
    proves
        Whether a folder holds the file that only this program writes.
    files, folders
        Patterns of the names that it writes there.
    """

    name: str
    proves: Callable[[Path], bool]
    files: tuple[str, ...]
    folders: tuple[str, ...]


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
    foreign = sorted(path.name for path in folder.iterdir() if not _is_known(path, kind))
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


def is_demonstration(folder: Path) -> bool:
    """Return whether a folder is that of a demonstration, finished or not."""
    begun = folder / UNFINISHED
    if begun.is_file() and begun.read_bytes().startswith(b"This demonstration has not come"):
        return True
    written = {"settings", "tables", "checks", "findings"}
    return _json_object(folder / "summary.json").keys() == written


def _is_known(path: Path, kind: Kind) -> bool:
    patterns = kind.folders if path.is_dir() and not path.is_symlink() else kind.files
    return any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _proves_run(folder: Path) -> bool:
    return {"target", "divergence", "steps", "seed"} <= _json_object(folder / "config.json").keys()


def _proves_begun_run(folder: Path) -> bool:
    return (folder / LOCK).is_file() or _proves_run(folder)


def _proves_model(folder: Path) -> bool:
    # These five keys, and no others: an id file that was written by hand has fewer.
    written = {"bos_id", "eos_ids", "pad_id", "max_new_tokens", "letters"}
    return _json_object(folder / "fdpg_ref.json").keys() == written


_RUN_FILES = (
    *("config.yaml", "config.json", "environment.json", "status.json", "target.json"),
    *("metrics.jsonl", "timings.jsonl", "resumed.jsonl", "samples_before.txt", "samples_after.txt"),
    *("summary.json", "report.html", "README.md", LOCK, ".*.partial"),
)
_RUN_FOLDERS = ("policy", "checkpoints", "figures", "tensorboard", ".policy.partial")
RUN = Kind("a run", _proves_run, _RUN_FILES, _RUN_FOLDERS)
BEGUN_RUN = Kind("a run in progress", _proves_begun_run, _RUN_FILES, _RUN_FOLDERS)
# Not base.json: a base in the cache is the start of other runs.
MODEL = Kind(
    "a model",
    _proves_model,
    (
        *("config.json", "generation_config.json", "fdpg_ref.json", "model*.safetensors"),
        *("model.safetensors.index.json", "tokenizer*", "special_tokens_map.json"),
        *("added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*"),
    ),
    (),
)
