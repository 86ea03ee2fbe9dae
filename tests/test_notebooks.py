"""Graders refuse wrong answers, and the runner sees what is wrong with a stored notebook.

The notebooks themselves are executed by ``make notebooks``.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

from tools import run_notebooks

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FIRST = "01_f_divergences_and_one_gradient"

WRONG_ANSWERS = {
    "exercise-1": {
        "uphill": "def forward_kl_gradient(policy, target):\n    return target - policy",
        "reverse KL's": (
            "def forward_kl_gradient(policy, target):\n"
            "    u = np.log(policy / target)\n"
            "    return policy * (u - policy @ u)"
        ),
    },
    "exercise-2": {
        "the mean signal": (
            "def best_constant_baseline(log_policy, signal, scores):\n"
            "    return np.exp(log_policy) @ signal"
        ),
        "no baseline": "def best_constant_baseline(log_policy, signal, scores):\n    return 0.0",
        "not weighted by the policy": (
            "def best_constant_baseline(log_policy, signal, scores):\n"
            "    norms = np.sum(scores**2, axis=-1)\n"
            "    return norms @ signal / np.sum(norms)"
        ),
    },
    "exercise-3": {
        "no weights": ("log_weights=log_policy - log_proposal", "log_weights=None"),
        "weights upside down": ("log_policy - log_proposal", "log_proposal - log_policy"),
        "the target's weights": ("log_policy - log_proposal", "log_target - log_proposal"),
        "batch mean": ("baseline=leave_one_out(signal)", "baseline=batch_mean(signal)"),
    },
}
CASES = [(name, why) for name, answers in WRONG_ANSWERS.items() for why in answers]


@pytest.fixture(scope="module")
def notebook() -> NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{FIRST}.ipynb", as_version=4)


@pytest.fixture
def session(notebook: NotebookNode, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the notebook's first cell, as a reader has them before an exercise."""
    monkeypatch.setattr(sys, "path", [str(NOTEBOOKS), *sys.path])
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {}
    exec(next(c.source for c in notebook.cells if c.cell_type == "code"), names)
    return names


def answer_and_grade(notebook: NotebookNode, session: dict[str, Any], name: str, answer: str):
    sources = {cell.id: cell.source for cell in notebook.cells}
    exec(answer, session)
    exec(sources[name.replace("exercise", "grader")], session)


@pytest.mark.parametrize(("name", "why"), CASES)
def test_graders_refuse_wrong_answers(notebook, session, name, why):
    answer = WRONG_ANSWERS[name][why]
    if isinstance(answer, tuple):
        solution = run_notebooks.read_solutions(NOTEBOOKS / "solutions" / f"{FIRST}.py")[name]
        assert answer[0] in solution
        answer = solution.replace(*answer)
    with pytest.raises(AssertionError):
        answer_and_grade(notebook, session, name, answer)


@pytest.mark.parametrize("name", list(WRONG_ANSWERS))
def test_graders_accept_the_solutions_and_refuse_the_placeholders(notebook, session, name):
    placeholder = next(cell.source for cell in notebook.cells if cell.id == name)
    with pytest.raises(session["NotSolved"], match=name.replace("-", " ")):
        answer_and_grade(notebook, session, name, placeholder)
    solutions = run_notebooks.read_solutions(NOTEBOOKS / "solutions" / f"{FIRST}.py")
    answer_and_grade(notebook, session, name, solutions[name])


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("[0-9]*.ipynb")), ids=lambda p: p.stem[:2])
def test_stored_outputs_are_those_of_the_stored_cells(path):
    assert run_notebooks.check_stored(nbformat.read(path, as_version=4)) == []


def edit_a_cell(cells: list[NotebookNode]) -> None:
    cells[0].source += "\n# one more line"


def drop_the_pictures(cells: list[NotebookNode]) -> None:
    for cell in cells:
        cell.outputs = [output for output in cell.outputs if "data" not in output]


def show_an_error(cells: list[NotebookNode]) -> None:
    error = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
    cells[1].outputs.append(NotebookNode(error))


def silence_the_assertions(cells: list[NotebookNode]) -> None:
    cells[-1].outputs = []


def run_out_of_order(cells: list[NotebookNode]) -> None:
    cells[2].execution_count = 7


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (edit_a_cell, "older than the cells"),
        (drop_the_pictures, "no picture"),
        (show_an_error, "shows an error"),
        (silence_the_assertions, "assertions that ran"),
        (run_out_of_order, "in order"),
    ],
)
def test_a_spoilt_notebook_is_noticed(notebook, spoil, complaint):
    spoilt = copy.deepcopy(notebook)
    spoil([cell for cell in spoilt.cells if cell.cell_type == "code"])
    assert any(complaint in problem for problem in run_notebooks.check_stored(spoilt))


def test_exercises_without_solutions_are_an_error(notebook):
    with pytest.raises(ValueError, match="exercise-1"):
        _ = run_notebooks.inject(notebook, {})


def test_an_unknown_notebook_is_a_usage_error(capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        _ = run_notebooks.main([str(tmp_path / "none.ipynb")])
    assert "there is no notebook" in capsys.readouterr().err
