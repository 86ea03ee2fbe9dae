"""Engines are extras: one that is missing is named, with the command that installs it, on use."""

from __future__ import annotations

import importlib
from typing import Any


class Missing:
    """Stands in for an engine that is not installed: its classes are there, and cannot be used.

    So every module of this package can be imported, read and documented without any engine.

    Parameters
    ----------
    name
        Of the package, and of the extra that brings it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, attribute: str) -> type:
        message = f"{self.name} is not installed: python -m pip install '.[{self.name}]' in a clone"

        def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
            raise ImportError(message)

        return type(attribute, (), {"__new__": refuse})


def engine(name: str) -> Any:
    """Return an engine, or what stands in for it where it is not installed.

    Parameters
    ----------
    name
        Of its package, and of the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return Missing(name)
