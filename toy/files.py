"""Writing a file whole or not at all, and telling beforehand whether it can be written.

A file that is there is replaced by one of its kind only: what nobody can prove to be of this
program may be years of somebody's work.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

# What is written into a picture, so that a later one may take its place.
PICTURE = MappingProxyType({"Software": "fdpg-ref"})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; what is there at the end becomes the file, whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
        The file; missing folders are made.

    Raises
    ------
    OSError
        If the file cannot be written; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all; see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def require_writable(path: Path, *, suffix: str, ours: Callable[[Path], bool]) -> None:
    """Raise a named error, before any work is done, if ``path`` may not become a file.

    Parameters
    ----------
    path : pathlib.Path
        The file to be written; missing folders above it are made later.
    suffix : str
        The ending it must have.
    ours : callable
        Whether a file that is there is one that this command writes, and so may be replaced; an
        empty one always may.

    Raises
    ------
    ValueError
        If the suffix differs, or the path is a folder, no regular file, or a file of another kind.
    OSError
        If the nearest existing folder above is not a folder or may not be written to.
    """
    if path.suffix != suffix:
        raise ValueError(f"output {str(path)!r} does not end in {suffix}: choose such a name")
    if path.is_dir():
        raise ValueError(f"output {str(path)!r} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise ValueError(f"output {str(path)!r} is no regular file: choose another name")
    if path.is_file() and path.stat().st_size and not ours(path):
        raise ValueError(
            f"output {str(path)!r} exists and is no file that this command wrote, so it is not "
            "replaced: choose another name, or move it away yourself"
        )

    # The nearest folder that exists must take a new file.
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"output {str(path)!r}: {str(folder)!r} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"output {str(path)!r}: the folder {str(folder)!r} is not writable")
    # Permissions do not say it all: root may write to /proc, where no file can be made.
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"output {str(path)!r}: no file can be made in {str(folder)!r} ({error.strerror}): "
            "choose another name"
        ) from error


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture of this program, which holds `PICTURE`."""
    with path.open("rb") as file:
        start = file.read(1024)
    return start.startswith(b"\x89PNG") and b"tEXtSoftware\0fdpg-ref" in start


def holds_text(text: str) -> Callable[[Path], bool]:
    """Return what says whether a file is UTF-8 text with these words, that only we write."""
    return lambda path: text.encode() in path.read_bytes()


def holds_keys(*keys: str) -> Callable[[Path], bool]:
    """Return what says whether a JSON object, or the first of a list, has these keys of ours."""

    def ours(path: Path) -> bool:
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return False
        first = content[0] if isinstance(content, list) and content else content
        return isinstance(first, dict) and set(keys) <= first.keys()

    return ours
