"""Checks that configurations share: a ValueError names the key, its value and what is allowed."""

from __future__ import annotations

import math


def require(condition: bool, message: str) -> None:
    """Raise a ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def positive(name: str, value: float) -> None:
    """Raise a ValueError unless the value is positive and finite."""
    require(0 < value < math.inf, f"{name} is {value}: it must be positive and finite")


def at_least(name: str, value: int, least: int) -> None:
    """Raise a ValueError if the value is below the least one."""
    require(value >= least, f"{name} is {value}: it must be at least {least}")


def share(name: str, value: float) -> None:
    """Raise a ValueError unless the value lies in (0, 1]."""
    require(0 < value <= 1, f"{name} is {value}: it must be in (0, 1]")
