"""Files and folders that are complete or not there. Needs no torch."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from lm.errors import RunError

_NUMBER = re.compile(r"\(os error (\d+)\)")


def require_new_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise a RunError unless a folder can be created, before anything is computed.

    Parameters
    ----------
    folder
        Where a run is to be written.
    overwrite
        Whether an existing run may be replaced.
    """
    if folder.name in {"", "..", "."} or not folder.name.isprintable():
        raise RunError(f"the run folder {str(folder)!r} has no name of its own: name a folder")
    if folder.is_symlink():
        raise RunError(
            f"the run folder {folder} is a link, which a finished run cannot take the place of: "
            "name the folder itself, or choose another --output"
        )
    if folder.exists() and not folder.is_dir():
        raise RunError(f"the run folder {folder} is a file: choose another --output")
    if folder.is_mount():
        raise RunError(
            f"the run folder {folder} is where a disk is mounted, which cannot be renamed: choose "
            f"a folder in it, such as {folder / 'run'}"
        )
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise RunError(
            f"the run folder {folder} exists and is not empty: choose another --output, or pass "
            "--overwrite to replace it"
        )

    # The nearest parent that exists must take a new folder.
    parent = folder.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunError(
            f"the run folder {folder} cannot be created: {parent} is not a folder that may be "
            "written to. Choose another --output"
        )


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it; nothing stays if that fails.

    Content and name are on the disk when it returns.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        flush_to_disk(partial)
        partial.replace(path)
        flush_to_disk(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def append_line(path: Path, line: str) -> None:
    """Append a whole line to a file, or nothing where the disk is full.

    Parameters
    ----------
    path
        Created if need be.
    line
        Without its newline.
    """
    content = f"{line}\n".encode()
    with path.open("ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            written = file.write(content)
            if written != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(before)
            raise


def flush_to_disk(path: Path) -> None:
    """Return once a file's content, or a folder's list of names, is on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def os_error(error: Exception, path: Path) -> OSError:
    """Return the operating system's error inside one of safetensors, which gives only its text."""
    match = _NUMBER.search(str(error))
    if match is None:
        return OSError(errno.EIO, str(error), str(path))
    number = int(match[1])
    return OSError(number, os.strerror(number), str(path))


def is_disk_full(error: BaseException) -> bool:
    """Return whether a file could not be written for lack of space or quota."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    # safetensors, also from within transformers; no import, for this module needs no torch.
    named = type(error).__name__ == "SafetensorError"
    return named and f"(os error {errno.ENOSPC})" in str(error)
