"""Features of a text, by name: what a target raises, lowers, rewards or holds fixed.

A feature is a function from texts to one number per text. Some come with the project, by a name or
written out as ``contains(joy, happy)`` (`lm.features.expressions`); a Python user adds one with
`feature`, a recipe names one in a file as ``rewards.py:polite``. `score` does the same for targets
that are given as a whole, by log P(x).

    @feature("polite")
    def polite(texts):                      # prompt and completion, n strings
        return [text.count("please") for text in texts]

A function is given what its signature names, and copies, so that it may sort them: ``texts``,
``prompts`` and ``completions`` (n strings each), ``tokens`` (n lists of the completion's token
ids), and a score also ``log_base``. A name that is none of these is refused, but after a star: in
``def right(completions, *, answer)`` answer is a column of the prompts.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from lm.errors import RunError
from lm.features import text as text_features
from lm.features.calls import call_on_texts, check_columns, check_signature
from lm.features.expressions import Atom, Expression, is_expression, parse
from lm.features.files import check_reference, is_reference, load_function
from lm.features.makers import MAKERS, classifier_folders, make

# What a function is given if its signature asks for nothing else, in this order.
TEXTS, BASE_AND_TEXTS = ("texts",), ("log_base", "texts")
NO_COLUMNS: Mapping[str, Sequence[Any]] = MappingProxyType({})
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Feature:
    """A real-valued feature of a text.

    Parameters
    ----------
    description
        One line for tables and reports.
    values
        Texts to an array of shape (texts,), float64.
    lives_on_list
        Whether the feature is zero for every text that is not a listed name. Only then are
        Z, the multipliers and E[feature] exact sums over the list.
    bounds
        The least and the largest value, if they are known.
    """

    description: str
    values: Callable[..., Any]
    lives_on_list: bool = False
    bounds: tuple[float, float] | None = None


FEATURES: dict[str, Feature] = {
    "female": Feature(
        "share of the name's bearers counted as female", text_features.female, lives_on_list=True
    ),
    "male": Feature(
        "share of the name's bearers counted as male", text_features.male, lives_on_list=True
    ),
    "listed": Feature(
        "the text is a name on the census list", text_features.listed, lives_on_list=True
    ),
    "ends_in_i": Feature("listed name that ends in i", text_features.ends_in_i, lives_on_list=True),
    "contains_x": Feature("listed name with an x", text_features.contains_x, lives_on_list=True),
    "starts_with_v": Feature(
        "listed name that starts with v", text_features.starts_with_v, lives_on_list=True
    ),
    "starts_with_y": Feature(
        "listed name that starts with y", text_features.starts_with_y, lives_on_list=True
    ),
    "ends_in_u": Feature("listed name that ends in u", text_features.ends_in_u, lives_on_list=True),
    "listed_length": Feature(
        "letters of a listed name, 1 for the longest",
        text_features.listed_length,
        lives_on_list=True,
    ),
    "listed_sonority": Feature(
        "mean sonority of a listed name's letters",
        text_features.listed_sonority,
        lives_on_list=True,
    ),
    "letters": Feature("number of letters of the completion", text_features.letters),
    "characters": Feature("number of characters of the completion", text_features.characters),
    "words": Feature("number of words of the completion", text_features.words),
    "tokens": Feature("number of tokens of the completion, end included", text_features.tokens),
}
# Those of listed names under names that say so. The short ones stay: recipes and stored tables have
# them.
FEATURES |= {
    f"listed_{name}": one
    for name, one in FEATURES.items()
    if one.lives_on_list and not name.startswith("listed")
}
BUILT_IN = frozenset(FEATURES) | MAKERS.keys()
SCORES: dict[str, Callable[..., Any]] = {}


def feature(name: str, *, lives_on_list: bool = False) -> Callable[[Function], Function]:
    """Register a feature under a name that a `TargetConfig` can use.

    Parameters
    ----------
    name
        How the target calls it. A name of the project's own features is refused; one of yours may
        be registered again, as happens in a notebook.
    lives_on_list
        The function is zero for every text that is not a listed census name.

    Returns
    -------
    callable
        A decorator, which leaves the function as it is.

    Raises
    ------
    ValueError
        The name is taken by a feature of the project, or looks like a function in a file; the
        function cannot be called with what there is.
    """
    _require_free(name, BUILT_IN)

    def register(function: Function) -> Function:
        check_signature(f"feature {name!r}", function, leading=TEXTS)
        FEATURES[name] = Feature(_summary(function), function, lives_on_list)
        return function

    return register


def score(name: str) -> Callable[[Function], Function]:
    """Register a whole target, log P(x), under a name that `TargetConfig` can use as ``score``.

    Parameters
    ----------
    name
        How the target calls it. The function takes log a(x) as an array (n,), float64, in nats,
        and the n texts; it returns n numbers in nats, -inf for what the target excludes. P need
        not be normalised.

    Returns
    -------
    callable
        A decorator, which leaves the function as it is.
    """
    _require_free(name, frozenset())

    def register(function: Function) -> Function:
        check_signature(f"score {name!r}", function, leading=BASE_AND_TEXTS)
        SCORES[name] = function
        return function

    return register


def feature_values(
    names: Sequence[str],
    texts: Sequence[str],
    *,
    prompts: Sequence[str] | None = None,
    completions: Sequence[str] | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    columns: Mapping[str, Sequence[Any]] = NO_COLUMNS,
) -> np.ndarray:
    """Evaluate several features.

    Parameters
    ----------
    names
        Keys of `FEATURES`, or functions in files.
    texts
        The n texts, prompt and completion together, as a policy decodes them.
    prompts, completions, tokens
        What functions may ask for by name; without prompts, these are empty and the completions
        are the texts.
    columns
        Of each text's prompt, by name: what functions ask for after a star.

    Returns
    -------
    numpy.ndarray
        Shape (texts, features), float64.

    Raises
    ------
    ValueError
        No feature is named, or a name is unknown (the nearest known one is given).
    RunError
        A feature raises, returns another number of values than texts, or NaN or an infinity: the
        feature and the text are named.
    """
    if not names:
        raise ValueError(f"name at least one feature of {', '.join(FEATURES)}")
    material = {**columns, **_material(texts, prompts, completions, tokens)}
    # What several expressions hold, as a threshold and as a reward, is computed once.
    known: dict[Atom, np.ndarray] = {}
    found = [_column(name, texts, material, known) for name in names]
    return np.stack(found, axis=-1)


def score_values(
    name: str,
    log_base: np.ndarray,
    texts: Sequence[str],
    *,
    prompts: Sequence[str] | None = None,
    completions: Sequence[str] | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    columns: Mapping[str, Sequence[Any]] = NO_COLUMNS,
) -> np.ndarray:
    """Evaluate a user's log P.

    Parameters
    ----------
    name
        Key of `SCORES`, or a function in a file.
    log_base
        Shape (n,), float64, nats.
    texts, prompts, completions, tokens, columns
        As for `feature_values`.

    Returns
    -------
    numpy.ndarray
        Shape (n,), float64, nats; -inf excludes a text.

    Raises
    ------
    ValueError
        The name is unknown.
    RunError
        The function raises, returns another number of values, NaN or +inf; the text is named.
    """
    material = {**columns, **_material(texts, prompts, completions, tokens)}
    before = {"log_base": log_base}
    values = call_on_texts(f"score {name!r}", _get_score(name), before, texts, material)
    bad = np.flatnonzero(np.isnan(values) | (values == np.inf))
    if bad.size:
        raise RunError(
            f"score {name!r} is {values[bad[0]]} for the text {texts[bad[0]]!r} (sample {bad[0]} "
            f"of {len(texts)}): log P must be a number, or -inf for what the target excludes"
        )
    return values


def get_feature(name: str) -> Feature:
    """Look up a feature, loading the user's file that a reference names.

    Raises
    ------
    ValueError
        The name is unknown; the message gives the nearest known one.
    """
    if name in FEATURES:
        return FEATURES[name]
    check_feature(name)
    if (written := _written(name)) is not None:
        return _feature_of(name, written)
    function = load_function(name)
    check_signature(name, function, leading=TEXTS)
    return Feature(_summary(function), function)


def check_feature(name: str) -> None:
    """Raise a ValueError unless the name is a feature; no file is executed."""
    if name in FEATURES:
        return
    written = _written(name)
    if written is None:
        _check_unregistered("feature", name, {**FEATURES, **MAKERS}, leading=TEXTS)
        return
    for atom in written.atoms:
        _ = _atom_feature(atom)


def check_score_name(name: str) -> None:
    """Raise a ValueError unless the name is a score; no file is executed."""
    if name not in SCORES:
        _check_unregistered("score", name, SCORES, leading=BASE_AND_TEXTS)


def require_columns(names: Sequence[str], score: str | None, columns: Sequence[str]) -> None:
    """Raise a RunError if a feature or a score asks for a column that the prompts do not have.

    Parameters
    ----------
    names
        Features that are known.
    score
        A score that is known, or None.
    columns
        Names of those there are.
    """
    for name in names:
        written = None if name in FEATURES else _written(name)
        used = [get_feature(name)] if written is None else map(_atom_feature, written.atoms)
        for one in used:
            check_columns(f"feature {name!r}", one.values, columns, leading=TEXTS)
    if score is not None:
        check_columns(f"score {score!r}", _get_score(score), columns, leading=BASE_AND_TEXTS)


def admit_names(target: Mapping[str, Any]) -> None:
    """Let the target of a recorded run be read where its functions do not exist.

    A feature that a program registered, or a file that is gone, is needed to measure such a run
    again, and not to sample from it, to export it or to draw its report.

    Parameters
    ----------
    target
        As config.json holds it. Names that nothing here stands for get a function that raises.
    """

    def missing(name: str) -> Callable[..., Any]:
        def absent(*arguments: Any, **options: Any) -> Any:
            raise LookupError(
                f"{name!r} is not defined here: the program that trained registered it. Register "
                "it, or name it as file.py:function in the run's configuration"
            )

        return absent

    for option in ("moments", "constraints", "reward"):
        for name in target.get(option, ()):
            if not _is_known(check_feature, name):
                FEATURES[name] = Feature("defined by the program that trained", missing(name))
    name = target.get("score")
    if name is not None and not _is_known(check_score_name, name):
        SCORES[name] = missing(name)


def lives_on_list(name: str) -> bool:
    """Return whether a feature is zero for all texts that are not listed names."""
    return name in FEATURES and FEATURES[name].lives_on_list


def short_name(name: str) -> str:
    """Return what tables and axes call a feature: without the folders on the way to a file.

    Of ``path/rewards.py:polite`` that is polite, of a classifier in a folder the folder's name.
    """
    if is_reference(name):
        return name.rpartition(":")[2]
    for folder in classifier_folders(name):
        name = name.replace(folder, PurePath(folder).name)
    return name


def _written(name: str) -> Expression | None:
    """Return a feature that a recipe writes out, or None for another name."""
    if is_reference(name) or not (name in MAKERS or is_expression(name)):
        return None
    return parse(name)


def _atom_feature(atom: Atom) -> Feature:
    """Return one feature of an expression; a ValueError if there is none of that name."""
    if atom.name in MAKERS:
        made, function = make(atom)
        return Feature(made.description, function, bounds=made.bounds)
    if atom.name not in FEATURES:
        _check_unregistered("feature", atom.name, {**FEATURES, **MAKERS}, leading=TEXTS)
    if atom != Atom(atom.name):
        raise ValueError(f"the feature {atom.name} has no parameters: write {atom.name}")
    return FEATURES[atom.name]


def _feature_of(name: str, written: Expression) -> Feature:
    def together(*_arguments: Any, **_options: Any) -> np.ndarray:
        raise TypeError(f"{name} is made of features: call feature_values")

    if not written.is_truth:
        return _atom_feature(written.atoms[0])
    return Feature(name, together, bounds=(0.0, 1.0))


def _column(
    name: str,
    texts: Sequence[str],
    material: Mapping[str, Sequence[Any] | None],
    known: dict[Atom, np.ndarray],
) -> np.ndarray:
    """Return the values of one feature, shape (n,)."""
    written = None if name in FEATURES else _written(name)
    if written is None:
        return _finite(name, get_feature(name).values, texts, material)
    for atom in written.atoms:
        if atom not in known:
            known[atom] = _finite(str(atom), _atom_feature(atom).values, texts, material)
    return written.values(known)


def _finite(
    name: str,
    function: Callable[..., Any],
    texts: Sequence[str],
    material: Mapping[str, Sequence[Any] | None],
) -> np.ndarray:
    """Call a feature's function; a RunError unless every value is finite."""
    column = call_on_texts(f"feature {name!r}", function, {}, texts, material)
    bad = np.flatnonzero(~np.isfinite(column))
    if bad.size:
        raise RunError(
            f"feature {name!r} is {column[bad[0]]} for the text {texts[bad[0]]!r} (sample "
            f"{bad[0]} of {len(texts)}): a feature must be finite on every text"
        )
    return column


