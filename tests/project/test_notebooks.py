"""Graders refuse wrong answers, and the runner sees what is wrong with a stored notebook.

The notebooks themselves are executed by ``make notebooks``.
"""

from __future__ import annotations

import copy
import sys
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

from tools import run_notebooks

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
FIRST = "01_f_divergences_and_one_gradient"

SECOND = "02_rlhf_gdc_and_dpg_are_one_gradient"
THIRD = "03_variance_baselines_and_the_partition_function"
FOURTH = "04_what_does_my_kl_penalty_minimise"
FIFTH = "05_from_the_coin_to_the_transformer"
SIXTH = "06_alignment_against_diversity"
SEVENTH = "07_does_it_persist_with_scale"
EIGHTH = "08_on_real_language"

# A whole answer, or what to replace in the solution by what.
WRONG_ANSWERS = {
    FIRST: {
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
            "no baseline": (
                "def best_constant_baseline(log_policy, signal, scores):\n    return 0.0"
            ),
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
    },
    SECOND: {
        "exercise-1": {
            "a bonus for straying": ("reward - beta", "reward + beta"),
            "a penalty without beta": ("beta * (log_policy", "(log_policy"),
            "batch mean": ("(np.sum(value) - value) / (len(value) - 1)", "np.mean(value)"),
        },
        "exercise-2": {
            "rates in place of odds": (
                "wanted_rate * (1 - base_rate) / (base_rate * (1 - wanted_rate))",
                "wanted_rate / base_rate",
            ),
            "upside down": ("np.log(", "-np.log("),
        },
        "exercise-3": {
            "divided by beta": ("beta * (log_target - log_base)", "(log_target - log_base) / beta"),
            "without the base": ("(log_target - log_base)", "log_target"),
        },
    },
    THIRD: {
        "exercise-1": {
            "one too early": ("int(np.floor(needed / slope)) + 1", "int(needed / slope)"),
            "half the pairs": ("2 * pair", "pair"),
            "always pays": ("if slope > 0 else None", "if slope > 0 else 2"),
        },
        "exercise-2": {
            "the mean number of tries": (
                "np.log1p(-confidence) / np.log1p(-rate)",
                "confidence / rate",
            ),
            "one more to be safe": ("return m", "return m + 1"),
        },
        "exercise-3": {
            "the batch joins its own Z": (
                "    signal =",
                "    state = update_partition(state, log_score, log_policy)\n    signal =",
            ),
            "the state is not updated": ("update_partition(state, log_score, log_policy)", "state"),
            "Z upside down": ("log_score - state.log_z", "log_score + state.log_z"),
        },
    },
    FOURTH: {
        "exercise-1": {
            "not detached": (".detach()", ""),
            "ratio upside down": ("log_policy - log_reference", "log_reference - log_policy"),
        },
        "exercise-2": {
            "upside down": ("-torch.expm1", "torch.expm1"),
            "k3 itself": (
                "-torch.expm1(log_reference - log_policy)",
                "torch.expm1(log_reference - log_policy) + log_policy - log_reference",
            ),
        },
        "exercise-3": {
            "a differentiable ratio": (".detach()", ""),
            "no weight": ("return weight *", "return"),
            "weights upside down": ("log_policy - log_behavior", "log_behavior - log_policy"),
        },
    },
    FIFTH: {
        "exercise-1": {
            "whatever is not padding": ("ends.cumsum(-1) - ends == 0", "tokens != eos_id"),
            "the end is dropped": ("ends.cumsum(-1) - ends == 0", "ends.cumsum(-1) == 0"),
            "padding counts": ("chosen.where(counted, 0.0)", "chosen"),
            "zero times minus infinity": ("chosen.where(counted, 0.0)", "(chosen * counted)"),
        },
        "exercise-2": {
            "no weights": ("log_weights=log_policy - log_proposal", "log_weights=None"),
            "weights upside down": ("log_policy - log_proposal", "log_proposal - log_policy"),
            "the geometric mean of the tokens' ratios": (
                "log_weights=log_policy - log_proposal",
                "log_weights=(log_policy - log_proposal) / mask.sum(-1)",
            ),
            "the last token's ratio": (
                "log_weights=log_policy - log_proposal",
                "log_weights=(token_log_policy - token_log_proposal)[:, -1]",
            ),
            "rubbish after the end": (".where(mask, 0.0)", ""),
        },
        "exercise-3": {
            "a sum of means": ("share = len(own) / len(tokens)", "share = 1.0"),
            "a mean of unequal means": ("len(own) / len(tokens)", "1 / len(parts)"),
            "each part its own baseline": (
                "baseline=leave_one_out(signal)",
                "baseline=torch.cat([leave_one_out(part) for part in signal.split(size)])",
            ),
        },
    },
    SIXTH: {
        "exercise-1": {
            "the least of a row": ("axis=-2", "axis=-1"),
            "nothing is known, so nothing is lost": ("0.0), np.nan)", "0.0), 0.0)"),
            "no logarithm": ("np.log(measures)", "measures"),
        },
        "exercise-2": {
            "each objective its own tasks": (
                "def paired_bootstrap(first, second, *, draws, rng):\n"
                "    tasks, seeds = first.shape\n"
                "    def means(values):\n"
                "        task = rng.integers(tasks, size=(draws, tasks, 1))\n"
                "        seed = rng.integers(seeds, size=(draws, tasks, seeds))\n"
                "        return values[task, seed].mean(axis=(1, 2))\n"
                "    return means(first) - means(second)"
            ),
            "seeds only": (
                "rng.integers(tasks, size=(draws, tasks, 1))",
                "np.arange(tasks)[None, :, None]",
            ),
            "tasks only": (
                "rng.integers(seeds, size=(draws, tasks, seeds))",
                "np.arange(seeds)[None, None, :]",
            ),
            "the other way round": ("first - second", "second - first"),
        },
        "exercise-3": {
            "the plug-in": (
                "def coverage_at(counts, n, k):\n    return np.mean(1 - (1 - counts / n) ** k)"
            ),
            "subsets of nothing else": ("n - int(c)", "int(c)"),
            "a sum": ("np.mean(missed)", "np.sum(missed)"),
        },
    },
    SEVENTH: {
        "exercise-1": {
            "only what is asked for": (", (1 - wanted, 1 - base_rate))", ",)"),
            "the other KL": ("mine * np.log(mine / base)", "base * np.log(base / mine)"),
        },
        "exercise-2": {
            "all in one column": (
                "def order_between(small, large):\n"
                "    return spearman(small.mean(axis=1).ravel(), large.mean(axis=1).ravel())"
            ),
            "each seed by itself": (
                "def order_between(small, large):\n"
                "    one, other = (np.moveaxis(part, 2, -1) for part in (small, large))\n"
                "    return mean(spearman(one, other), axis=(0, 1, 2))"
            ),
            "over the measures": (
                "np.moveaxis(part.mean(axis=1), 1, -1)",
                "part.mean(axis=1)",
            ),
        },
        "exercise-3": {
            "places, not ranks": (".argsort(axis=1).argsort(axis=1)", ".argsort(axis=1)"),
            "the raters are ranked": (
                ".argsort(axis=1).argsort(axis=1)",
                ".argsort(axis=0).argsort(axis=0)",
            ),
            "raters not squared": ("raters**2", "raters"),
        },
    },
    EIGHTH: {
        "exercise-1": {
            "no weights": (
                "np.exp(log_weights - np.max(log_weights))",
                "np.ones(len(log_weights))",
            ),
            "divided by n": ("weights @ phi / weights.sum()", "weights @ phi / len(phi)"),
            "the error of a plain mean": (
                "np.sqrt(np.sum((weights * (phi - estimate)) ** 2)) / weights.sum()",
                "np.std(phi) / np.sqrt(len(phi))",
            ),
        },
        "exercise-2": {
            "the largest that was seen": ("reward - largest", "reward - np.max(reward)"),
            "the mean reward's chance": (
                "np.mean(np.exp((reward - largest) / beta))",
                "np.exp((np.mean(reward) - largest) / beta)",
            ),
            "beta upside down": ("(reward - largest) / beta", "(reward - largest) * beta"),
        },
        "exercise-3": {
            "Z with the other sign": ("terms.mean() - log_z", "terms.mean() + log_z"),
            "Z is known": ("np.hypot(error, log_z_error)", "error"),
            "errors, not their squares": ("np.hypot(error, log_z_error)", "error + log_z_error"),
            "the other KL": ("log_score - log_policy", "log_policy - log_score"),
            "the deviation of a population": ("ddof=1", "ddof=0"),
        },
    },
}
EXERCISES = [(stem, name) for stem, exercises in WRONG_ANSWERS.items() for name in exercises]
CASES = [(stem, name, why) for stem, name in EXERCISES for why in WRONG_ANSWERS[stem][name]]


