"""From a YAML recipe and dotted overrides to a checked configuration.

jsonargparse reads types and values; the few lines here map the positional recipe to ``--config``
and name the nearest valid key when one is unknown.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse

from lm.config.recipes import read_yaml
from lm.config.typed import checked, hints_of
from lm.errors import UsageError

Config = TypeVar("Config")
# What the parser says of a group that may be left out; the first part is what is wrong.
_OR_NOTHING = (
    r"Does not validate against any of the Union subtypes Subtypes: .*? Errors: - (.*?) "
    r"- Expected a <class 'NoneType'> Given value type: .*"
)
OWN_OPTIONS = ("config", "help", "print_config")
# Options of earlier versions. A folder of that time records them, and means the same without them
# where they were off.
GONE = {"reuse_sampling_forward": "it saved a tenth of a step for up to 44 % more memory"}


def parse_config(kind: type[Config], arguments: Sequence[str], *, program: str) -> Config:
    """Build a configuration from ``[recipe.yaml] [--dotted.key value ...]``.

    Parameters
    ----------
    kind
        The dataclass to build.
    arguments
        Words of the command line after the command.
    program
        How the command is called, for the help text.

    Returns
    -------
    Config
        A validated instance of ``kind``.

    Raises
    ------
    UsageError
        For a missing or unreadable recipe, an unknown key (the nearest valid one is named), a
        value of the wrong type, or a combination that the configuration refuses.
    """
    valid = dict(option_types(kind))
    words = _with_true(_with_config_option(list(arguments)), valid)
    for word in words:
        if word.startswith("--"):
            _require_known(word[2:].split("=")[0].rstrip("+"), valid, where="on the command line")
    for path in _recipes(words):
        _check_recipe(path, kind, valid)
    _check_words(words, valid)

    parser = _parser(kind, program)
    try:
        made = parser.instantiate(parser.parse_args(words))
        return kind(**{name: made[name] for name in typing.get_type_hints(kind)})
    except (jsonargparse.ArgumentError, ValueError) as error:
        raise UsageError(_plain(str(error))) from error


def build_config(kind: type[Config], plain: Mapping[str, Any]) -> Config:
    """Build a configuration from nested options, as a recipe holds them.

    Parameters
    ----------
    kind
        The dataclass to build.
    plain
        Its options; the others have their defaults.

    Returns
    -------
    Config
        A validated instance of ``kind``.

    Raises
    ------
    ValueError
        For an unknown key (the nearest valid one is named), a value of the wrong type, or a
        combination that the configuration refuses.
    """
    valid = dict(option_types(kind))
    _check_tree(plain, kind, valid, where="among the options")
    parser = _parser_of_objects(kind)
    try:
        made = parser.instantiate(parser.parse_object(dict(plain)))
    except jsonargparse.ArgumentError as error:
        raise ValueError(_plain(str(error))) from error
    return kind(**{name: made[name] for name in typing.get_type_hints(kind)})


def shipped_recipes() -> str:
    """Return the paths of the recipes that come with the project, from the working directory."""
    here, folder = Path.cwd(), Path(__file__).parents[1] / "recipes"
    near = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return ", ".join(str(near / path.name) for path in sorted(folder.glob("*.yaml")))


def option_types(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key of a configuration dataclass with its type, groups included."""
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        key, hint = prefix + item.name, hints[item.name]
        yield key, hint
        group = _dataclass_of(hint)
        if group is not None:
            yield from option_types(group, f"{key}.")


