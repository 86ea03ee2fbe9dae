"""The museum: every exhibit is flagged, no twin is, and the verdicts are measured."""

from __future__ import annotations

import difflib
import inspect
import io
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from fdpg_ref import REVERSE_KL, leave_one_out, score_signal
from toy.cli.main import main
from toy.museum import command
from toy.museum.exhibits import EXHIBITS, run_museum
from toy.museum.judges.enumeration import all_batches, descends, equals, estimates, relative_error
from toy.museum.judges.invariances import FINITE_GRADIENTS, PRECISION_LADDER
from toy.museum.judges.sampling import NORMALISED, SAMPLER_IS_SCORER, first_end_mask, invert
from toy.museum.records import Exhibit, Measurement, Oracle, Record, exhibit, look_at
from toy.museum.report import as_json, as_markdown, print_museum

ROOT = Path(__file__).resolve().parents[2]
ALL = [pytest.param(shown, id=f"{shown.number}") for shown in EXHIBITS.values()]
# Figures move in their last digits from one library version to the next; words do not.
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?%?")


@pytest.fixture(scope="module")
def records() -> dict[int, Record]:
    return {record.exhibit.number: record for record in run_museum()}


def test_the_registry_is_complete():
    assert list(EXHIBITS) == list(range(1, 46))
    assert len({shown.name for shown in EXHIBITS.values()}) == 45


@pytest.mark.parametrize("shown", ALL)
def test_the_exhibit_is_flagged_and_its_twin_is_not(shown: Exhibit, records: dict[int, Record]):
    record = records[shown.number]
    assert record.wrong.flagged, record.wrong.text
    assert not record.right.flagged, record.right.text
    # Beyond doubt: the mistake is orders of magnitude above what rounding may cost.
    assert not record.wrong.error < 1.9 * record.wrong.bound
    assert record.wrong.text != record.right.text


@pytest.mark.parametrize("shown", ALL)
def test_the_twin_differs_by_at_most_five_lines(shown: Exhibit):
    before, after = (
        inspect.getsource(f).splitlines(keepends=True) for f in (shown.exhibit, shown.twin)
    )
    changes = list(difflib.ndiff(before, after))
    removed = sum(line.startswith("- ") for line in changes)
    added = sum(line.startswith("+ ") for line in changes)
    assert 1 <= max(removed, added) <= 5
    assert inspect.signature(shown.exhibit) == inspect.signature(shown.twin)


@pytest.mark.parametrize("shown", ALL)
def test_the_exhibit_says_what_is_wrong_and_where_it_was_reported(
    shown: Exhibit, records: dict[int, Record]
):
    assert shown.report
    assert shown.name
    assert len(shown.mistake.split()) >= 8
    sentence = records[shown.number].sentence
    assert sentence.startswith(shown.mistake)
    assert records[shown.number].wrong.text in sentence
    threads = r"\w[\w/.-]*#\d+|arXiv|disco|verl|DPG|common|own finding"
    assert re.search(threads, shown.report)


@pytest.mark.parametrize("number", [1, 6, 13, 19, 30, 37])
def test_verdicts_follow_the_functions_and_not_the_labels(number: int):
    shown = EXHIBITS[number]
    exchanged = look_at(replace(shown, exhibit=shown.twin, twin=shown.exhibit))
    assert not exchanged.wrong.flagged
    assert exchanged.right.flagged


def test_the_sizes_are_those_of_the_theory(records: dict[int, Record]):
    wrong = {number: record.wrong for number, record in records.items()}
    assert wrong[1].error == pytest.approx(1)  # nothing of the gradient is left
    assert wrong[2].text == "descends KL(ref‖pi)"
    assert wrong[3].text == "descends +1 x KL(pi‖ref) -1 x KL(ref‖pi)"
    assert wrong[5].text == "descends 2 x total variation"
    assert wrong[7].error == pytest.approx(1)
    assert wrong[13].error == pytest.approx(1 / 3)  # (n-1)/n with n = 3
    assert wrong[36].error == pytest.approx(2)  # minus the gradient
    assert wrong[24].error == pytest.approx(wrong[25].error)  # a ratio of 1 is no ratio
    assert wrong[34].error == pytest.approx(1, abs=5e-3)  # a thousandth of the gradient is left
    assert 1 / 32 < wrong[29].error < 1 / 8  # the bfloat16 grid is 1/8 nat wide beyond -16
    assert {wrong[number].error for number in (14, 30)} == {np.inf}
    assert wrong[40].text.startswith("no named divergence")
    assert wrong[41].text == "descends 2 x jensen shannon"
    # 4/3 (1 - (1 - r)^3), as toy verify claims of any n.
    assert wrong[43].text == (
        "the true gradient 1.17 x at a pass rate of 0.5 and 0.0784 x at a pass rate of 0.02, "
        "in its direction"
    )
    # 18 % of the sample sets show what was dropped, and the others report zero.
    assert 1 - (1 - 0.2 / 1024) ** 1024 < 1 - wrong[39].error < 0.45


