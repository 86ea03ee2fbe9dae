"""benchmarks/race.py runs at a tiny size with TRL, goes on where it stopped, and adds up right."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import _race_run, race
from benchmarks._race_run import CONTENDERS


def curve(*values: float) -> race.Curve:
    return [
        {"kl": kl, "samples": 10.0 * i, "cpu": float(i), "wall": 2.0 * i}
        for i, kl in enumerate(values)
    ]


def test_costs_are_interpolated_between_measurements():
    found = curve(1.0, 0.8, 0.4, 0.05)
    # Half lies three quarters of the way from 0.8 to 0.4, a tenth six sevenths from 0.4 to 0.05.
    assert race.cost_to(found, 0.5, "samples") == pytest.approx(17.5)
    assert race.cost_to(found, 0.1, "cpu") == pytest.approx(2 + 6 / 7)
    assert race.cost_to(found, 0.1, "wall") == pytest.approx(4 + 12 / 7)
    assert race.cost_to(curve(1.0, 0.8), 0.5, "cpu") == math.inf


def test_the_best_rate_gets_there_first_or_else_nearest():
    fast, slow, never = curve(1.0, 0.05), curve(1.0, 0.6, 0.05), curve(1.0, 0.7, 0.3)
    assert race.best_rate({1.0: [slow, slow], 2.0: [fast, fast], 3.0: [never, never]}) == 2.0
    # One pilot of two that never gets there: no median.
    assert race.best_rate({1.0: [slow, slow], 2.0: [fast, never]}) == 1.0
    assert race.best_rate({1.0: [curve(1.0, 0.9)], 2.0: [never]}) == 2.0


def test_ratios_are_taken_on_the_same_seed():
    ours = [curve(1.0, 0.05), curve(1.0, 0.6, 0.05), curve(1.0, 0.05)]
    other = [curve(1.0, 0.6, 0.05), curve(1.0, 0.6, 0.05), curve(1.0, 0.9)]
    found = race.ratios({"curves": {"lm": ours, "TRL": other}}, 0.5, "samples")
    assert found["lm"] == [1.0, 1.0, 1.0]
    lap, both = 10 * 0.5 / 0.95, 10 + 10 * 0.1 / 0.55
    assert found["TRL"] == pytest.approx([both / lap, 1.0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_tiny_race(tmp_path: Path, capsys, monkeypatch):
    pytest.importorskip("trl", reason="TRL is an extra: make engines")
    # The base is cached below the folder of the process; runs are made in this one.
    monkeypatch.chdir(tmp_path)

    def here(command: list[str], **_: Any) -> Any:
        assert command[1:3] == ["-m", "benchmarks._race_run"]
        return SimpleNamespace(returncode=_race_run.main(command[3:]), stderr="")

    monkeypatch.setattr(race.subprocess, "run", here)
    tiny = '{"layers": 1, "width": 16, "heads": 2, "steps": 200, "batch_size": 128}'
    sizes = ["--steps", "2", "--every", "1", "--batch-size", "64", "--samples", "64"]
    options = [*sizes, "--rates", "1e-2", "--pilots", "9", "--base", tiny, "--results", "results"]
    assert race.main([*options, "--seeds", "9"]) == 0
    out = capsys.readouterr().out
    # The race's seed is the pilot's here: each run is made once.
    made = [line for line in out.splitlines() if line.endswith("rate 0.01, seed 9")]
    assert [line.split(",")[0] for line in made] == list(CONTENDERS)

    # The record, with machine and versions; all start at the same law.
    record = json.loads((tmp_path / "results" / "race.json").read_text(encoding="utf-8"))
    assert "trl 1." in record["machine"]
    starts = [record["curves"][name][0][0] for name in CONTENDERS]
    assert all(start["kl"] == pytest.approx(starts[0]["kl"], rel=1e-5) for start in starts)
    for name in CONTENDERS:
        points = record["curves"][name][0]
        assert [point["samples"] for point in points] == [0, 64, 128]
        assert 0 < points[1]["cpu"] < points[2]["cpu"]
        assert points[2]["kl"] != points[0]["kl"], name
    assert (tmp_path / "results" / "race.png").stat().st_size > 5000

    # Nothing is made again, and another setting is no continuation.
    assert race.main([*options, "--seeds", "9"]) == 0
    assert "seed 9\n" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="is of other settings"):
        _ = race.main([*options, "--seeds", "9", "--threads", "2"])
