"""The stored tables: which files there are, what they hold, and what they say of themselves."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# Each program keeps what it says of a table under its own key.
METADATA_KEYS = (b"fdpg_ref", b"toy_study")
LM_SWEEPS = ("pilot", "main", "scale", "ablations")
# The second edition's.
LM_SWEEPS += tuple(f"{name}2" for name in LM_SWEEPS)
LM_COLUMNS = (
    *("task", "group", "method", "divergence", "size", "rate", "variant", "seed"),
    *("learning_rate", "step", "samples", "quantity", "estimator", "value", "standard_error", "z"),
)
TOY_COLUMNS = (
    *("problem", "objective", "phase", "rate", "inside", "kind"),
    *("forward_kl", "reverse_kl", "total_variation", "jensen_shannon"),
)


# A pandas DataFrame. By the type hints of pandas itself, every selection would be a Series.
Frame = Any


class StudyError(Exception):
    """Something the user can mend: a missing table, or a missing column."""


class NotJudgedError(Exception):
    """The tables lack what a rule needs; the message says what."""


@dataclass(frozen=True)
class Table:
    """One stored table.

    Attributes
    ----------
    name
        The file's stem, such as ``lm_main``.
    frame
        Its rows.
    metadata
        The metadata of the file: sweep, command, commits, versions, seconds, tasks.
    """

    name: str
    frame: Frame
    metadata: Mapping[str, Any]

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """What is known of each task: title, group, feature, target moments."""
        return self.metadata.get("tasks", {})

    @property
    def commit(self) -> str:
        """The commit, or commits, that the table was made at."""
        found = self.metadata.get("commits") or self.metadata.get("commit") or "unknown"
        return found if isinstance(found, str) else ", ".join(map(str, found))

    @property
    def failed(self) -> Mapping[str, str]:
        """The cells that have no rows because their run failed, and why."""
        return self.metadata.get("failed", {})

    @property
    def texts(self) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Some texts ``before`` and ``after`` training, by the frame's column ``run``."""
        return self.metadata.get("texts", {})

    def said(self, key: str) -> str:
        """Return what the file says of itself, or that it does not."""
        return str(self.metadata.get(key, "unknown"))


@dataclass(frozen=True)
class Tables:
    """Everything that a report reads; None is "not run". A 2 is the second edition's."""

    pilot: Table | None = None
    main: Table | None = None
    scale: Table | None = None
    ablations: Table | None = None
    pilot2: Table | None = None
    main2: Table | None = None
    scale2: Table | None = None
    ablations2: Table | None = None
    toy: Table | None = None
    unification: Mapping[str, Any] | None = None

    @property
    def stored(self) -> list[Table]:
        """The tables that are there, in the order of the report."""
        tables = (*(getattr(self, name) for name in LM_SWEEPS), self.toy)
        return [table for table in tables if table is not None]


def load_tables(results: Path) -> Tables:
    """Read whatever is there.

    Parameters
    ----------
    results
        The folder of the tables.

    Returns
    -------
    Tables
        None for each file that is missing.

    Raises
    ------
    StudyError
        No file is there at all, or one lacks a column.
    """
    found = {name: _optional(results / f"lm_{name}.parquet", LM_COLUMNS) for name in LM_SWEEPS}
    toy = _optional(results / "toy_study.parquet", TOY_COLUMNS)
    path = results / "unification.json"
    unification = _unification(path) if path.is_file() else None
    if toy is None and unification is None and not any(found.values()):
        raise StudyError(
            f"no table in {results}: run `python -m lm sweep study/sweeps/main.yaml` or `python -m "
            f"toy study --output {results / 'toy_study.parquet'}`, or name their folder (--results)"
        )
    return Tables(**found, toy=toy, unification=unification)


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """Read one Parquet file with its metadata.

    Parameters
    ----------
    path
        The file.
    columns
        Those that it must have.

    Returns
    -------
    Table
        Its rows in the order stored.

    Raises
    ------
    StudyError
        The file is missing or unreadable, or lacks a column.
    """
    if not path.is_file():
        raise StudyError(f"{path} is not there")
    try:
        stored = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from error
    missing = [name for name in columns if name not in stored.column_names]
    if missing:
        raise StudyError(f"{path} lacks the columns {', '.join(missing)}")

    said = stored.schema.metadata or {}
    words = next((said[key] for key in METADATA_KEYS if key in said), b"{}")
    metadata = _json_object(words, f"what {path} says of itself")
    for name in ("tasks", "failed", "texts"):
        if not isinstance(metadata.get(name, {}), dict):
            raise StudyError(f"what {path} says of itself has {name} that are no JSON object")
    for run, texts in metadata.get("texts", {}).items():
        kept = [texts.get(when) for when in ("before", "after")] if isinstance(texts, dict) else [0]
        if not all(
            isinstance(some, list) and all(isinstance(o, str) for o in some) for some in kept
        ):
            raise StudyError(f"what {path} says of itself has no texts before and after of {run}")
    frame = stored.to_pandas()

    # Stored tables may spell names as categories: plain text sorts and joins as one expects.
    for name in frame.columns[frame.dtypes == "category"]:
        frame[name] = frame[name].astype(str)
    for name in frame.columns[frame.dtypes == "float32"]:
        frame[name] = frame[name].astype(float)
    if "learning_rate" in frame:
        # As it was set: stored in single precision, 3e-4 has a tail of meaningless digits.
        frame["learning_rate"] = frame["learning_rate"].map(lambda rate: float(f"{rate:.6g}"))
    return Table(path.stem, frame, metadata)


def _unification(path: Path) -> dict[str, Any]:
    """Read what `python -m lm unification` measured: relative differences in two precisions."""
    found = _json_object(path.read_bytes(), str(path))
    for precision in ("float32", "float64"):
        errors = found.get(precision, {"": 0.0})  # what is not there is not judged
        numbers = list(errors.values()) if isinstance(errors, dict) else []
        sound = (type(one) in {int, float} and 0 <= one <= sys.float_info.max for one in numbers)
        if not numbers or not all(sound):
            raise StudyError(
                f"{path} has no differences, from 0, under {precision!r}: run `python -m lm "
                f"unification --json {path}` again"
            )
    return found


def _json_object(content: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{what} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise StudyError(f"{what} must be a JSON object, not {found!r:.60}")
    return found


def _optional(path: Path, columns: Sequence[str]) -> Table | None:
    return read_table(path, columns) if path.is_file() else None