def size_under_a_cap(rate: float, cap: float) -> float:
    """Return the size of the mean gradient of groups of 4, less than 1 where it is too small.

    With k passes a pass weighs w(k) = min(4/k, cap). Of the other three j pass, so that the
    coefficient is w(j + 1) (1 - j/3) for a pass and -w(j) j/3 for a fail; with the true Z these
    are 1/rate apart.
    """
    size = 0.0
    for j in range(4):
        chance = math.comb(3, j) * rate**j * (1 - rate) ** (3 - j)
        of_a_pass = min(4 / (j + 1), cap) * (1 - j / 3)
        of_a_fail = -min(4 / j, cap) * j / 3 if j else 0.0
        size += rate * chance * (of_a_pass - of_a_fail)
    return size


@pytest.mark.parametrize("cap", [4, 2])
def test_a_cap_on_the_weights_of_a_group_takes_from_the_size_alone(cap):
    def capped(passes: np.ndarray, pass_rate: float) -> np.ndarray:
        z = max(float(np.mean(passes)), 1e-9)
        weights = np.minimum(passes / z, cap)
        return -(weights - leave_one_out(weights))

    easy, hard = (f"{size_under_a_cap(rate, cap):.3g}" for rate in (0.5, 0.02))
    assert EXHIBITS[43].oracle.measure(capped).text == (
        f"the true gradient {easy} x at a pass rate of 0.5 and {hard} x at a pass rate of 0.02, "
        "in its direction"
    )
    # What the exhibit says of a cap of 2.
    assert (f"{size_under_a_cap(0.5, 2):.3g}", f"{size_under_a_cap(0.02, 2):.3g}") == (
        *("0.917", "0.04"),
    )


def test_an_error_of_nan_is_flagged():
    assert Measurement(float("nan"), 1.0, "").flagged
    assert not Measurement(1.0, 1.0, "").flagged


def test_a_number_is_given_once():
    with pytest.raises(ValueError, match=r"number 1 is taken by 'k1 in the loss'"):
        _ = exhibit(1, report="", oracle=Oracle("", lambda _: Measurement(0.0, 0.0, "")))(
            type("Again", (), {"__doc__": "Again.", "exhibit": None, "twin": None})
        )


def test_a_vector_is_compared_with_the_truth():
    truth = np.array([3.0, 4.0])
    assert relative_error(2 * truth, truth) == (1.0, 2.0)
    assert relative_error(2 * truth, truth, up_to_scale=True)[0] == pytest.approx(0, abs=1e-15)
    # The best scale is not negative: what ascends is as wrong as nothing.
    assert relative_error(-truth, truth, up_to_scale=True)[0] == 1.0
    assert relative_error(np.zeros(2), truth, up_to_scale=True) == (1.0, 0.0)
    # At a right angle nothing is explained; at 45 degrees sin(45 degrees) is left.
    diagonal = np.array([-1.0, 7.0])
    assert relative_error(diagonal, truth, up_to_scale=True)[0] == pytest.approx(0.5**0.5)


def test_the_oracles_see_small_mistakes():
    """One part in a million is flagged, wherever it is put."""
    off = 1 + 1e-6

    def loss(log_policy: torch.Tensor, log_reference: torch.Tensor) -> torch.Tensor:
        return off * (log_policy - log_reference) ** 2 / 2

    def batch(log_policy: np.ndarray, log_score: np.ndarray, past: np.ndarray) -> np.ndarray:
        signal = score_signal(log_policy, log_score, divergence=REVERSE_KL)
        return off * (signal - leave_one_out(signal))

    assert descends("reverse_kl").measure(loss).flagged
    assert not descends("reverse_kl", up_to_scale=True).measure(loss).flagged
    assert all_batches("reverse_kl").measure(batch).flagged
    assert not all_batches("reverse_kl", up_to_scale=True).measure(batch).flagged
    assert estimates("reverse_kl").measure(lambda a, b, q: off * (a - b)).flagged
    assert not estimates("reverse_kl").measure(lambda a, b, q: a - b).flagged
    assert equals("reverse_kl").measure(lambda a, b: off * np.exp(a) @ (a - b)).flagged
    half = PRECISION_LADDER.measure(lambda x: torch.log_softmax(x.float(), -1) + 1e-3)
    assert half.flagged
    nan = FINITE_GRADIENTS.measure(lambda x: torch.log_softmax(x, -1).sum())
    assert nan.flagged


