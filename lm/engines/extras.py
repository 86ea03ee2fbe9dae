"""Engines are extras: one that is missing is named with the command that installs it."""

from __future__ import annotations

import importlib
from typing import Any


def engine(name: str) -> Any:
    """Import an engine.

    Parameters
    ----------
    name
        Of its package, and of the extra that brings it.

    Raises
    ------
    ImportError
        It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(
            f"{name} is an extra of this project: pip install -e '.[{name}]'"
        ) from error
