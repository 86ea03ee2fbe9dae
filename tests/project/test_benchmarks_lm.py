"""The benchmarks of lm run, at a tiny size, and say what they say they say."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import _contenders, lm_floor, lm_speed, lm_step
from benchmarks._laps import Lap, Laps, summary
from benchmarks._results import write_results
from benchmarks.lm_floor import Size

TINY = Size(layers=2, width=8, heads=2, vocabulary=11, length=3, samples=6)
BENCHMARKS = Path(lm_floor.__file__).parent


def test_the_floor_is_small_and_knows_neither_lm_nor_the_core() -> None:
    source = (BENCHMARKS / "lm_floor.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [*[alias.name for alias in node.names], getattr(node, "module", None) or ""]
    }
    assert not imported & {"lm", "fdpg_ref", "transformers"}


def test_the_floor_samples_from_the_distribution_that_it_scores() -> None:
    size = TINY._replace(vocabulary=3, length=2, samples=20_000)
    _ = torch.manual_seed(0)
    model = lm_floor.Model(size)
    for weights in model.parameters():
        _ = weights.detach().mul_(3.0)
    tokens = lm_floor.sample(model, size)
    codes, counts = torch.unique(tokens[:, 1] * 3 + tokens[:, 2], return_counts=True)
    every = torch.tensor([[0, int(code) // 3, int(code) % 3] for code in codes])
    expected = lm_floor.score(model, every).detach().exp()
    assert len(codes) > 3
    error = (expected * (1 - expected) / size.samples).sqrt()
    # Nine outcomes at a fixed seed: |z| > 4.5 has probability 6e-5.
    assert float(((counts / size.samples - expected) / error).abs().max()) < 4.5


def test_the_floor_counts_the_products_of_five_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    # At a clock that advances by one second a reading, each large product takes one second.
    ticks = iter(range(10**6))
    monkeypatch.setattr(lm_floor.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(torch, "mm", lambda a, b: a)
    size = Size(layers=1, width=2, heads=1, vocabulary=5, length=3, samples=7)
    # By hand: 12 w^2 + 2 w (1 + 2 + 3) / 3 of attention for a position on average, and w V.
    multiplications = (12 * 4 + 2 * 2 * 2 + 2 * 5) * 3 * 7
    assert lm_floor.matmul_seconds(size) == pytest.approx(5 * multiplications / 2048**3)


def test_the_engine_is_timed_step_by_step() -> None:
    from lm.policy.causal import CausalPolicy

    before = CausalPolicy.score
    laps = Laps(3)
    _contenders.run_engine(TINY, laps)
    result = summary(laps.made, warm_up=1)
    assert set(result) >= {"seconds_per_step", "phases", "cpu_over_wall", "peak_rss_mb"}
    assert set(result["phases"]) == {"sample", "read", "base", "policy", "backward", "optimise"}
    assert all(0 < seconds < result["seconds_per_step"] for seconds in result["phases"].values())
    assert len(laps.made) == 3
    assert CausalPolicy.score is before


def test_the_floor_is_timed_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_floor, "matmul_seconds", lambda size: 0.125)
    laps = Laps(2)
    _contenders.run_floor(TINY, laps)
    assert all(lap.seconds > 0 and lap.phases["products"] == 0.125 for lap in laps.made)


@pytest.mark.slow  # importing TRL alone takes ten seconds
@pytest.mark.filterwarnings("ignore")  # of libraries that TRL imports
@pytest.mark.parametrize("trainer", ["TRL GRPO", "TRL RLOO"])
def test_trl_is_timed_step_by_step(trainer: str) -> None:
    _ = pytest.importorskip("trl", reason="TRL is an extra: pip install -e '.[bench]'")
    laps = Laps(2)
    _contenders.CONTENDERS[trainer](TINY, laps)
    assert all(lap.seconds > 0 for lap in laps.made)
    assert len(laps.made) == 2


def test_contenders_take_turns(tmp_path: Path) -> None:
    script = tmp_path / "contender.py"
    _ = script.write_text(
        f"import sys; sys.path.insert(0, {str(BENCHMARKS.parent)!r})\n"
        "from benchmarks._laps import Finished, Laps\n"
        "laps = Laps(5, turns=True)\n"
        "try:\n"
        "    laps.start()\n"
        "    while True:\n"
        "        print('noise')\n"
        "        laps.lap({'work': 0.5})\n"
        "except Finished:\n"
        "    pass\n",
        encoding="utf-8",
    )
    with lm_speed.Contender("one", [str(script)]) as one:
        assert [one.turn().phases for _ in range(2)] == [{"work": 0.5}] * 2
    _ = script.write_text("raise SystemExit('no such model')", encoding="utf-8")
    failing = lm_speed.Contender("two", [str(script)])
    with failing as two, pytest.raises(RuntimeError, match="no such model"):
        _ = two.turn()


def lap(seconds: float) -> Lap:
    return Lap(seconds, seconds, {"products": 0.4}, 1.0, seconds)


def result_of(**seconds: float) -> dict[str, Any]:
    laps = {name.replace("_", " "): [lap(value)] * 3 for name, value in seconds.items()}
    return {"size": "S", "ratios": lm_speed._ratios(laps)}


def test_the_bounds_of_the_speed_are_those_of_the_issue() -> None:
    good = result_of(floor=1.0, engine=1.1, TRL_GRPO=1.6, TRL_RLOO=1.8)
    assert lm_speed.broken_bounds(good) == []
    slow = result_of(floor=1.2, engine=1.4, TRL_GRPO=1.7, TRL_RLOO=2.5)
    assert [
        sentence.split(":")[1].split(" is ")[0].strip() for sentence in lm_speed.broken_bounds(slow)
    ] == [
        "engine / floor",  # 1.17 > 1.15
        "floor / products",  # 3.0 > 2.8
        "faster TRL / engine",  # 1.21 < 1.37
    ]


def test_a_measurement_replaces_no_file_of_somebody_else(tmp_path, capsys) -> None:
    mine = tmp_path / "mine.json"
    # Another contender than there is, so that nothing is measured where it is accepted.
    ours = '{"contender": 1, "size": 1, "threads": 1}'
    for content, said in (('{"size": 1}', "is not replaced"), (ours, "no contender 'none'")):
        _ = mine.write_text(content, encoding="utf-8")
        with pytest.raises(SystemExit, match="2"):
            _ = lm_step.main(["--json", str(mine), "--contender", "none"])
        assert said in capsys.readouterr().err
        assert mine.read_text("utf-8") == content


def test_results_replace_those_of_the_same_name(tmp_path) -> None:
    for page in ("before\n", "after\n"):
        write_results(tmp_path, "speed", {"page": page}, page)
        assert {path.name for path in tmp_path.iterdir()} == {"speed.json", "speed.md"}
        assert (tmp_path / "speed.md").read_text("utf-8") == page
