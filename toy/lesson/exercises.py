"""Predictions beside their answers, exercises that are still open, and a notebook's clone."""

from __future__ import annotations

import sys
from pathlib import Path


class NotSolved(Exception):
    """An exercise is still open. Shown as one friendly line, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Still open: {self}"]


def compare(prediction: object, measured: object) -> None:
    """Print the reader's prediction beside what came out.

    Parameters
    ----------
    prediction : object
        What the reader wrote; None if nothing.
    measured : object
        The answer.
    """
    said = (
        "nothing yet (set it above and run both cells again)" if prediction is None else prediction
    )
    print(f"you predicted: {said}\nmeasured:      {measured}")


def repository(start: Path | None = None) -> Path:
    """Return the clone around a notebook, and make its package `study` importable.

    Parameters
    ----------
    start : pathlib.Path, optional
        The notebook's folder; the working directory if it is not given.

    Returns
    -------
    pathlib.Path
        The root of the clone, which holds the study's rules and stored tables.

    Raises
    ------
    FileNotFoundError
        If neither the folder nor one above it is a clone.
    """
    folder = (Path.cwd() if start is None else start).resolve()
    for root in (folder, *folder.parents):
        if (root / "study" / "results").is_dir() and (root / "fdpg_ref").is_dir():
            if str(root) not in sys.path:
                sys.path.append(str(root))
            return root
    raise FileNotFoundError(
        f"{folder} is in no clone of fdpg-ref; this notebook reads the study's rules and tables, "
        "which are not installed: open it in the folder notebooks/ of a clone"
    )
