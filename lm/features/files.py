"""Functions in a user's own file, named as ``path/to/file.py:function`` in a recipe.

A configuration is checked without running anything: the file is parsed, and the function must
stand in it. The file is executed when the run starts, as the user's own code.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm.errors import RunError
from lm.features.calls import given_names


def is_reference(name: str) -> bool:
    """Return whether a name means a function in a file: ``rewards.py:polite``."""
    path, separator, _ = name.rpartition(":")
    return bool(separator) and path.endswith(".py")


def path_of(name: str) -> Path | None:
    """Return the file that a name refers to, or None if it refers to none."""
    return _split(name)[0] if is_reference(name) else None


def check_reference(name: str, *, leading: Sequence[str]) -> None:
    """Check that a file defines a function that can be called, by reading it and nothing else.

    Parameters
    ----------
    name
        ``path/to/file.py:function``; a relative path starts at the working directory.
    leading
        What the function is given first, by name.

    Raises
    ------
    ValueError
        There is no such file, it is not Python, or it has no such function at its top level.
    """
    path, function = _split(name)
    if not path.is_file():
        raise ValueError(f"{name!r} names no file: there is no {path} in {Path.cwd()}")
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} is not valid Python: {error}") from error

    defined = {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    found = defined.get(function)
    if found is None:
        functions = [key for key, node in defined.items() if isinstance(node, ast.FunctionDef)]
        nearest = difflib.get_close_matches(function, functions, n=1)
        listed = f"it has {', '.join(functions)}" if functions else "it defines no function"
        advice = f"did you mean {nearest[0]!r}?" if nearest else listed
        raise ValueError(f"{path} has no function {function!r} at its top level; {advice}")
    if isinstance(found, ast.ClassDef):
        raise ValueError(
            f"{function} in {path} is a class: name a function, which may make an object of it "
            "and call that"
        )
    if isinstance(found, ast.AsyncFunctionDef):
        raise ValueError(f"{function} in {path} is an async function: it must be a plain def")
    if not found.decorator_list:
        _ = given_names(name, _signature(found.args), leading=leading)


def _signature(arguments: ast.arguments) -> inspect.Signature:
    """Return what `inspect.signature` would return if the function existed."""
    kind, empty = inspect.Parameter, inspect.Parameter.empty
    first = [(argument, kind.POSITIONAL_ONLY) for argument in arguments.posonlyargs]
    first += [(argument, kind.POSITIONAL_OR_KEYWORD) for argument in arguments.args]
    required = len(first) - len(arguments.defaults)
    parameters = [
        kind(argument.arg, how, default=empty if place < required else None)
        for place, (argument, how) in enumerate(first)
    ]
    if arguments.vararg is not None:
        parameters.append(kind(arguments.vararg.arg, kind.VAR_POSITIONAL))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        given = empty if default is None else None
        parameters.append(kind(argument.arg, kind.KEYWORD_ONLY, default=given))
    return inspect.Signature(parameters)


@functools.cache
def load_function(name: str) -> Callable[..., Any]:
    """Execute a user's file and return the function; each name is loaded once a process.

    Parameters
    ----------
    name
        As `check_reference` accepts it.

    Returns
    -------
    callable
        The function.

    Raises
    ------
    RunError
        The file raises while it is executed.
    """
    path, function = _split(name)
    module = _load_module(path.resolve())
    if not hasattr(module, function):
        raise RunError(f"{path} defines {function!r}, but it was gone after the file was loaded")
    return getattr(module, function)


@functools.cache
def _load_module(path: Path) -> Any:
    name = f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RunError(f"{path} cannot be imported: is it a Python file?")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickled functions look their module up by name.
    sys.modules[name] = module
    try:
        with _folder_on_path(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        what = f"{type(error).__name__} while it was loaded: {error}"
        if isinstance(error, ModuleNotFoundError):
            what += f" (looked for beside it in {path.parent} and among the installed packages)"
        raise RunError(f"{path} raised {what}") from error
    return module


@contextmanager
def _folder_on_path(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours while it is loaded, as it can when it is run itself."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _split(name: str) -> tuple[Path, str]:
    path, _, function = name.rpartition(":")
    return Path(path), function
