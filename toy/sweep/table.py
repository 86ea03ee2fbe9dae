"""The table of the study as a Parquet file: one row per problem, objective, phase and rate.

Measures are rounded to 14 of the 23 bits of a float32 mantissa, a relative error of at most 3.1e-5:
the rest would be noise that no compressor can store in less.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toy.files import replacing
from toy.sweep.descents.objectives import OBJECTIVES
from toy.sweep.random.problems import KINDS
from toy.sweep.run import Results

if TYPE_CHECKING:
    from jaxtyping import Float

_DROPPED_BITS = 9
# Of the metadata.
_KEY = b"toy_study"
CATEGORIES = {
    "world": ("categorical", "sequence"),
    "kind": KINDS,
    "objective": tuple(OBJECTIVES),
    "phase": ("optimum", "exact", "sampled"),
    "rate": ("none", "tuned", "common"),
}
INTEGERS = {"problem": "int32", "outcomes": "int16", "parameters": "int16"}
MEASURES = (
    "base_rate",
    "learning_rate",
    "forward_kl",
    "reverse_kl",
    "total_variation",
    "jensen_shannon",
    "own",
    "own_start",
    "alignment",
    "alignment_target",
    "entropy",
    "entropy_target",
    "kl_policy_base",
    "snr_start",
    "snr_shared",
    "snr_path",
    "gradient_norm_start",
    "gradient_norm_end",
    "min_entropy",
)
COLUMNS = (
    "problem",
    "world",
    "inside",
    "kind",
    "outcomes",
    "parameters",
    "objective",
    "phase",
    "rate",
    "converged",
    *MEASURES,
)


def to_frame(columns: dict[str, np.ndarray]) -> Any:
    """Return the table, sorted by problem, objective, phase and rate.

    Parameters
    ----------
    columns : dict of arrays
        As the batches return them.

    Returns
    -------
    pandas.DataFrame
        With the columns `COLUMNS`: categories, small integers, booleans and rounded float32.
    """
    import pandas as pd  # noqa: PLC0415  (an optional extra)

    columns = columns | {"kind": np.array(KINDS)[columns["kind"]]}
    data: dict[str, Any] = {}
    for name in COLUMNS:
        if name in CATEGORIES:
            data[name] = pd.Categorical(columns[name], categories=CATEGORIES[name])
        elif name in MEASURES:
            data[name] = rounded(columns[name])
        else:
            data[name] = columns[name].astype(INTEGERS.get(name, "bool"))
    # What is the same in all phases then forms runs, which the file stores once.
    order = ["problem", "objective", "phase", "rate"]
    return pd.DataFrame(data).sort_values(order, ignore_index=True)


def rounded(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return float32 values whose last 9 mantissa bits are zero, rounded to the nearest such."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    bits = narrow.view(np.uint32)
    half = np.uint32(1 << (_DROPPED_BITS - 1))
    kept = (bits + half) & ~np.uint32((1 << _DROPPED_BITS) - 1)
    return np.where(np.isfinite(narrow), kept.view(np.float32), narrow)


def metadata(results: Results, settings: dict[str, Any], command: str) -> dict[str, Any]:
    """Return what a reader needs to repeat the study: settings, versions and learning rates."""
    rates = {
        "/".join((world, "inside" if inside else "outside", *rest)): rate
        for (world, inside, *rest), rate in sorted(results.rates.items())
    }
    return {
        "command": command,
        "settings": settings,
        "versions": {name: version(name) for name in ("fdpg-ref", "numpy", "pandas", "pyarrow")},
        "learning_rates": rates,
    }


def write_table(frame: Any, about: dict[str, Any], path: Path) -> None:
    """Write the table with its metadata, under the schema's key ``toy_study``, whole or not at all.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table.
    about : dict
        From `metadata`; stored as JSON.
    path : pathlib.Path
        Where to; missing folders are made.

    Raises
    ------
    OSError
        If the file cannot be written; nothing is left behind then.
    """
    import pyarrow as pa  # noqa: PLC0415  (an optional extra)
    from pyarrow import parquet  # noqa: PLC0415

    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), _KEY: json.dumps(about)}
    )
    # The bytes of floats are stored by place, so that the zeroed ones vanish.
    split = [name for name in MEASURES if name not in ("base_rate", "learning_rate")]
    coded = [name for name in COLUMNS if name not in split]
    layout: dict[str, Any] = {"use_dictionary": coded, "use_byte_stream_split": split}
    with replacing(path) as partial:
        parquet.write_table(table, partial, compression="zstd", compression_level=19, **layout)


def is_table(path: Path) -> bool:
    """Return whether a file is a table that `write_table` wrote."""
    import pyarrow as pa  # noqa: PLC0415  (an optional extra)
    from pyarrow import parquet  # noqa: PLC0415

    try:
        return _KEY in (parquet.read_schema(path).metadata or {})
    except pa.ArrowException:
        return False
