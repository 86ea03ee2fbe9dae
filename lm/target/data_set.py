"""Reading prompts from a data set of Hugging Face: a folder, or a name on the hub."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm.errors import RunError, reason_of

# Before the name of a data set on the hub.
HUB = "hf:"


def read_rows(path: str, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a data set, numbered from 1.

    Parameters
    ----------
    path
        A folder that save_to_disk wrote or that holds data files, or ``hf:NAME``.
    split
        Which split, where there are several.

    Raises
    ------
    RunError
        The library datasets is not installed, nothing can be read, or there is no such split.
    """
    try:
        library = importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        raise RunError(
            f"prompts.file {path} is a data set, which the library datasets reads: "
            "python -m pip install '.[datasets]' in a clone"
        ) from error

    # Whatever the library raises of files that it cannot read; no code of the data set is run.
    try:
        found = _load(library, path)
    except Exception as error:
        raise RunError(
            f"prompts.file {path} cannot be read as a data set ({reason_of(error)}): name a folder "
            "that save_to_disk wrote, one with parquet or JSON files, or hf:NAME"
        ) from error
    if isinstance(found, dict):
        if split not in found:
            raise RunError(
                f"prompts.file {path} has no split {split!r}: it has {', '.join(found)}; "
                "prompts.split names one"
            )
        found = found[split]
    for number, row in enumerate(found, 1):
        yield number, dict(row)


def _load(library: Any, path: str) -> Any:
    if path.startswith(HUB):
        if path == HUB:
            raise ValueError("there is no name after hf:")
        return library.load_dataset(path.removeprefix(HUB))
    # Of one that was saved without a row the library finds no file, and says no more than that.
    state = Path(path) / "state.json"
    if state.is_file() and json.loads(state.read_text(encoding="utf-8")).get("_data_files") == []:
        return []
    saved = any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))
    return library.load_from_disk(path) if saved else library.load_dataset(path)
