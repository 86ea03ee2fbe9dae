"""Files and folders that are complete or not there. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from lm.errors import RunError


def require_new_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise a RunError unless a folder can be created, before anything is computed.

    Parameters
    ----------
    folder
        Where a run is to be written.
    overwrite
        Whether an existing run may be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"the run folder {folder} is a file: choose another --output")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise RunError(
            f"the run folder {folder} exists and is not empty: choose another --output, or pass "
            "--overwrite to replace it"
        )
    parent = folder.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunError(
            f"the run folder {folder} cannot be created: {parent} is not a folder that may be "
            "written to. Choose another --output"
        )


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