def test_the_mask_ends_with_the_first_end_token():
    tokens = np.array([[0, 2, 2], [2, 2, 2], [0, 1, 0], [2, 0, 2]])
    expected = [[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 0, 0]]
    np.testing.assert_array_equal(first_end_mask(tokens, 2), np.array(expected, dtype=bool))
    no_mask = NORMALISED.measure(lambda values, tokens, end: np.sum(values, axis=-1))
    assert no_mask.flagged


def test_a_sampler_that_is_slightly_off_is_seen():
    def tilted(logits: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs = logits - np.log(np.sum(np.exp(logits)))
        return invert(log_probs, 0.99 * uniforms), log_probs[invert(log_probs, 0.99 * uniforms)]

    assert SAMPLER_IS_SCORER.measure(tilted).flagged


def test_the_command_prints_and_writes_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "100")
    path = tmp_path / "new" / "museum.json"
    assert main(["museum", "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "45 of 45 exhibits flagged, 0 of 45 corrected twins flagged." in out
    # But for where it was written: a folder may have a long name.
    *table, written = out.splitlines()
    assert written == f"written: {path}"
    assert max(map(len, table)) <= 100
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [row["number"] for row in rows] == list(EXHIBITS)
    keys = {"number", "name", "oracle", "report", "exhibit_measured", "twin_measured"}
    assert all(keys <= set(row) for row in rows)
    assert all(row["exhibit_flagged"] and not row["twin_flagged"] for row in rows)
    assert rows[13]["exhibit_error"] is None  # infinite: JSON has no such number


def test_one_exhibit_is_shown_beside_its_twin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "180")
    assert main(["museum", "--show", "2"]) == 0
    out = capsys.readouterr().out
    assert "2. k3 in the loss called reverse KL" in out
    assert "Reported in huggingface/trl#4638" in out
    marked = [line for line in out.splitlines() if line.startswith("- ")]
    assert len(marked) == 2
    assert "return k3" in marked[1]
    assert "+     return torch.exp(log_policy - log_policy.detach()) * k3" in marked[1]
    assert "descends KL(ref‖pi)" in out
    assert "not flagged: error" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--show", "99"], "there is no exhibit 99: choose 1 to 45"),
        (["--show", "0"], "there is no exhibit 0"),
        (["--show", "1", "--json", "x.json"], "--show prints one exhibit and writes no file"),
        (["--json", "museum.txt"], "does not end in .json"),
        (["--markdown", "museum.txt"], "does not end in .md"),
    ],
)
def test_bad_input_exits_2_and_writes_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert main(["museum", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_false_alarm_or_a_blind_oracle_fails_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, records: dict[int, Record]
):
    good, wrong = Measurement(0.0, 1.0, "fine"), Measurement(2.0, 1.0, "wrong")
    for verdicts in ({"wrong": good, "right": good}, {"wrong": wrong, "right": wrong}):
        changed = [records[1]._replace(**verdicts), records[2]]
        monkeypatch.setattr("toy.museum.exhibits.run_museum", lambda changed=changed: changed)
        assert main(["museum"]) == command.MISTAKEN
        flagged = 1 + verdicts["wrong"].flagged
        assert f"{flagged} of 2 exhibits flagged" in capsys.readouterr().out


def test_without_torch_it_exits_2_with_the_pip_command():
    program = (
        "import sys\nsys.modules['torch'] = None\n"
        "from toy.__main__ import run\nsys.exit(run(['museum']))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 2
    assert "python -m pip install '.[lm]' in a clone" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_table_fits_eighty_columns(records: dict[int, Record]):
    console = Console(width=80, record=True, file=io.StringIO())
    print_museum(list(records.values()), console)
    assert max(map(len, console.export_text().splitlines())) <= 80


def test_the_committed_page_is_what_the_command_writes(records: dict[int, Record]):
    committed = (ROOT / "docs" / "museum.md").read_text(encoding="utf-8")
    written = as_markdown(list(records.values()))
    assert NUMBER.sub("#", committed) == NUMBER.sub("#", written), (
        "write it again: python -m toy museum --markdown docs/museum.md"
    )
    for shown in EXHIBITS.values():
        assert f"## {shown.number}. {shown.name}\n" in committed


def test_the_json_holds_only_numbers_that_json_knows(records: dict[int, Record]):
    rows = json.loads(as_json(list(records.values())), parse_constant=pytest.fail)
    assert {row["changed_lines"] for row in rows} <= set(range(1, 6))
