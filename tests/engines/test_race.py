"""benchmarks/race.py runs at a tiny size with TRL, goes on where it stopped, and adds up right."""

from __future__ import annotations

import json
import math
from pathlib import Path
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


def test_the_page_says_what_became_of_the_goal():
    def lines(first: str, second: str) -> list[str]:
        # A tenth after 1, 2 or 3 seconds of CPU, or never.
        curves = {"1": curve(1.0, 0.1), "2": curve(1.0, 1.0, 0.1), "-": curve(1.0, 0.6)}
        record = {
            "curves": {
                "lm": [curves["1"], curves["1"]],
                "FDPGTrainer": [curves["1"], curves["1"]],
                "TRL RLOO": [curves[first], curves[second]],
            },
            "seeds": {"race": [0, 1]},
        }
        return [*race._against_lm(record), *race._goal(record)]

    never = "Against TRL RLOO there is no ratio: lm got to a tenth on 2 of 2 seeds, TRL RLOO on 0."
    assert lines("-", "-")[-1] == never
    assert lines("2", "2")[-1] == "Against TRL RLOO it is met: 2 times."
    assert lines("1", "1")[-1] == "Against TRL RLOO it is not met: 1 times."
    one = lines("2", "-")
    said = "- TRL RLOO, to a tenth: 2 times; 1 seed(s) on which one of both did not"
    assert said in one
    assert "- TRL RLOO, to half: no seed on which both got there" not in one


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_tiny_race(tmp_path: Path, capsys, monkeypatch):
    pytest.importorskip("trl", reason="TRL is an extra: make engines")
    # The base is cached below the folder of the process; runs are made in this one.
    monkeypatch.chdir(tmp_path)

    monkeypatch.setattr(race, "make_run", lambda path: _race_run.main([str(path)]) == 0)
    trainers, original = [], _race_run._trainer

    def kept(*arguments: Any) -> Any:
        trainers.append(original(*arguments))
        return trainers[-1]

    monkeypatch.setattr(_race_run, "_trainer", kept)
    tiny = '{"layers": 1, "width": 16, "heads": 2, "steps": 200, "batch_size": 128}'
    sizes = ["--steps", "2", "--every", "1", "--batch-size", "64", "--samples", "64"]
    options = [*sizes, "--rates", "1e-2", "--pilots", "9", "--base", tiny, "--results", "results"]
    assert race.main([*options, "--seeds", "9"]) == 0
    out = capsys.readouterr().out
    # The race's seed is the pilot's here: each run is made once.
    made = [line for line in out.splitlines() if line.endswith("rate 0.01, seed 9")]
    assert [line.split(",")[0] for line in made] == list(CONTENDERS)

    # TRL's default computes each forward twice, which lm does not.
    assert len(trainers) == 3
    assert not any(trainer.model.is_gradient_checkpointing for trainer in trainers)

    # The record, with machine and versions; all start at the same law.
    record = json.loads((tmp_path / "results" / "race_names.json").read_text(encoding="utf-8"))
    assert "trl 1." in record["machine"]
    starts = [record["curves"][name][0][0] for name in CONTENDERS]
    assert all(start["kl"] == pytest.approx(starts[0]["kl"], rel=1e-5) for start in starts)
    for name in CONTENDERS:
        points = record["curves"][name][0]
        assert [point["samples"] for point in points] == [0, 64, 128]
        assert 0 < points[1]["cpu"] < points[2]["cpu"]
        assert points[2]["kl"] != points[0]["kl"], name
    assert (tmp_path / "results" / "race_names.png").stat().st_size > 5000

    # Nothing is made again, and another setting is no continuation.
    assert race.main([*options, "--seeds", "9"]) == 0
    assert "seed 9\n" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="is of other settings"):
        _ = race.main([*options, "--seeds", "9", "--threads", "2"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_code_has_one_log_z_of_many_samples(tmp_path: Path, monkeypatch):
    pytest.importorskip("trl", reason="TRL is an extra: make engines")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_race_run, "DRAWS", 4096)
    base = {"size": "1x16", "characters": 60, "max_new_tokens": 32, "steps": 30}
    tiny = {"task": "code", "base": base, "batch_size": 32, "samples": 2048, "steps": 1, "every": 1}
    contest = race.Race(tmp_path / "runs", print, **tiny)
    monkeypatch.setattr(race, "make_run", lambda path: _race_run.main([str(path)]) == 0)
    curves = {name: contest.curve(name, 1e-3, 0) for name in ("lm", "TRL RLOO")}

    # Z is 1 + q (e^(1/beta) - 1) where a share q of samples has the reward, and of the base KL is
    # log Z - q / beta.
    found = json.loads((tmp_path / "runs" / "log_z.json").read_text(encoding="utf-8"))
    price = 1.0 / _race_run.TASKS["code"].beta
    share = math.expm1(found["log_z"]) / math.expm1(price)
    assert found["samples"] == 4096
    # A share's law, up to n - 1 for n.
    error = math.sqrt((1 - share) / share / 4096)
    assert found["error"] == pytest.approx(error, rel=1e-3)
    for name, (start, end) in curves.items():
        measured = (found["log_z"] - start["kl"]) / price
        # Five standard errors of both numbers of samples.
        five = 5 * math.sqrt(share * (1 / 2048 + 1 / 4096))
        assert measured == pytest.approx(share, abs=five), name
        assert end["kl"] != start["kl"], name
    assert curves["lm"][0]["kl"] == pytest.approx(curves["TRL RLOO"][0]["kl"], rel=1e-5)


@pytest.mark.slow
def test_a_run_that_dies_is_named_with_its_last_words(tmp_path: Path, monkeypatch):
    # It dies before it needs any of TRL, whose import takes seconds.
    monkeypatch.setattr(race, "PRELOADED", ("benchmarks._race_run",))
    contest = race.Race(tmp_path, print, task="names", base={"layers": 0})
    with pytest.raises(RuntimeError, match=r"(?s)lm has died:.*layers must be at least 1, got 0"):
        _ = contest.curve("lm", 1e-3, 0)