def to_plain(config: Any) -> dict[str, Any]:
    """Return a configuration as nested dicts and lists, ready for JSON or YAML."""
    plain = dataclasses.asdict(config)
    return typing.cast("dict[str, Any]", _lists_for_tuples(plain))


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what `to_plain` returned as one mapping, whose keys are paths such as optimizer.lr."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def from_plain(kind: type[Config], plain: Mapping[str, Any]) -> Config:
    """Rebuild a configuration from what `to_plain` returned; options that are gone are left out.

    Raises
    ------
    ValueError
        It is none: a key that this version does not know, a wrong type, a bad combination.
    """
    hints = hints_of(kind)
    values = {}
    for name, value in without_gone(plain).items():
        if name not in hints:
            raise ValueError(f"this version has no key {name!r} in {kind.__name__}")
        group = _dataclass_of(hints[name])
        if group is not None and isinstance(value, Mapping):
            values[name] = from_plain(group, value)
        else:
            values[name] = value
    missing = [
        item.name
        for item in dataclasses.fields(typing.cast("Any", kind))
        if item.name not in values and item.default is item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{kind.__name__} lacks the key {missing[0]!r}")
    return kind(**values)


def without_gone(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return recorded options without those that only earlier versions had."""
    return {name: value for name, value in plain.items() if name not in GONE}


def _dataclass_of(hint: Any) -> type[Any] | None:
    """Return the dataclass that a type hint names, alone or as one that may be left out."""
    named = [one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)]
    return typing.cast("type[Any]", named[0]) if named else None


def _parser(kind: type, program: str) -> jsonargparse.ArgumentParser:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(prog=program, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML recipe; also as first word")
    parser.add_class_arguments(kind)
    return parser


@functools.cache
def _parser_of_objects(kind: type) -> jsonargparse.ArgumentParser:
    """Return one parser for all: to make it takes longer than to parse, and sweeps parse much."""
    return _parser(kind, kind.__name__)


def _with_config_option(words: list[str]) -> list[str]:
    if words and not words[0].startswith("-"):
        return ["--config", *words]
    return words


def _with_true(words: list[str], valid: Mapping[str, Any]) -> list[str]:
    """Let a bare ``--overwrite`` mean ``--overwrite true``."""
    return [
        f"{word}=true" if valid.get(word[2:]) is bool and after.startswith("--") else word
        for word, after in itertools.pairwise([*words, "--"])
    ]


def _recipes(words: list[str]) -> list[Path]:
    pairs = itertools.pairwise(words)
    paths = [Path(value) for option, value in pairs if option == "--config"]
    paths += [Path(word.split("=", 1)[1]) for word in words if word.startswith("--config=")]
    return paths


def _check_recipe(path: Path, kind: type, valid: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise UsageError(f"recipe {path} is not a file; the shipped ones: {shipped_recipes()}")
    try:
        recipe = read_yaml(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise UsageError(f"recipe {path} is not valid YAML: {reason}") from error
    if not isinstance(recipe, dict):
        raise UsageError(f"recipe {path} must hold 'key: value' lines, not {recipe!r:.80}")
    try:
        _check_tree(recipe, kind, valid, where=f"in {path}")
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"recipe {path}: {error}") from error


def _check_words(words: Sequence[str], valid: Mapping[str, Any]) -> None:
    """Check the values of the command line as those of a recipe are checked."""
    for word, after in itertools.pairwise([*words, "--"]):
        option, separator, value = word.partition("=")
        key, text = option.removeprefix("--"), value if separator else after
        hint = _hint_of(key, valid)
        if not option.startswith("--") or hint is None or _takes_any_word(hint):
            continue
        try:
            _ = checked(key, hint, read_yaml(text), nested=True)
        except ValueError as error:
            raise UsageError(str(error)) from error


def _check_tree(
    tree: Mapping[Any, Any], kind: type, valid: Mapping[str, Any], *, where: str
) -> None:
    """Check keys and values of nested options, before they are turned into anything."""
    for key in _dotted(tree):
        _require_known(key, valid, where=where)
    _ = checked("", kind, dict(tree), nested=True)


def _dotted(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _hint_of(key: str, valid: Mapping[str, Any]) -> Any:
    """Return the hint of a key, or of a value in the mapping that a key opens; None if unknown."""
    for parent in itertools.accumulate(key.split(".")[:-1], "{}.{}".format):
        if typing.get_origin(valid.get(parent)) is dict:
            return typing.get_args(valid[parent])[1]
    return valid.get(key)


def _takes_any_word(hint: Any) -> bool:
    is_group = typing.get_origin(hint) in {tuple, dict}
    return hint is str or (str in typing.get_args(hint) and not is_group)


def _require_known(key: str, valid: Mapping[str, Any], *, where: str) -> None:
    # A key of a mapping may hold dots itself, as in target.reward.rewards.py:polite.
    parents = itertools.accumulate(key.split(".")[:-1], "{}.{}".format)
    opens_a_mapping = any(typing.get_origin(valid.get(parent)) is dict for parent in parents)
    if key in valid or opens_a_mapping or key in OWN_OPTIONS or not key:
        return
    nearest = _nearest(key, valid)
    if key in GONE:
        raise UsageError(f"{key} {where}: this option is gone ({GONE[key]}). Leave it out")
    advice = f"did you mean {nearest!r}?" if nearest else f"there are: {', '.join(valid)}"
    raise UsageError(f"unknown key {key!r} {where}; {advice}")


def _nearest(key: str, valid: Mapping[str, Any]) -> str | None:
    by_key = difflib.get_close_matches(key, valid, n=1)
    last_word = key.rpartition(".")[2]
    by_last_word = [name for name in valid if name.rpartition(".")[2] == last_word]
    return next(iter([*by_last_word, *by_key]), None)


def _plain(message: str) -> str:
    """Return what the parser says in words of this project, without its own classes."""
    message = re.sub(r"a typing\.Literal\[([^]]*)\]", r"one of \1", message)
    message = " ".join(message.replace("Parser key", "option").split())
    # Of a group that may be left out it says first that neither the group nor nothing was given.
    message = re.sub(_OR_NOTHING, r"\1", message)
    message = re.sub(r"Problem with given class_path '[^']*': ", "", message)
    return re.sub(r"Option '([^']*)' is not accepted", r"unknown key '\1'", message)


def _lists_for_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists_for_tuples(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_lists_for_tuples(item) for item in value]
    return value
