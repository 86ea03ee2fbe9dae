"""A feature written out in a recipe: ``contains(joy, happy)``, ``sentiment > 0.5 and not pep8``.

The text is read by Python's own parser and never executed. It knows a few forms and no others:

    name                            a feature of the project or a registered one
    name(word, "two words", k="v")  one with parameters; a word that is no name stands in quotes
    feature > 0.5                   1 where it holds and else 0; also >=, <, <= and 1 < feature < 9
    one and other, or, not          of features; what is not 0 holds
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Constant = str | float
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
}
# Deeper than anybody writes, and far from the interpreter's own limit.
LONGEST = 2_000


@dataclass(frozen=True)
class Atom:
    """One feature with its parameters, as it is written."""

    name: str
    arguments: tuple[Constant, ...] = ()
    options: tuple[tuple[str, Constant], ...] = ()

    def __str__(self) -> str:
        words = [repr(one) for one in self.arguments]
        words += [f"{key}={value!r}" for key, value in self.options]
        return f"{self.name}({', '.join(words)})" if words else self.name


@dataclass(frozen=True)
class Expression:
    """A feature that is made of others.

    Parameters
    ----------
    atoms
        The features in it, each once.
    is_truth
        Whether its values are 0 and 1 alone.
    values
        From the values of each atom to its own, shape (n,).
    """

    atoms: tuple[Atom, ...]
    is_truth: bool
    values: Callable[[dict[Atom, np.ndarray]], np.ndarray]


def is_expression(name: str) -> bool:
    """Return whether a feature's name is more than a word."""
    return not name.isidentifier() and any(sign in name for sign in "(<> ")


def parse(text: str) -> Expression:
    """Read an expression.

    Parameters
    ----------
    text
        As the module describes it.

    Raises
    ------
    ValueError
        It is none: the message says what may stand there.
    """
    if len(text) > LONGEST:
        raise ValueError(f"the feature {text[:60]!r}... is longer than {LONGEST} characters")
    try:
        with warnings.catch_warnings():
            # Python only warns of "\w", and takes "\b" for a backspace.
            warnings.simplefilter("error")
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError, Warning) as error:
        raise ValueError(
            f"the feature {text!r} cannot be read ({error}): write contains(joy, happy), "
            "sentiment > 0.5, or several with and, or, not; put a word that is no name in quotes, "
            'and a regular expression in r"..."'
        ) from error
    return _read(tree, text)


def _read(node: ast.expr, text: str) -> Expression:
    if isinstance(node, ast.BoolOp):
        parts = [_read(one, text) for one in node.values]
        fold = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return _truth(parts, lambda columns: fold.reduce([column != 0 for column in columns]))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _truth([_read(node.operand, text)], lambda columns: columns[0] == 0)
    if isinstance(node, ast.Compare):
        return _comparison(node, text)
    atom = _atom(node, text)
    return Expression((atom,), False, lambda values: values[atom])


def _comparison(node: ast.Compare, text: str) -> Expression:
    sides = [node.left, *node.comparators]
    unknown = [op for op in node.ops if type(op) not in COMPARISONS]
    if unknown:
        raise ValueError(f"the feature {text!r} compares by something else than >, >=, <, <=")
    numbers = [_number(side) for side in sides]
    parts = [_read(side, text) for side, n in zip(sides, numbers, strict=True) if n is None]
    if not parts:
        raise ValueError(f"the feature {text!r} compares numbers, and no feature")

    def holds(columns: list[np.ndarray]) -> np.ndarray:
        rest = iter(columns)
        row = [next(rest) if number is None else number for number in numbers]
        pairs = zip(row, node.ops, row[1:], strict=False)
        found = [COMPARISONS[type(op)](left, right) for left, op, right in pairs]
        return np.logical_and.reduce(np.broadcast_arrays(*found))

    return _truth(parts, holds)


def _truth(parts: list[Expression], holds: Callable[[list[np.ndarray]], np.ndarray]) -> Expression:
    atoms = tuple(dict.fromkeys(atom for part in parts for atom in part.atoms))
    return Expression(
        atoms, True, lambda values: holds([part.values(values) for part in parts]).astype(float)
    )


def _atom(node: ast.expr, text: str) -> Atom:
    if isinstance(node, ast.Name):
        return Atom(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = tuple(_constant(one, text) for one in node.args)
        options = tuple(_options(node, text))
        return Atom(node.func.id, arguments, options)
    raise ValueError(
        f"the feature {text!r} holds {ast.unparse(node)!r}, which is no feature: there are names, "
        "names with parameters in parentheses, comparisons with numbers, and, or, not; anything "
        "else is a function in a file of your own (file.py:name)"
    )


def _options(node: ast.Call, text: str) -> Iterator[tuple[str, Constant]]:
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError(f"the feature {text!r} holds **, which means nothing here")
        yield keyword.arg, _constant(keyword.value, text)


def _constant(node: ast.expr, text: str) -> Constant:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if any(ord(letter) < ord(" ") for letter in node.value):
            raise ValueError(
                f"the feature {text!r} holds a control character, as \\b is one in plain quotes: "
                'write a regular expression as r"..."'
            )
        return node.value
    number = _number(node)
    if number is None:
        raise ValueError(
            f"the feature {text!r} has the parameter {ast.unparse(node)!r}, which is neither a "
            "word, a text in quotes nor a number"
        )
    return number


def _number(node: ast.expr) -> float | None:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    inner = node.operand if isinstance(node, ast.UnaryOp) and negative else node
    value = inner.value if isinstance(inner, ast.Constant) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return -float(value) if negative else float(value)
