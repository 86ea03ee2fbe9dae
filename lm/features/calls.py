"""Call a user's function on a batch of texts, with errors that name the text."""

from __future__ import annotations

import copy
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from lm.errors import RunError
from lm.phases import phase

MATERIAL = ("prompts", "completions", "tokens")
# Texts of one call: a reward model scores so many at once.
BLOCK = 1024


def call_on_texts(
    what: str,
    function: Callable[..., Any],
    before: Mapping[str, np.ndarray],
    texts: Sequence[str],
    material: Mapping[str, Sequence[Any] | None],
) -> np.ndarray:
    """Call a user's function on texts, block by block; a failure is traced to its text.

    Parameters
    ----------
    what
        The function's name in messages.
    function
        Is given, by name, whatever of all this its signature asks for; see `check_signature`.
    before
        Arrays of one value per text, by name; they come before the texts.
    texts
        The n texts.
    material
        n values by name, or None where these do not exist.

    Returns
    -------
    numpy.ndarray
        Shape (n,), float64; the values are not looked at.

    Raises
    ------
    RunError
        The function raises (the first text on which it does is named), returns something that is
        not n numbers, or asks for material that does not exist.
    ValueError
        It asks for something that there never is.
    """
    given = {**before, "texts": texts, **material}
    names = given_names(what, _signature(function), leading=(*before, "texts"))
    missing = [name for name in names if given.get(name) is None]
    if missing and missing[0] not in MATERIAL:
        raise RunError(no_column(what, missing[0], [*given.keys() - {*before, "texts", *MATERIAL}]))
    if missing:
        raise RunError(f"{what} asks for {missing[0]}=, which only samples of a policy have")

    def call(rows: slice) -> Any:
        # Copies: a function that sorts its argument must not change what the next one gets.
        copies = {name: _copy(given[name][rows]) for name in names}
        places = [copies[name] for name, by_place in names.items() if by_place]
        options = {name: copies[name] for name, by_place in names.items() if not by_place}
        return function(*places, **options)

    starts = range(0, max(1, len(texts)), BLOCK)
    blocks = [slice(start, start + BLOCK) for start in starts]
    with phase(f"calling {what} on {len(texts):,} texts", len(blocks)) as progress:
        columns = []
        for number, block in enumerate(blocks):
            columns.append(_numbers_of(what, call, block, texts))
            progress.update(number + 1)
    return np.concatenate(columns)


def no_column(what: str, name: str, columns: Sequence[str]) -> str:
    """Return the sentence for a column that the prompts do not have."""
    listed = f"they have {', '.join(sorted(columns))}" if columns else "they have none"
    return (
        f"{what} asks for the column {name!r} of the prompts (an argument after the star), but "
        f"{listed}: name one of these, or add it to prompts.file"
    )


def check_columns(
    what: str, function: Callable[..., Any], columns: Sequence[str], *, leading: Sequence[str]
) -> None:
    """Raise a RunError if a function asks for a column that the prompts do not have.

    Parameters
    ----------
    what, function, leading
        As in `check_signature`.
    columns
        Those of the prompts.
    """
    known = {*leading, *MATERIAL, *columns}
    for name in given_names(what, _signature(function), leading=leading):
        if name not in known:
            raise RunError(no_column(what, name, columns))


def _numbers_of(
    what: str, call: Callable[[slice], Any], block: slice, texts: Sequence[str]
) -> np.ndarray:
    """Call a function on one block, and check what it returns."""
    own = texts[block]
    # On failure, find the text that is to blame.
    try:
        values = call(block)
    except (Exception, SystemExit) as error:
        where = _culprit(call, texts)
        raise RunError(f"{what} raised {type(error).__name__}: {error} ({where})") from error

    # What it returns must be n real numbers, and nothing that only looks like them.
    try:
        column = as_numbers(values)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise RunError(
            f"{what} must return one number per text, not {values!r:.80}: {error}"
        ) from error
    if column.shape != (len(own),):
        first = f", the first of which is {own[0]!r}" if own else ""
        raise RunError(
            f"{what} returned values of shape {column.shape} for {len(own)} texts{first}: it "
            "must return one number per text"
        )
    return column