def _is_known(check: Callable[[str], None], name: str) -> bool:
    try:
        check(name)
    except ValueError:
        return False
    return True


def _check_unregistered(
    what: str, name: str, known: Mapping[str, Any], *, leading: Sequence[str]
) -> None:
    if is_reference(name):
        check_reference(name, leading=leading)
        return
    nearest = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {nearest[0]!r}? " if nearest else ""
    listed = f"There are: {', '.join(known)}. " if known else ""
    raise ValueError(
        f"unknown {what} {name!r}; {advice}{listed}Your own: @{what}({name!r}) in a Python "
        f"program, or file.py:{name} in a recipe"
    )


def _require_free(name: str, taken: frozenset[str]) -> None:
    if name in taken:
        raise ValueError(f"{name!r} is a feature of the project: give yours another name")
    if not name or is_reference(name):
        raise ValueError(f"{name!r} cannot be a name: choose a word, such as 'polite'")


def _get_score(name: str) -> Callable[..., Any]:
    if name in SCORES:
        return SCORES[name]
    check_score_name(name)
    function = load_function(name)
    check_signature(name, function, leading=BASE_AND_TEXTS)
    return function


def _material(
    texts: Sequence[str],
    prompts: Sequence[str] | None,
    completions: Sequence[str] | None,
    tokens: Sequence[Sequence[int]] | None,
) -> dict[str, Sequence[Any] | None]:
    return {
        "prompts": [""] * len(texts) if prompts is None else prompts,
        "completions": texts if completions is None else completions,
        "tokens": tokens,
    }


def _summary(function: Callable[..., Any]) -> str:
    lines = (inspect.getdoc(function) or "").splitlines()
    return lines[0] if lines else getattr(function, "__name__", "a function").replace("_", " ")
