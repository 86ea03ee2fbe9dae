"""Which samples belong together, and choices by name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from array_api_compat import is_array_api_obj

from fdpg_ref._internal.typing import Array

_Choice = TypeVar("_Choice")


def choose(name: str, value: str, choices: Mapping[str, _Choice]) -> _Choice:
    """Return what a name stands for; a ValueError names the choices where it is none of them."""
    if value not in choices:
        names = ", ".join(choices)
        raise ValueError(f"{name} is {value!r}: it must be a number, an array, or one of {names}")
    return choices[value]


def rows_of(groups: Sequence[Hashable], **arrays: Array) -> list[list[int]]:
    """Return the positions of each group, in the order in which groups appear."""
    if is_array_api_obj(groups):
        raise TypeError(
            f"groups is a {type(groups).__name__}: pass labels, such as groups.tolist(); the core "
            "reads no values of arrays"
        )
    for name, x in arrays.items():
        if tuple(x.shape) != (len(groups),):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)} but there are {len(groups)} groups: with "
                "groups, every array holds one number per sample"
            )

    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return list(rows.values())