def check_signature(what: str, function: Callable[..., Any], *, leading: Sequence[str]) -> None:
    """Raise a ValueError unless a function can be called with what there is.

    Parameters
    ----------
    what
        The function's name in messages.
    function
        Of the user.
    leading
        Names of what it gets in this order if it names nothing else: texts, or log_base and texts.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError(f"{what} is an async function, which would have to be awaited: use def")
    if inspect.isgeneratorfunction(function):
        raise ValueError(f"{what} is a generator (it has a yield): return a list of numbers")
    if inspect.isclass(function) or not callable(function):
        raise ValueError(f"{what} is no function: give a function of texts")
    _ = given_names(what, _signature(function), leading=leading)


def as_numbers(values: Any) -> np.ndarray:
    """Return what a user's function returned as float64, if it is real numbers.

    Parameters
    ----------
    values
        A list, an array or a tensor, on any device; a gradient is dropped.

    Raises
    ------
    ValueError, TypeError
        Masked, complex, text, or no numbers at all: nothing is read as a number that is none.
    """
    # A torch tensor may carry a gradient or lie on a GPU; this module does not import torch.
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values if values.is_complex() else values.double()
    if np.ma.isMaskedArray(values):
        raise ValueError("a masked array has no value where it is masked (use .filled(number))")
    if isinstance(values, (list, tuple)):
        values = [value.detach().cpu().item() if _is_scalar(value) else value for value in values]
        if any(np.ma.is_masked(value) for value in values):
            raise ValueError("a masked value is no number")
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(
        isinstance(value, (numbers.Real, Decimal)) for value in array.flat
    ):
        array = array.astype(np.float64)
    if array.size > 0 and array.dtype.kind not in "biuf":
        kind = {"c": "a complex number is no real number", "U": "text is no number"}
        raise ValueError(kind.get(array.dtype.kind, "these are no numbers"))
    return array.astype(np.float64)


def _culprit(call: Callable[[slice], Any], texts: Sequence[str]) -> str:
    for row in range(len(texts)):
        try:
            _ = call(slice(row, row + 1))
        except (Exception, SystemExit):
            return f"sample {row} of {len(texts)}, the text {texts[row]!r}"
    return f"on {len(texts)} texts together, though on none of them alone"


def _copy(values: Any) -> Any:
    if isinstance(values, np.ndarray):
        return values.copy()
    # One by one: samples of one prompt share what its columns hold.
    return [value if isinstance(value, str) else copy.deepcopy(value) for value in values]


def _is_scalar(value: Any) -> bool:
    return hasattr(value, "detach") and value.numel() == 1


def given_names(
    what: str, signature: inspect.Signature | None, *, leading: Sequence[str]
) -> dict[str, bool]:
    """Return the names that a function is given, and whether each goes by its place.

    Parameters
    ----------
    what
        The function's name in messages.
    signature
        Of the function; None if it has none, as some that are written in C.
    leading
        As in `check_signature`.

    Raises
    ------
    ValueError
        It needs one that does not exist.
    """
    if signature is None:
        return dict.fromkeys(leading, True)

    # Go through the arguments in order; what is optional and unknown keeps its default.
    known = tuple(dict.fromkeys((*leading, *MATERIAL)))
    names: dict[str, bool] = {}
    for place, parameter in enumerate(signature.parameters.values()):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            # def reward(*args) gets what comes first.
            names |= dict.fromkeys(leading[place:], True)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            break
        elif parameter.name in known:
            names[parameter.name] = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        elif (
            parameter.kind is inspect.Parameter.KEYWORD_ONLY
            and parameter.default is inspect.Parameter.empty
        ):
            names[parameter.name] = False  # a column of the prompts, found when there are some
        elif parameter.name.startswith("_") and place == 0:
            names[leading[0]] = True  # a name that says: not looked at
        elif parameter.default is inspect.Parameter.empty:
            raise ValueError(
                f"{what} asks for {parameter.name!r}, which there is not: a function is given "
                f"{', '.join(known)}, each by its name, and after a star (*, answer) columns of "
                "prompts.file"
            )

    if len(names) < len(leading):
        raise ValueError(
            f"{what} takes {len(names)} argument(s), but it is called with {len(leading)} at least "
            f"({', '.join(leading)}); there are {', '.join(known)}: see docs/library.md"
        )
    return names


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None
