"""The short functions of the running Python's standard library, as texts. Nothing is executed."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lm.errors import RunError
from lm.phases import each

# What is no part of the library itself, or is written to be wrong.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}
# One function of so many is kept from training, by its signature.
HELD_OUT_OF = 10
LONGEST_SIGNATURE = 60


class Functions(NamedTuple):
    """Functions without repetitions, in an order that only their texts decide.

    Attributes
    ----------
    learnt, held_out
        Texts: of one signature all are in the same of the two.
    """

    learnt: list[str]
    held_out: list[str]

    @property
    def sha256(self) -> str:
        """The sum of the whole list."""
        return hashlib.sha256("\0".join([*self.learnt, "", *self.held_out]).encode()).hexdigest()


def library_functions(characters: int, folder: Path | None = None) -> Functions:
    """Collect the short functions of a folder of Python files.

    A function is taken from its ``def`` to its last line, without decorators and indentation. It
    counts if its signature is its first line, if it is ASCII and not too long.

    Parameters
    ----------
    characters
        The longest that counts.
    folder
        Searched with all folders in it; by default the standard library's own.

    Returns
    -------
    Functions
        What a model learns from, and what is held out.

    Raises
    ------
    RunError
        There are no such functions: this Python came without its sources.
    """
    folder = Path(sysconfig.get_paths()["stdlib"]) if folder is None else folder
    paths = sorted(
        path
        for path in folder.rglob("*.py")
        if not LEFT_OUT.intersection(path.relative_to(folder).parts)
    )
    found = {
        text
        for path in each("reading the functions of the standard library", paths)
        for text in _functions(path)
        if len(text) <= characters
    }

    # By their own hashes: an order that is random, and the same everywhere.
    texts = sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())
    learnt = [text for text in texts if not is_held_out(signature_of(text))]
    held_out = [text for text in texts if is_held_out(signature_of(text))]
    if not learnt or not held_out:
        raise RunError(
            f"{folder} holds {len(found)} short functions in Python files, which is too few to "
            "learn from: this Python came without the sources of its library, so take another"
        )
    return Functions(learnt, held_out)


def signature_of(text: str) -> str:
    """Return the first line of a function."""
    return text.partition("\n")[0]


def is_held_out(signature: str) -> bool:
    """Return whether functions of this signature are kept from training: the text decides."""
    return hashlib.sha256(signature.encode()).digest()[0] % HELD_OUT_OF == 0


def signatures(texts: Sequence[str]) -> list[str]:
    """Return the different signatures of functions, in their order."""
    return list(dict.fromkeys(map(signature_of, texts)))


def _functions(path: Path) -> Iterator[str]:
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the library's own faults
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return  # of another version of Python, or in another encoding
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            text = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            if _counts(text, node):
                yield text


def _counts(text: str, node: ast.FunctionDef) -> bool:
    first = signature_of(text)
    return (
        text.isascii()
        and first.endswith(":")
        and len(first) <= LONGEST_SIGNATURE
        and node.body[0].lineno > node.lineno
        and "\t" not in text
    )
