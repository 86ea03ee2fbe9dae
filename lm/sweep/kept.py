"""What a sweep's table holds of the parts that a call does not make: it stays in the table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.errors import UsageError, reason_of
from lm.phases import phase
from lm.sweep.cells import Cell, runs_now
from lm.sweep.config import SweepConfig
from lm.sweep.table import COLUMNS, METADATA_KEY, plain_text

# What the new table's own words are made from.
FACTS: dict[str, Any] = {
    **dict.fromkeys(("sweep", "command", "started"), str),
    **dict.fromkeys(("wall_seconds", "cpu_seconds"), int | float),
    "commits": list,
    **dict.fromkeys(("failed", "tasks"), dict),
}


@dataclass(frozen=True)
class Kept:
    """The rows of a stored table that stay, and what the table says of itself.

    Parameters
    ----------
    rows
        An Arrow table with plain text for names.
    facts
        The metadata of the whole stored table.
    names
        The cells that stay, those that failed included.
    share
        Of the stored table's runs, how many stay: from 0 to 1.
    """

    rows: Any
    facts: Mapping[str, Any]
    names: frozenset[str]
    share: float

    def joined(self, facts: Mapping[str, Any], runs: Sequence[str]) -> dict[str, Any]:
        """Return what the new table says of itself: of the runs just made and of those kept.

        Parameters
        ----------
        facts
            Of the runs just made.
        runs
            Their keys.
        """
        old, both = self.facts, dict(facts)
        both["command"] = "; ".join(dict.fromkeys((old["command"], facts["command"])))
        both["started"] = min(old["started"], facts["started"])
        # A part that was made again is not counted twice: the others have their share.
        for key in ("wall_seconds", "cpu_seconds"):
            both[key] = round(old[key] * self.share + facts[key], 1)
        both["commits"] = sorted({*old["commits"], *facts["commits"]})
        both["cells"] = facts["cells"] + len(self.names)
        both["runs"] = len({*runs, *self.rows["run"].to_pylist()})
        both["failed"] = {
            **{name: why for name, why in old["failed"].items() if name in self.names},
            **facts["failed"],
        }
        both["tasks"] = {k: {**old["tasks"].get(k, {}), **t} for k, t in facts["tasks"].items()}
        if "texts" in old or "texts" in facts:
            both["texts"] = {**old.get("texts", {}), **facts.get("texts", {})}
        return both


def kept_parts(sweep: SweepConfig, cells: Sequence[Cell]) -> Kept | None:
    """Read what a sweep's table holds of the parts that are not asked for.

    Parameters
    ----------
    sweep
        With the parts that are asked for; without any, all are, and nothing else is kept.
    cells
        Of those parts.

    Returns
    -------
    Kept or None
        None if there is nothing to keep.

    Raises
    ------
    UsageError
        The table holds a run of another part that the sweep does not describe any more: its rows
        would be lost, or stand beside others that were made differently. Or it cannot be read.
    """
    if not sweep.parts or sweep.table is None or not Path(sweep.table).is_file():
        return None
    with phase("reading what the table holds of other parts"):
        rows, facts = _stored(Path(sweep.table))
        if facts["sweep"] != sweep.name:
            raise UsageError(
                f"{sweep.table} holds the sweep {facts['sweep']!r}, not {sweep.name!r}: name "
                "another file (--table)"
            )
        return _kept(sweep, cells, rows, facts)


def _kept(
    sweep: SweepConfig, cells: Sequence[Cell], rows: Any, facts: Mapping[str, Any]
) -> Kept | None:
    """Return what stays of a stored table that is this sweep's."""
    import pyarrow as pa  # noqa: PLC0415 - only sweeps need it

    # Which of its cells this call does not make, and whether the sweep still describes them.
    places = rows["cell"].to_pylist()
    stored = dict(zip(places, rows["run"].to_pylist(), strict=True))
    made = {cell.name for cell in cells}
    others = {name: run for name, run in stored.items() if name not in made}
    failed = [name for name in facts["failed"] if name not in made]
    if not others and not failed:
        return None
    _require_described(sweep, others)
    names = frozenset({*others, *failed})
    runs, left = set(stored.values()), set(others.values())
    chosen = rows.filter(pa.array([name in others for name in places]))
    return Kept(chosen, facts, names, len(left) / max(len(runs), 1))


def _stored(path: Path) -> tuple[Any, dict[str, Any]]:
    """Read a table and what it says of itself, or raise a UsageError that names what it lacks."""
    import pyarrow as pa  # noqa: PLC0415 - only sweeps need it
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[METADATA_KEY])
        kinds = {name: type(facts.get(name)) for name in FACTS}
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(_unreadable(path, reason_of(error))) from error
    wrong = [name for name, kind in FACTS.items() if not issubclass(kinds[name], kind)]
    wrong += [name for name in COLUMNS if name not in table.column_names]
    if wrong:
        raise UsageError(_unreadable(path, f"it has no {', '.join(wrong)}"))
    return plain_text(table), facts


def _unreadable(path: Path, why: str) -> str:
    return (
        f"{path} is to keep what other parts gave, but cannot be read ({why}): move it away, or "
        "name another file (--table)"
    )


def _require_described(sweep: SweepConfig, stored: Mapping[str, str]) -> None:
    """Raise a UsageError unless the whole sweep has these cells, with these runs."""
    now = runs_now(sweep, stored.keys())
    for name, run in stored.items():
        # Nothing says that a run changed whose model is not here.
        if name not in now or now[name] not in (run, None):
            raise UsageError(
                f"{sweep.table} holds runs of other parts that the sweep does not describe any "
                f"more, such as {name}: make their parts again as well (--parts), or name "
                "another file (--table)"
            )
