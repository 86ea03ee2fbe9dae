"""One Parquet table of everything that the runs of a sweep measured.

A row is one estimate: the place of the run in the sweep, the step, the quantity, the estimator and
its value. Quantities are those of `lm.run.records`; the estimator ``record`` summarises the
training steps since the previous evaluation.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm.errors import UsageError
from lm.run.files import write_output
from lm.sweep.cells import Cell, Labels

METADATA_KEY = b"fdpg_ref"
# What is called clipping at the norm of 1 that many recipes have as their default.
CUSTOMARY_NORM = 1.0
TEXT = ("sweep", "cell", "run", *Labels._fields[:-1], "group", "divergence", "commit")
NAMES = (*TEXT, "quantity", "estimator")
WHOLE = ("seed", "step", "samples")
NUMBERS = ("learning_rate", "value", "standard_error", "z")
COLUMNS = (*NAMES, *WHOLE, *NUMBERS)


def require_pyarrow() -> None:
    """Raise a UsageError where the table could not be written, before anything is computed."""
    try:
        import pyarrow  # noqa: F401, PLC0415 - only sweeps need it
    except ModuleNotFoundError as error:
        raise UsageError(
            "a sweep's table needs pyarrow: python -m pip install '.[study]' in a clone"
        ) from error


def table_rows(
    sweep: str, cell: Cell, group: str, record: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one cell.

    Parameters
    ----------
    sweep
        Its name.
    cell
        The place of the run.
    group
        Of its task.
    record
        What `lm.sweep.records` kept of the run.
    """
    common = {
        "sweep": sweep,
        "cell": cell.name,
        "run": cell.run,
        **cell.labels._asdict(),
        "group": group,
        "divergence": cell.config.divergence,
        "commit": record["commit"],
        "learning_rate": cell.config.optimizer.lr,
    }

    # The target's own moments stand at step 0.
    start = {"step": 0, "samples": 0, "estimator": "target", **dict.fromkeys(NUMBERS[2:], math.nan)}
    for name, value in record["target"].items():
        yield {**common, **start, "quantity": f"feature/{name}", "value": value}

    # Every estimate of every evaluation, and what the steps since the last one were like.
    before = 0
    for evaluation in record["evaluations"]:
        step = evaluation["step"]
        own = {**common, "step": step, "samples": evaluation["samples"]}
        steps = [entry for entry in record["steps"] if before < entry["step"] <= step]
        found = {**evaluation["estimates"], **_step_estimates(steps)}
        for quantity, estimates in found.items():
            for estimator, entry in estimates.items():
                numbers = {name: float(entry.get(name, math.nan)) for name in NUMBERS[1:]}
                yield {**own, "quantity": quantity, "estimator": estimator, **numbers}
        before = step


def write_table(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    kept: Any = None,
) -> None:
    """Write the table, complete or not at all.

    Parameters
    ----------
    path
        Parquet.
    rows
        As `table_rows` yields them, in any order: the table has one of its own.
    metadata
        Stored in the file's schema, as JSON: command, versions, times.
    kept
        Rows of an earlier table that stay, as `plain_text` returns it.
    """
    import pyarrow as pa  # noqa: PLC0415 - only sweeps need it
    import pyarrow.parquet as pq  # noqa: PLC0415

    columns: dict[str, Any] = {}
    for name in NAMES:
        columns[name] = pa.array([row[name] for row in rows], type=pa.string())
    for name in WHOLE:
        columns[name] = pa.array([row[name] for row in rows], type=pa.int32())
    for name in NUMBERS:
        # The values are float32's own precision; more digits would be noise.
        numbers = np.array([row[name] for row in rows], dtype=np.float32)
        columns[name] = pa.array(numbers, from_pandas=True)  # NaN becomes null: there is none
    table = pa.table(columns)
    if kept is not None:
        table = pa.concat_tables([table, kept.select(table.column_names).cast(table.schema)])

    # One order, whoever made which rows.
    keys = ("cell", "step", "quantity", "estimator")
    table = table.sort_by([(key, "ascending") for key in keys]).combine_chunks()
    for place, name in enumerate(NAMES):
        table = table.set_column(place, name, table[name].combine_chunks().dictionary_encode())
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata)})
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", compression_level=15)
    write_output(path, file.getvalue())


def plain_text(table: Any) -> Any:
    """Return a stored table without its metadata, and with plain text for names."""
    import pyarrow as pa  # noqa: PLC0415 - only sweeps need it

    for place, name in enumerate(table.column_names):
        if pa.types.is_dictionary(table[name].type):
            table = table.set_column(place, name, table[name].cast(pa.string()))
    return table.replace_schema_metadata(None)


def is_table(path: Path) -> bool:
    """Return whether a file is a table that `write_table` wrote."""
    import pyarrow as pa  # noqa: PLC0415 - only sweeps need it
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        return METADATA_KEY in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _step_estimates(steps: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Summarise the training steps between two evaluations."""
    if not steps:
        return {}
    norms = np.array([step["gradient_norm"] for step in steps], dtype=float)
    ratios = [step["gradient_signal_to_noise"] for step in steps]
    measured = np.array([ratio for ratio in ratios if ratio is not None], dtype=float)
    found = {
        "gradient_norm": float(norms.mean()),
        "gradient_norm_above_1": float((norms > CUSTOMARY_NORM).mean()),
        "clipped": float(np.mean([step["clipped"] for step in steps])),
    }
    if measured.size:
        found["gradient_signal_to_noise"] = float(np.sqrt(np.mean(measured**2)))
    return {name: {"record": {"value": value}} for name, value in found.items()}
