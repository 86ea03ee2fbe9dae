"""A feature that was made from parameters in a recipe."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Made:
    """A feature with its parameters.

    Parameters
    ----------
    description
        One line for tables and reports.
    values
        n texts to n numbers, float64. What it needs is loaded when it is called first.
    bounds
        Its least and largest value, if they are known.
    reads
        Files and folders that its values depend on.
    """

    description: str
    values: Callable[[Sequence[str]], np.ndarray]
    bounds: tuple[float, float] | None = None
    reads: tuple[str, ...] = ()


def require_library(module: str, name: str) -> None:
    """Raise a ValueError unless a library that a feature needs is installed; it is not imported."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(
            f"the feature {name} needs {module}, which is not installed: python -m pip install "
            "'.[rewards]' in a clone"
        )
