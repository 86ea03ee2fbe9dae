"""What a class is given: notebooks without outputs or solutions, which need one installation."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.run_notebooks import FOLDED
from tools.student_notebooks import NOTEBOOKS, ROOT, STUDENT, student_copy, write

ORIGINALS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]


@cache
def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path: Path) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]


def test_the_committed_copies_are_those_that_make_student_writes(tmp_path: Path):
    made = {path.name: path.read_text("utf-8") for path in write(tmp_path)}
    committed = {path.name: path.read_text("utf-8") for path in STUDENT.iterdir()}
    assert sorted(made) == sorted(committed)
    stale = [name for name in made if made[name] != committed[name]]
    assert stale == [], "make student"


OPENS = "<details><summary>After your run</summary>\n\n"


def without_folds(text: str) -> str:
    return text.replace(OPENS, "").replace("\n\n</details>", "")


def unfolded_answers(notebook: NotebookNode) -> list[str]:
    """Return the texts below a prediction that can be read before its cells have run."""
    found, asked = [], False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            asked = asked or "prediction" in cell.metadata.get("tags", [])
            continue
        seen = re.sub(f"^{re.escape(OPENS)}.*?\n\n</details>", "", cell.source, flags=re.DOTALL)
        if asked and seen.strip() and not seen.lstrip().startswith(("#", "**Predict")):
            found.append(seen)
        asked = False
    return found


@pytest.mark.parametrize("path", ORIGINALS, ids=lambda path: path.stem[:2])
def test_nothing_is_answered_and_everything_else_is_as_it_was(path: Path):
    copies = code(STUDENT / path.name)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in copies)
    assert [cell.source for cell in copies] == [cell.source for cell in code(path)]
    # The original keeps its outputs: it is what the site shows.
    assert any(cell.outputs for cell in code(path))
    assert unfolded_answers(read(STUDENT / path.name)) == []
    folded = [without_folds(text).split() for text in prose(STUDENT / path.name)]
    assert folded == [text.replace("](../", "](../../").split() for text in prose(path)]


def test_a_text_after_a_prediction_is_folded_up_to_the_next_question():
    texts = ["It is 3.", "It is 4.\n\n**Predict.** And now?", "Answer.\n\n## Next\n\nText."]
    cells = [new_markdown_cell("**Predict.** How many?")]
    for text in texts:
        cells.append(new_code_cell("n = None", metadata={"tags": ["prediction"]}))
        cells += [new_code_cell("count()"), new_code_cell("draw()"), new_markdown_cell(text)]
    cells.append(new_markdown_cell("Prose."))
    made = student_copy(new_notebook(cells=cells))
    assert unfolded_answers(made) == []
    assert [cell.source for cell in made.cells if cell.cell_type == "markdown"] == [
        "**Predict.** How many?",
        f"{OPENS}It is 3.\n\n</details>",
        f"{OPENS}It is 4.\n\n</details>\n\n**Predict.** And now?",
        f"{OPENS}Answer.\n\n</details>\n\n## Next\n\nText.",
        "Prose.",
    ]


@pytest.mark.parametrize("path", ORIGINALS, ids=lambda path: path.stem[:2])
def test_what_draws_is_folded_and_what_is_to_be_written_is_not(path: Path):
    hidden = [c for c in code(STUDENT / path.name) if FOLDED in c.metadata.get("tags", [])]
    assert len(hidden) > 3
    for cell in hidden:
        assert cell.metadata["jupyter"] == {"source_hidden": True}
        assert cell.metadata["cellView"] == "form"
        # What Colab shows in place of the code.
        assert cell.source.startswith("# @title ")
        assert not {"exercise", "grader", "prediction"} & set(cell.metadata["tags"])


@pytest.mark.parametrize("path", [*ORIGINALS, *sorted(STUDENT.glob("*"))], ids=lambda p: p.name[:2])
def test_a_header_says_what_for_how_long_and_what_comes_next(path: Path):
    head = read(path).cells[0].source
    assert head.startswith(f"# {path.name[:2]}. ")
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", head, re.MULTILINE)
    assert rows == ["Afterwards you can", "You know", "Time", "It needs", "Before, after"]
    number = int(path.name[:2])
    for other in (number - 1, number + 1):
        assert f"[{other:02}]({other:02}_" in head or not 1 <= other <= len(ORIGINALS)


@pytest.mark.parametrize("path", [*ORIGINALS, *sorted(STUDENT.glob("*"))], ids=lambda p: p.name[:2])
def test_links_of_a_notebook_lead_somewhere(path: Path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", ORIGINALS[:4], ids=lambda path: path.stem[:2])
def test_nothing_is_imported_that_the_extra_notebooks_does_not_bring(path: Path):
    wanted = [*EXTRAS["notebooks"], *EXTRAS["toy"]]
    brought = {re.split(r"[<>=\[ ]", requirement, maxsplit=1)[0] for requirement in wanted}
    known = brought | {"fdpg_ref", "toy", *sys.stdlib_module_names}
    for cell in code(path):
        for node in ast.walk(ast.parse(cell.source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= known, names


# ---------------------------------------------------------------- the cell that installs


@pytest.fixture(params=ORIGINALS, ids=lambda path: path.stem[:2])
def install(request: pytest.FixtureRequest) -> str:
    (cell,) = [cell for cell in code(request.param) if cell.id == "install"]
    return cell.source


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """What is run instead of pip, in a folder without a clone."""
    made: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: made.append(command))
    monkeypatch.chdir(tmp_path)
    return made


def test_where_everything_is_there_nothing_is_installed(install, commands):
    exec(install, {})
    assert commands == []


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (
            "https://example.org/fdpg.git",
            r"fdpg-ref\[[\w,]*notebooks\] @ https://example.org/fdpg.git",
        ),
        ("fdpg-ref", r"fdpg-ref\[[\w,]*notebooks\]"),
    ],
)
def test_elsewhere_it_installs_from_what_it_is_told(install, commands, monkeypatch, source, wanted):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    exec(install.replace('SOURCE = ""', f'SOURCE = "{source}"'), {})
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert re.fullmatch(wanted, command[-1])


@pytest.mark.parametrize("place", [".", "clone", "clone/notebooks"])
def test_elsewhere_it_finds_a_clone_around_or_beside_it(
    install, commands, monkeypatch, tmp_path, place
):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (tmp_path / "clone" / "fdpg_ref").mkdir(parents=True)
    (tmp_path / "clone" / "notebooks").mkdir()
    (tmp_path / "clone" / "fdpg_ref" / "divergences.py").touch()
    monkeypatch.chdir(tmp_path / place)
    exec(install, {})
    (command,) = commands
    assert command[-1].startswith(f"{tmp_path / 'clone'}[")


def test_elsewhere_without_either_it_says_what_to_do(install, commands, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="SOURCE, and run this cell again"):
        exec(install, {})
    assert commands == []


def test_the_cell_asks_for_extras_that_exist(install):
    asked = set(re.findall(r"\[([\w,]+)\]", install))
    (extras,) = asked
    assert set(extras.split(",")) <= set(EXTRAS)
