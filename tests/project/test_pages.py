"""What a page looks like: long functions have blank lines between phases, files stay short."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fdpg_ref", "toy", "lm", "study")
# A body from which on a reader needs to be told where one phase ends and the next begins.
LONG_BODY = 20
LONGEST_FILE = 500


def files_of(package: str) -> list[Path]:
    """Return the modules of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def bodies(source: str) -> list[tuple[str, list[str]]]:
    """Return each function's name and the lines of its body, the docstring left out."""
    found = []
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body:
                found.append((node.name, lines[body[0].lineno - 1 : node.end_lineno]))
    return found


def test_a_docstring_is_no_body():
    source = 'def f(x):\n    """Say.\n\n    More."""\n    y = x\n\n    return y\n'
    assert bodies(source) == [("f", ["    y = x", "", "    return y"])]


@pytest.mark.parametrize("package", PACKAGES)
def test_long_bodies_have_blank_lines(package):
    dense = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files_of(package)
        for name, body in bodies(path.read_text(encoding="utf-8"))
        if len(body) >= LONG_BODY and all(line.strip() for line in body)
    ]
    assert dense == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_long(package):
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files_of(package)}
    assert {path: size for path, size in sizes.items() if size > LONGEST_FILE} == {}
