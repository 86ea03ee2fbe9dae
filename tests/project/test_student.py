"""`make student`: notebooks without outputs or solutions, with all that they import."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import nbformat
import pytest

from tools import student_notebooks
from tools.student_notebooks import NOTEBOOKS, write


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write(tmp_path_factory.mktemp("made") / "student")


def test_notebooks_one_to_four_and_their_module_are_there(copies: list[Path]):
    assert [path.name[:2] for path in copies] == ["01", "02", "03", "04"]
    assert {path.name for path in copies[0].parent.iterdir()} == {
        "lesson.py",
        "benchmarks",
        *(path.name for path in copies),
    }


def test_nothing_is_answered(copies: list[Path]):
    for path in copies:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                assert cell.outputs == []
                assert cell.execution_count is None


def test_everything_else_is_as_it_was(copies: list[Path]):
    for path in copies:
        copy, original = (nbformat.read(p, as_version=4) for p in (path, NOTEBOOKS / path.name))
        assert [cell.source for cell in copy.cells] == [cell.source for cell in original.cells]
        # The committed file keeps its outputs: it is what the site shows.
        assert any(cell.outputs for cell in original.cells if cell.cell_type == "code")


def test_what_draws_is_folded_and_what_is_to_be_written_is_not(copies: list[Path]):
    for path in copies:
        cells = nbformat.read(path, as_version=4).cells
        hidden = [c for c in cells if c.metadata.get("jupyter", {}).get("source_hidden")]
        assert hidden
        for cell in hidden:
            assert "plt.show()" in cell.source
            assert not {"exercise", "grader", "prediction"} & set(cell.metadata.get("tags", []))


def test_nothing_is_imported_that_an_extra_does_not_bring(copies: list[Path]):
    """Packages of the extra `notebooks`, the standard library's, ours, and lesson beside them."""
    known = {"fdpg_ref", "toy", "matplotlib", "mpmath", "numpy", "rich", "scipy", "torch"}
    known |= {"lesson", "benchmarks", "IPython", *sys.stdlib_module_names}
    folder = copies[0].parent
    for path in [*copies, *folder.rglob("*.py")]:
        sources = (
            [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
            if path.suffix == ".ipynb"
            else [path.read_text(encoding="utf-8")]
        )
        for node in (node for source in sources for node in ast.walk(ast.parse(source))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= known, (path.name, names)


def test_the_folder_is_outside_of_version_control():
    assert student_notebooks.STUDENT.relative_to(student_notebooks.ROOT).parts[0] == "build"
