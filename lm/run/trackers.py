"""Where the records also go while a run lasts: TensorBoard, if it is asked for.

metrics.jsonl stays the record of a run; an event file holds the same numbers under the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from lm.errors import RunError


class Tracker(Protocol):
    """Receives every record that metrics.jsonl receives."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Take one record, a step or an evaluation."""
        ...


class NoTracker:
    """Receives records and drops them."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""


class TensorBoardTracker:
    """Writes records as TensorBoard scalars.

    Parameters
    ----------
    writer
        A `torch.utils.tensorboard.SummaryWriter`.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write(self, record: Mapping[str, Any]) -> None:
        """Add one scalar for each number of the record."""
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, global_step=record["step"])


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record by name; what has no value is left out.

    Parameters
    ----------
    record
        A line of metrics.jsonl.

    Returns
    -------
    dict
        ``step/NAME`` and ``step/features/FEATURE``, or ``QUANTITY/ESTIMATOR`` and
        ``QUANTITY/ESTIMATOR_error`` of an evaluation.
    """
    if record["kind"] == "evaluation":
        found: dict[str, Any] = {}
        for quantity, entries in record["estimates"].items():
            for estimator, entry in entries.items():
                found[f"{quantity}/{estimator}"] = entry.get("value")
                found[f"{quantity}/{estimator}_error"] = entry.get("standard_error")
    else:
        found = {f"step/{name}": record[name] for name in record if name not in {"kind", "step"}}
        for feature, value in record["features"].items():
            found[f"step/features/{feature}"] = value
    return {
        name: float(value)
        for name, value in found.items()
        # JSON has no infinity: an infinite divergence is the word "inf" in a record.
        if isinstance(value, (int, float, str))
    }


@contextmanager
def open_tracker(kind: str, folder: Path, *, first_step: int = 0) -> Iterator[Tracker]:
    """Open the tracker of a run and close it with the block.

    Parameters
    ----------
    kind
        none or tensorboard.
    folder
        Where event files go.
    first_step
        Records from here on are to come; TensorBoard drops what an interrupted run wrote of them.

    Yields
    ------
    Tracker
        Takes the records.

    Raises
    ------
    RunError
        TensorBoard is asked for and not installed.
    """
    if kind == "none":
        yield NoTracker()
        return
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # only when asked for
    except ModuleNotFoundError as error:
        raise RunError(
            "tracker tensorboard is asked for, but tensorboard is not installed: python -m pip "
            "install tensorboard, or drop --tracker"
        ) from error
    with SummaryWriter(str(folder), purge_step=first_step) as writer:
        yield TensorBoardTracker(writer)