@cache
def stored(stem: str) -> NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4)


def solution(stem: str, name: str) -> str:
    return run_notebooks.read_solutions(NOTEBOOKS / "solutions" / f"{stem}.py")[name]


@pytest.fixture(scope="module")
def notebook() -> NotebookNode:
    return stored(FIRST)


@pytest.fixture
def session(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that a notebook imports, as a reader has them before an exercise."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {}
    cells = stored(request.getfixturevalue("stem")).cells
    exec(next(cell.source for cell in cells if cell.id == "cell-02"), names)
    return names


def answer_and_grade(session: dict[str, Any], stem: str, name: str, answer: str):
    sources = {cell.id: cell.source for cell in stored(stem).cells}
    exec(answer, session)
    exec(sources[name.replace("exercise", "grader")], session)


@pytest.mark.parametrize(("stem", "name", "why"), CASES)
def test_graders_refuse_wrong_answers(session, stem, name, why):
    answer = WRONG_ANSWERS[stem][name][why]
    if isinstance(answer, tuple):
        right = solution(stem, name)
        assert answer[0] in right
        answer = right.replace(*answer)
    with pytest.raises(AssertionError):
        answer_and_grade(session, stem, name, answer)


@pytest.mark.parametrize(("stem", "name"), EXERCISES)
def test_graders_accept_the_solutions_and_refuse_the_placeholders(session, stem, name):
    placeholder = next(cell.source for cell in stored(stem).cells if cell.id == name)
    with pytest.raises(session["NotSolved"], match=name.replace("-", " ")):
        answer_and_grade(session, stem, name, placeholder)
    answer_and_grade(session, stem, name, solution(stem, name))


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


def unfold(cells: list[NotebookNode]) -> None:
    next(cell for cell in cells if "plt.show()" in cell.source).metadata = NotebookNode()


def fold_by_tag_alone(cells: list[NotebookNode]) -> None:
    del next(cell for cell in cells if "jupyter" in cell.metadata).metadata["jupyter"]


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
        (unfold, "is not folded"),
        (fold_by_tag_alone, "is not folded"),
    ],
)
def test_a_spoilt_notebook_is_noticed(notebook, spoil, complaint):
    spoilt = copy.deepcopy(notebook)
    spoil([cell for cell in spoilt.cells if cell.cell_type == "code"])
    assert any(complaint in problem for problem in run_notebooks.check_stored(spoilt))


def test_exercises_without_solutions_are_an_error(notebook):
    with pytest.raises(ValueError, match="exercise-1"):
        _ = run_notebooks.with_solutions(notebook, {})


def test_a_notebook_goes_on_with_the_solutions_and_their_graders(notebook):
    solutions = run_notebooks.read_solutions(NOTEBOOKS / "solutions" / f"{FIRST}.py")
    longer = run_notebooks.with_solutions(notebook, solutions)
    found = len(notebook.cells)
    assert longer.cells[:found] == notebook.cells
    more = longer.cells[found:]
    names = [f"{kind}-{n}-solved" for n in (1, 2, 3) for kind in ("exercise", "grader")]
    assert [cell.id for cell in more] == names
    assert [cell.source for cell in more[::2]] == list(solutions.values())
    assert not any("raises-exception" in cell.metadata.tags for cell in more)


def test_an_unknown_notebook_is_a_usage_error(capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        _ = run_notebooks.main([str(tmp_path / "none.ipynb")])
    assert "there is no notebook" in capsys.readouterr().err
