"""Calling a function of the user's on a batch of texts, with errors that name the text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lm.errors import RunError


def call_on_texts(
    what: str,
    function: Callable[..., Any],
    before: tuple[np.ndarray, ...],
    texts: Sequence[str],
    material: Mapping[str, Sequence[Any] | None],
) -> np.ndarray:
    """Call a user's function on a batch; a failure is traced to the text that causes it.

    Parameters
    ----------
    what
        What messages call the function.
    function
        Takes what stands before the texts, the texts, and whatever of the material its signature
        names.
    before
        Arrays of one value a text.
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
    """
    names, leading = _parameters(function), (*before, texts)
    missing = [name for name in names if name in material and material[name] is None]
    if missing:
        raise RunError(f"{what} asks for {missing[0]}=, which only samples of a policy have")
    # def reward(completions) gets the completions, though texts are what comes first.
    places = (*names, *[""] * len(leading))[: len(leading)]
    arguments = [material.get(name) or value for name, value in zip(places, leading, strict=True)]
    options = {name: material[name] for name in names[len(leading) :] if name in material}
    try:
        values = function(*arguments, **options)
    except Exception as error:
        where = _culprit(function, texts, arguments, options)
        raise RunError(f"{what} raised {type(error).__name__}: {error} ({where})") from error
    try:
        column = _as_array(values)
    except (TypeError, ValueError) as error:
        raise RunError(f"{what} must return one number a text, not {values!r:.80}") from error
    if column.shape != (len(texts),):
        first = f", the first of which is {texts[0]!r}" if texts else ""
        raise RunError(
            f"{what} returned values of shape {column.shape} for {len(texts)} texts{first}: it "
            "must return one number a text"
        )
    return column


def _culprit(
    function: Callable[..., Any],
    texts: Sequence[str],
    arguments: Sequence[Any],
    options: Mapping[str, Any],
) -> str:
    for row in range(len(texts)):
        one = slice(row, row + 1)
        try:
            function(
                *(values[one] for values in arguments),
                **{name: values[one] for name, values in options.items()},
            )
        except Exception:
            return f"sample {row} of {len(texts)}, the text {texts[row]!r}"
    return f"on {len(texts)} texts together, though on none of them alone"


def _as_array(values: Any) -> np.ndarray:
    # A torch tensor may carry a gradient or lie on a GPU; this module does not import torch.
    if hasattr(values, "detach"):
        values = values.detach().double().cpu()
    return np.asarray(values, dtype=np.float64)


def _parameters(function: Callable[..., Any]) -> Sequence[str]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some functions written in C have no signature
        return ()
