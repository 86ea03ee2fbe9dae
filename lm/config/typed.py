"""Checks that read a configuration's type hints, so that Python and recipes refuse alike.

Every dataclass of a configuration calls `check_types` first when it is made; `checked` is the same
for a value of a recipe or of the command line that is not in a dataclass yet. Needs no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

# What people write for a choice that is spelled quite otherwise.
MEANT = {"gpu": "cuda", "loo": "leave_one_out", "bf16": "bfloat16", "fp16": "float16"}
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check_types(config: Any, group: str = "") -> None:
    """Raise a ValueError unless each field of a dataclass has the type that its hint states.

    A number of another library becomes Python's own, a list the tuple that is asked for.

    Parameters
    ----------
    config
        A frozen dataclass, in its ``__post_init__``.
    group
        Where it stands in a recipe, for the message.
    """
    for name, hint in hints_of(type(config)).items():
        value = getattr(config, name)
        found = checked(_key(group, name), hint, value)
        if found is not value:
            object.__setattr__(config, name, found)


def checked(name: str, hint: Any, value: Any, *, nested: bool = False) -> Any:
    """Return a value as a type hint wants it.

    Parameters
    ----------
    name
        Its key, for the message.
    hint
        A plain type, Literal, Union, tuple, dict, dataclass, or Any.
    value
        What was given.
    nested
        Whether a mapping may stand for a dataclass, as it does in a recipe; what is in it is
        checked, save for keys that the dataclass does not have.

    Returns
    -------
    object
        The same value, in the hint's own types.

    Raises
    ------
    ValueError
        Says what the value is and what it must be; of choices, it names the nearest.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value

    # Hints that are made of other hints.
    if origin in {typing.Union, types.UnionType}:
        return _one_of(name, arguments, value, nested)
    if origin is Literal:
        return _choice(name, arguments, value)
    if origin in {tuple, dict}:
        collect = _tuple if origin is tuple else _dict
        return collect(name, hint, value, nested)

    if hint in PLAIN:
        return _plain(name, hint, value)
    if nested and isinstance(value, dict):
        hints = hints_of(hint)
        for key, item in value.items():
            if key in hints:
                _ = checked(_key(name, key), hints[key], item, nested=True)
    elif value is None:
        raise ValueError(f"{name} is empty: give it keys, or leave it out")
    else:
        _require(isinstance(value, hint), name, value, f"a {hint.__name__}")
    return value


@functools.cache
def hints_of(kind: type) -> Mapping[str, Any]:
    """Return the type hints of a dataclass's fields, by name."""
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind)}


def describe(hint: Any) -> str:
    """Return what a value of a type is, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(describe(one) for one in arguments if one is not type(None))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        each = describe(arguments[0])
        number = "" if arguments[-1] is Ellipsis else f"{len(arguments)} values, each "
        return f"a list of {number}{each}" if number else f"a list, each {each}"
    if origin is dict:
        return f"keys with values, each value {describe(arguments[1])}"
    return PLAIN.get(hint, getattr(hint, "__name__", "anything"))


def _one_of(name: str, hints: tuple[Any, ...], value: Any, nested: bool) -> Any:
    if value is None and type(None) in hints:
        return None
    given = [hint for hint in hints if hint is not type(None)]
    if len(given) == 1:
        return checked(name, given[0], value, nested=nested)
    for hint in given:
        try:
            return checked(name, hint, value, nested=nested)
        except ValueError:
            continue
    raise ValueError(f"{name} is {value!r:.80}: it must be {describe(typing.Union[hints])}")  # noqa: UP007


def _choice(name: str, choices: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, str) and value in choices:
        return value
    listed = ", ".join(map(str, choices))
    meant = MEANT.get(str(value))
    nearest = (
        [meant]
        if meant in choices
        else difflib.get_close_matches(str(value), choices, n=1, cutoff=0.3)
    )
    advice = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ValueError(f"{name} is {value!r:.80}; {advice}There are: {listed}")


def _tuple(name: str, hint: Any, value: Any, nested: bool) -> tuple[Any, ...]:
    hints = typing.get_args(hint)
    _require(isinstance(value, (tuple, list)), name, value, describe(hint))
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    _require(len(value) == len(hints), name, value, describe(hint))
    found = tuple(
        checked(name, one, item, nested=nested) for one, item in zip(hints, value, strict=True)
    )
    return value if isinstance(value, tuple) and _same(found, value) else found


def _dict(name: str, hint: Any, value: Any, nested: bool) -> dict[Any, Any]:
    hints = typing.get_args(hint)
    if value is None:
        raise ValueError(f"{name} is empty: give it keys, or leave it out")
    _require(isinstance(value, dict), name, value, describe(hint))
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{name} has the key {key!r}, which is no text: write it in quotes")
        if not _is_writable(key):
            raise ValueError(f"{name} has the key {key!r:.80}, which no file can be named by")
    found = {
        key: checked(_key(name, key), hints[1], item, nested=nested) for key, item in value.items()
    }
    return value if _same(tuple(found.values()), tuple(value.values())) else found


def _plain(name: str, hint: type, value: Any) -> Any:
    wanted = PLAIN[hint]
    if hint is str and isinstance(value, (bool, int, float)):
        raise ValueError(f"{name} is {value!r}: it must be text, so write it in quotes")
    if hint in {bool, str}:
        _require(isinstance(value, hint), name, value, wanted)
        # No file can have such a name, and no report can show it.
        if isinstance(value, str) and not _is_writable(value):
            raise ValueError(
                f"{name} is {value!r:.80}: it holds a zero byte or half of a character (a lone "
                "surrogate), which no file can be named by"
            )
        return value

    # A bool counts as a number in Python, but True is no number of steps.
    whole = isinstance(value, numbers.Integral) and not _is_bool(value)
    real = isinstance(value, numbers.Real) and not _is_bool(value)
    _require(whole if hint is int else real, name, value, wanted)
    # Generators and tensors take 64 bits.
    convert: Any = hint
    if hint is int and abs(convert(value)) >= 2**63:
        raise ValueError(f"{name} is {value!r:.40}...: no number is that large here")
    if type(value) is hint:
        return value
    try:
        return convert(value)
    except OverflowError as error:
        raise ValueError(f"{name} is {value!r:.40}...: no number is that large here") from error


def _is_writable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _key(group: str, name: str) -> str:
    return f"{group}.{name}" if group else name


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in {"bool", "bool_"}


def _same(found: tuple[Any, ...], given: tuple[Any, ...]) -> bool:
    return all(one is other for one, other in zip(found, given, strict=True))


def _require(condition: bool, name: str, value: Any, wanted: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r:.80}: it must be {wanted}")
