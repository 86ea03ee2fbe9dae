"""Functions in a user's own file, named as ``path/to/file.py:function`` in a recipe.

A configuration is checked without running anything: the file is parsed, and the function must
stand in it. The file is executed when the run starts, as the user's own code.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm.errors import RunError


def is_reference(name: str) -> bool:
    """Return whether a name means a function in a file: ``rewards.py:polite``."""
    path, separator, _ = name.rpartition(":")
    return bool(separator) and path.endswith(".py")


def check_reference(name: str, *, arguments: int) -> None:
    """Check that a file defines a function, by reading it and nothing else.

    Parameters
    ----------
    name
        ``path/to/file.py:function``; a relative path starts at the working directory.
    arguments
        How many positional arguments the function must take at least.

    Raises
    ------
    ValueError
        There is no such file, it is not Python, or it has no such function at its top level.
    """
    path, function = _split(name)
    if not path.is_file():
        raise ValueError(f"{name!r} names no file: there is no {path} in {Path.cwd()}")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} is not valid Python: {error}") from error
    found = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef)}
    if function not in found:
        nearest = difflib.get_close_matches(function, found, n=1, cutoff=0.0)
        advice = f"did you mean {nearest[0]!r}?" if nearest else "it defines no function"
        raise ValueError(f"{path} has no function {function!r} at its top level; {advice}")
    taken = len(found[function].posonlyargs) + len(found[function].args)
    if taken < arguments and found[function].vararg is None:
        raise ValueError(
            f"{name} takes {taken} positional argument(s), but it is called with {arguments}: see "
            "docs/library.md"
        )


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
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RunError(
            f"{path} raised {type(error).__name__} while it was loaded: {error}"
        ) from error
    return module


def _split(name: str) -> tuple[Path, str]:
    path, _, function = name.rpartition(":")
    return Path(path), function
