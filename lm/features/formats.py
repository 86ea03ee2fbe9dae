"""Whether a text is what a program can read: Python, its style, JSON. Nothing is executed."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lm.features.made_feature import Made, require_library

# What Python's compiler raises for texts that are no program.
NO_PROGRAM = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def valid_python() -> Made:
    """Return 1 for a text that Python's compiler accepts, and 0 for others.

    It is compiled and never executed. An empty text is a valid program.
    """
    return Made("the text is valid Python", _each(_compiles), bounds=(0.0, 1.0))


def has_docstring() -> Made:
    """Return 1 for valid Python whose first function or class has a docstring, and 0 for others."""
    return Made("its first function has a docstring", _each(_has_docstring), bounds=(0.0, 1.0))


def pep8() -> Made:
    """Return 1 for valid Python of which pycodestyle says nothing, and 0 for others.

    Its default checks, with lines of 79 characters, whatever is configured on this machine. The
    line break at the end of a file is not asked of a text. Needs the extra `rewards`.
    """
    require_library("pycodestyle", "pep8")
    return Made("valid Python in the style of PEP 8", _each(_is_clean), bounds=(0.0, 1.0))


def valid_json(*keys: str) -> Made:
    """Return 1 for a text that is one JSON value, an object with these keys if any are named.

    White space around it is allowed; NaN and Infinity are not, since JSON has none.
    """
    names = f" with {', '.join(map(str, keys))}" if keys else ""

    def has_all(text: str) -> bool:
        try:
            found = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        return not keys or (isinstance(found, dict) and all(key in found for key in keys))

    return Made(f"the text is valid JSON{names}", _each(has_all), bounds=(0.0, 1.0))


def _each(holds: Any) -> Any:
    def values(texts: Sequence[str]) -> np.ndarray:
        return np.array([float(holds(text)) for text in texts])

    return values


@contextmanager
def _quietly() -> Iterator[None]:
    """Let the compiler say nothing of a text's own faults, such as an invalid escape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _compiles(text: str) -> bool:
    try:
        with _quietly():
            _ = compile(text, "<text>", "exec", dont_inherit=True)
    except NO_PROGRAM:
        return False
    return True


def _has_docstring(text: str) -> bool:
    if not _compiles(text):
        return False
    with _quietly():
        tree = ast.parse(text)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    first = next((node for node in tree.body if isinstance(node, kinds)), None)
    return first is not None and bool(ast.get_docstring(first))


def _is_clean(text: str) -> bool:
    if not _compiles(text):
        return False
    with _quietly():
        lines = f"{text.rstrip()}\n".splitlines(keepends=True) if text.strip() else []
        checker = _pycodestyle().Checker("text", lines=lines, options=_style())
        return checker.check_all() == 0


@functools.cache
def _pycodestyle() -> Any:
    return importlib.import_module("pycodestyle")


@functools.cache
def _style() -> Any:
    # Neither the command line nor a setup.cfg of this folder: a reward is the same everywhere.
    return _pycodestyle().StyleGuide(parse_argv=False, config_file=None, quiet=2).options


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is no JSON")
