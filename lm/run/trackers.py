"""Where the records also go while a run lasts, by accelerate: TensorBoard, W&B, trackio, MLflow.

metrics.jsonl stays the record of a run; a tracker holds the same numbers under the same names. One
that fails on the way is told of and left: the run goes on without it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from accelerate import tracking

from lm.config import RunConfig
from lm.config.options import flatten, to_plain
from lm.errors import RunError, border, reason_of

# Inside the run folder: what TensorBoard reads.
EVENTS = "tensorboard"


class _Kind(NamedTuple):
    """A tracker of accelerate, its package and extra, and what to do where it does not start."""

    name: str
    package: str
    extra: str
    advice: str


KINDS = {
    "tensorboard": _Kind(
        "TensorBoardTracker", "tensorboard", "lm", "see that the folder can be written"
    ),
    "wandb": _Kind(
        "WandBTracker", "wandb", "trackers", "log in by wandb login, or set WANDB_MODE=offline"
    ),
    "trackio": _Kind(
        "TrackioTracker", "trackio", "trackers", "see that TRACKIO_DIR can be written"
    ),
    "mlflow": _Kind(
        "MLflowTracker", "mlflow", "trackers", "set MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
    ),
}


class Tracker(Protocol):
    """Receives every record that metrics.jsonl receives."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Take one record, a step or an evaluation."""
        ...


class NoTracker:
    """Receives records and drops them."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""


class AccelerateTracker:
    """Gives the numbers of records to a tracker of accelerate.

    Parameters
    ----------
    kind
        Its name in a recipe.
    tracker
        An `accelerate.tracking.GeneralTracker` that was started.
    """

    def __init__(self, kind: str, tracker: Any) -> None:
        self._kind, self._tracker = kind, tracker

    def write(self, record: Mapping[str, Any]) -> None:
        """Log every number of the record."""
        tracker = self._tracker
        if tracker is not None:
            self._try(lambda: tracker.log(scalars(record), step=record["step"]))

    def finish(self) -> None:
        """Let the tracker bring everything to where it belongs."""
        if self._tracker is not None:
            self._try(self._tracker.finish)

    def _try(self, work: Any) -> None:
        try:
            work()
        # Whatever a service or its library raises: it is no reason to lose a run.
        except Exception as error:
            self._tracker = None
            print(
                f"lm: warning: the tracker {self._kind} failed ({reason_of(error)}) and gets "
                "nothing more; metrics.jsonl holds everything",
                file=sys.stderr,
            )


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


def require_tracker(kind: str) -> None:
    """Raise a RunError if the package of a tracker is not installed, before anything is computed.

    Parameters
    ----------
    kind
        As a recipe names it.
    """
    if kind == "none":
        return
    package, extra = KINDS[kind].package, KINDS[kind].extra
    try:
        _ = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise RunError(
            f"tracker {kind} is asked for, but {error.name} is not installed: "
            f"python -m pip install '.[{extra}]' in a clone, or drop --tracker"
        ) from error
    # Whatever a package raises that does not fit the others here.
    except Exception as error:
        raise RunError(
            f"tracker {kind} is asked for, but {package} does not start ({reason_of(error)}): "
            f"python -m pip install --upgrade {package}, or drop --tracker"
        ) from error


@contextmanager
def open_tracker(config: RunConfig, folder: Path, *, main: bool = True) -> Iterator[Tracker]:
    """Open the tracker of a run and close it with the block.

    Parameters
    ----------
    config
        Names the tracker; the others but TensorBoard also get its settings.
    folder
        Of the run, as it is written. Only TensorBoard writes there: the others have places of their
        own, which their environment variables set.
    main
        Whether this process tells anybody.

    Yields
    ------
    Tracker
        Takes the records.

    Raises
    ------
    RunError
        The tracker does not start.
    """
    if config.tracker == "none" or not main:
        yield NoTracker()
        return
    kind = KINDS[config.tracker]
    with border(f"starting the tracker {config.tracker}", f"{kind.advice}, or drop --tracker"):
        tracker = getattr(tracking, kind.name)(**_arguments(config, folder))
        # Earlier releases of accelerate start in the constructor.
        if hasattr(tracker, "start"):
            tracker.start()
        if config.tracker != "tensorboard":  # which would write folders of times
            settings = flatten(to_plain(config))
            tracker.store_init_configuration({name: str(value) for name, value in settings.items()})

    ours = AccelerateTracker(config.tracker, tracker)
    try:
        yield ours
    finally:
        ours.finish()


def _arguments(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Return what a tracker is made from: a project, which is the run's name, and one run of it."""
    run = Path(config.output or config.name).name
    if config.tracker == "tensorboard":
        # Records from the first step on are to come: what an interrupted run wrote is dropped.
        return {"run_name": EVENTS, "logging_dir": str(folder), "purge_step": 0}
    if config.tracker == "mlflow":
        return {"experiment_name": config.name, "run_name": run}
    return {"run_name": config.name, "name": run}
