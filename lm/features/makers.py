"""Features that a recipe writes out: which there are, and how one is made from its words."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence

import numpy as np

from lm.features import classifier, formats, sentiment, words
from lm.features.expressions import Atom, Constant, parse
from lm.features.made_feature import Made

# Each returns what its docstring says; its parameters are those of the recipe.
MAKERS: dict[str, Callable[..., Made]] = {
    "contains": words.contains,
    "count": words.count,
    "matches": words.matches,
    "sentiment": sentiment.sentiment,
    "probability": classifier.probability,
    "log_probability": classifier.log_probability,
    "reward_model": classifier.reward_model,
    "valid_python": formats.valid_python,
    "has_docstring": formats.has_docstring,
    "pep8": formats.pep8,
    "valid_json": formats.valid_json,
}
CLASSIFIERS = ("probability", "log_probability", "reward_model")
# How a path begins that cannot be a name on the hub, which has one slash at most.
FOLDER_SIGNS = ("/", ".", "~")
# What a feature looks at: what the model wrote, unless of= says something else.
LOOKS_AT = ("completions", "texts", "prompts")


@functools.cache
def make(atom: Atom) -> tuple[Made, Callable[..., np.ndarray]]:
    """Make a feature; nothing is loaded or executed.

    Parameters
    ----------
    atom
        Its name is a key of `MAKERS`.

    Returns
    -------
    Made, callable
        The feature, and its function of the material that it looks at.

    Raises
    ------
    ValueError
        A parameter is missing, unknown or makes no sense; a library is not installed.
    """
    maker, options = MAKERS[atom.name], dict(atom.options)
    looks_at = options.pop("of", LOOKS_AT[0])
    if looks_at not in LOOKS_AT:
        raise ValueError(f"{atom} looks at {looks_at!r}: of is {', '.join(LOOKS_AT)}")
    signature = inspect.signature(maker)
    try:
        bound = signature.bind(*atom.arguments, **options)
    except TypeError as error:
        wanted = ", ".join(str(one).partition(":")[0] for one in signature.parameters.values())
        raise ValueError(
            f"{atom}: {error}; it is written {atom.name}({wanted}), and of=texts looks at prompt "
            "and completion"
        ) from error
    _refuse_numbers(atom, [*atom.arguments, *options.values()])
    made = maker(*bound.args, **bound.kwargs)
    return made, _function_of(looks_at, made)


def files_of(name: str) -> list[str]:
    """Return the files and folders that a written-out feature reads; none for any other name."""
    try:
        atoms = parse(name).atoms
        return [path for one in atoms if one.name in MAKERS for path in make(one)[0].reads]
    except ValueError:
        return []


def classifier_folders(name: str) -> list[str]:
    """Return the classifiers of a written-out feature that are no names on the hub."""
    try:
        atoms = parse(name).atoms
    except ValueError:
        return []
    # The first parameter of each, by its place or by its name.
    named = [
        str(value)
        for atom in atoms
        if atom.name in CLASSIFIERS
        for value in [*atom.arguments[:1], *(v for key, v in atom.options if key == "model")]
    ]
    return [model for model in named if model.startswith(FOLDER_SIGNS) or model.count("/") > 1]


def _refuse_numbers(atom: Atom, given: Sequence[Constant]) -> None:
    for value in given:
        if not isinstance(value, str):
            raise ValueError(f"{atom} has the number {value:g} for a word: put it in quotes")


def _function_of(looks_at: str, made: Made) -> Callable[..., np.ndarray]:
    """Return a function whose signature asks for what the feature looks at."""
    functions: dict[str, Callable[..., np.ndarray]] = {
        "completions": lambda texts, completions: made.values(completions),
        "texts": made.values,
        "prompts": lambda texts, prompts: made.values(prompts),
    }
    return functions[looks_at]
