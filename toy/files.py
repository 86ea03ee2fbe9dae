"""Writing a file whole or not at all, and telling beforehand whether it can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def require_writable(path: Path, *, suffix: str) -> None:
    """Raise a named error, before any work is done, if ``path`` cannot become a file.

    Parameters
    ----------
    path : pathlib.Path
        The file to be written; missing folders above it are made later.
    suffix : str
        The ending it must have.

    Raises
    ------
    ValueError
        If the suffix differs or the path is a folder.
    OSError
        If the nearest existing folder above is not a folder or may not be written to.
    """
    if path.suffix != suffix:
        raise ValueError(f"output {str(path)!r} does not end in {suffix}: choose such a name")
    if path.is_dir():
        raise ValueError(f"output {str(path)!r} is a folder: name a file in it")
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"output {str(path)!r}: {str(folder)!r} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"output {str(path)!r}: the folder {str(folder)!r} is not writable")
