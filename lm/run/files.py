"""Files and folders that are complete or not there. Needs no torch."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lm.errors import RunBusy, RunError

FOLDER_LOCK = ".lock"

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


def write_output(path: Path, content: bytes) -> None:
    """Write a file that a user named: where a link leads, and what is no regular file directly.

    `lm.run.owned.require_replaceable_file` has looked at it before anything was computed.
    """
    if path.exists() and not path.is_file():
        with path.open("wb", buffering=0) as device:
            _ = device.write(content)
    else:
        write_atomic(path.resolve(), content)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, which is created if need be, for this process alone.

    The file that is locked stays: whoever removed it could remove that of another process.

    Parameters
    ----------
    folder
        Of a sweep or a demonstration.

    Raises
    ------
    RunBusy
        Another process holds it.
    RunError
        It cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / FOLDER_LOCK).open("a")
    except OSError as error:
        raise RunError(f"the folder {folder} cannot be written to ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunBusy(
                f"another process is at work in {folder}: wait until it is done, stop it, or "
                "choose another --output"
            ) from error
        yield


@contextmanager
def held_file(path: Path) -> Iterator[None]:
    """Hold a file to append to, which is created if need be, for this process alone.

    Parameters
    ----------
    path
        In a folder that is there.

    Raises
    ------
    RunBusy
        Another process holds it.
    """
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunBusy(
                f"another process writes to {path}: wait until it is done, or name another file"
            ) from error
        yield


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
