"""``python -m toy measurement``: its table is the exact sums, its picture the same."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fdpg_ref import FORWARD_KL, JENSEN_SHANNON, TOTAL_VARIATION, FDivergence
from toy.cli.main import main
from toy.measurement.exact import estimates, median_report, quality
from toy.measurement.picture import draw
from toy.measurement.ways import WAYS
from toy.measurement.worlds import dropping

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(name="note")
def _note() -> str:
    return (ROOT / "docs" / "notes" / "measuring-forward-kl.md").read_text(encoding="utf-8")


def test_the_median_report_is_that_of_half_of_the_sets():
    # One sample in ten shows the mode; 7 samples do with 52 %, 6 with 47 %.
    world = dropping(0.4, 0.1)
    blind = median_report(world, WAYS["policy"], 6, divergence=FORWARD_KL)
    assert blind == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
    value, error = median_report(world, WAYS["policy"], 7, divergence=FORWARD_KL)
    masses, values, errors = estimates(world, WAYS["policy"], 7, divergence=FORWARD_KL)
    assert np.sum(masses[values <= value]) >= 0.5 > np.sum(masses[values < value])
    assert (value, error) in list(zip(values, errors, strict=True))
    assert value > 0.1


def test_an_undefined_median_is_undefined():
    world = dropping(0.3, 1e-3, outside=0.99, base_rate=0.01)
    report = median_report(world, WAYS["policy"], 8, divergence=FORWARD_KL)
    assert all(math.isnan(number) for number in report)


def test_the_command_prints_exact_sums_and_writes_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "new" / "figure.png"
    options = ["--share", "0.2", "--seen", "0.001", "--outside", "0", "--base_rate", "1"]
    assert main(["measurement", *options, "--output", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.replace(f"picture: {path}", "").splitlines())) <= 80
    assert path.read_bytes().startswith(b"\x89PNG")
    world = dropping(0.2, 0.001)
    found = quality(world, WAYS["policy"], 1024, divergence=FORWARD_KL)
    row = next(line for line in out.splitlines() if line.split()[:1] == ["1024"])
    shown = 1 - 0.999**1024
    for number in (f"{found.mean:.3f}", f"{found.coverage:.1%}", f"{shown:.1%}"):
        assert number in row
    assert f"{found.truth:.4g}, exactly" in out
    assert "undefined" not in out


@pytest.mark.slow
def test_undefined_estimates_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    path, options = tmp_path / "a.png", ["--outside", "0.99", "--divergence", "total_variation"]
    assert main(["measurement", *options, "--output", str(path)]) == 0
    out = capsys.readouterr().out
    assert "Without any target mass an estimate is undefined: up to 52.6%." in out
    assert " undefined  " in out  # the median of 64 samples


def test_the_picture_shows_the_truth_and_what_is_reported():
    figure = draw(partial(dropping, 0.28), 2e-4, 256, divergence=TOTAL_VARIATION)
    for axes in figure.axes:
        lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.lines}
        exact = lines["exact"]
        assert np.max(exact) > 0.25
        # Samples of the target report about the truth, those of a policy that dropped do not.
        target = next(lines[label] for label in lines if label.startswith("samples of the target"))
        np.testing.assert_allclose(target, exact, rtol=0.1, atol=0.01)
        blind = next(lines[label] for label in lines if label.startswith("samples of the policy"))
        assert np.min(blind) < 1e-6
    right = figure.axes[1]
    assert right.get_xlim()[0] > right.get_xlim()[1]
    assert any(text.get_text() == "23%" for text in right.texts)  # 1 - 0.999^256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--divergence", "reverse_kl"], "divergence is 'reverse_kl', which is unknown"),
        (["--share", "1.5"], "share 1.5"),
        (["--seen", "0"], "forward_kl is infinite"),
        (["--output", "figure.txt"], "does not end in .png"),
        (["--base_rate", "1"], "with a base rate of 1 nothing is outside"),
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
    assert main(["measurement", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_note_holds_what_the_command_prints(
    note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["measurement", "--output", str(tmp_path / "figure.png")]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    table = "\n".join(line for line in printed if not line.startswith("picture:"))
    assert table in note, "run it again and put the table into the note"


@pytest.mark.parametrize("share", [0.09, 0.14, 0.28])
@pytest.mark.parametrize("divergence", [FORWARD_KL, TOTAL_VARIATION, JENSEN_SHANNON])
def test_the_table_of_the_note(share: float, divergence: FDivergence, note: str):
    titles = {"forward_kl": "KL(p‖π)", "jensen_shannon": "Jensen-Shannon"}
    title = titles.get(divergence.name, "total variation")
    rows = [
        row for row in note.splitlines() if row.startswith(f"| {share:.0%}".replace("%", " % "))
    ]
    rows = [row for row in rows if f"| {title} |" in row]
    if divergence is not FORWARD_KL and share != 0.28:
        assert rows == []
        return
    world, cells = dropping(share, 2e-4, outside=0.05, base_rate=3.7e-3), []
    for way in ("policy", "target"):
        found = quality(world, WAYS[way], 1024, divergence=divergence)
        value, error = median_report(world, WAYS[way], 1024, divergence=divergence)
        cells += [f"{found.truth:.3f}", f"{found.mean:.3f}"] if way == "policy" else []
        cells += [f"{value:.3f} ± {2 * error:.3f}", f"{found.coverage:.1%}".replace("%", " %")]
    assert rows == [f"| {share:.0%} | {title} | ".replace("%", " %") + " | ".join(cells) + " |"]


def test_the_two_policies_of_the_note_are_ranked_the_wrong_way(note: str):
    found = [
        quality(dropping(share, seen), WAYS["policy"], 1024, divergence=FORWARD_KL)
        for share, seen in ((0.1, 1e-3), (0.28, 1e-5))
    ]
    first, second = found
    assert f"KL(p‖π) is {first.truth:.2f} and {second.truth:.2f}." in note
    assert f"mean reports are {first.mean:.2f} and {second.mean:.2f}." in note
