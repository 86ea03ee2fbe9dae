"""Z from a column of the prompts: used as it stands, held against samples, refused by its line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lm_models import make_llama_folder
from support.lm_tiny import enumerate_sequences, tiny_gpt2, tiny_policy

from lm.cli.main import main
from lm.config import (
    EvaluationConfig,
    PartitionConfig,
    PromptsConfig,
    RunConfig,
    TargetConfig,
    resolve,
)
from lm.config.options import to_plain
from lm.errors import RunError
from lm.features import registry
from lm.features.registry import FEATURES, feature
from lm.policy.causal import CausalPolicy
from lm.policy.prompts import Prompts
from lm.target.offline import Offline
from lm.target.partition import Partition, PartitionEstimate, StatedZ, estimate_partition
from lm.target.problem import Problem, build_partition, build_problem, describe_problem
from lm.target.prompt_file import read_prompt_lines, stated_z

LIMIT = 3
PROMPTS = ("2", "3 1", "2 2 3")
BETA = 0.6


@pytest.fixture(autouse=True)
def _own_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "FEATURES", dict(FEATURES))
    _ = feature("twos")(lambda tokens: [float(row.count(2)) for row in tokens])
    _ = feature("three_zeros")(lambda tokens: [float(row == [0, 0, 0]) for row in tokens])


def tilted() -> TargetConfig:
    return TargetConfig(kind="reward_tilted", reward={"twos": 1.0}, beta=BETA)


def rare() -> TargetConfig:
    return TargetConfig(kind="constrained", constraints=("three_zeros",))


@pytest.fixture(scope="module")
def base() -> CausalPolicy:
    return tiny_policy(tiny_gpt2(seed=0, scale=8.0, positions=8), pad_id=1, limit=LIMIT)


@pytest.fixture(scope="module")
def exact(base: CausalPolicy) -> dict[str, list[float]]:
    """Return log Z of each prompt for both targets, summed over all sequences."""
    tokens, mask = enumerate_sequences(eos_ids=(1,), pad_id=1, limit=LIMIT)
    rows = base.vocabulary.encode_prompts(list(PROMPTS))
    contexts = Prompts.from_ids(rows, pad_id=1).repeat(len(tokens))
    with torch.no_grad():
        found = base.log_prob(tokens.repeat(3, 1), mask.repeat(3, 1), prompts=contexts)
    log_base = found.double().reshape(3, -1)
    twos = ((tokens == 2) & mask).sum(-1)
    log_z = torch.logsumexp(log_base + twos / BETA, -1)
    return {
        "tilted": log_z.tolist(),
        "rare": log_base[:, (tokens == 0).all(-1)].logsumexp(-1).tolist(),
    }


def write(path: Path, columns: list[dict[str, Any]]) -> str:
    rows = [{"prompt": text} | row for text, row in zip(PROMPTS, columns, strict=True)]
    _ = path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def problem_of(
    tmp_path: Path, base: CausalPolicy, log_z: list[float], target: TargetConfig, **changes: Any
) -> Problem:
    path = write(tmp_path / "prompts.jsonl", [{"log_z": value, **changes} for value in log_z])
    return build_problem(config_of(path, target), base)


def config_of(path: str, target: TargetConfig, samples: int | None = 3000) -> RunConfig:
    return resolve(
        RunConfig(
            model="tiny",
            prompts=PromptsConfig(file=path),
            target=target,
            partition=PartitionConfig(policy="column", samples=samples),
            divergence="jensen_shannon",
        )
    )


def test_the_column_is_log_z_of_every_prompt(tmp_path, base, exact):
    problem = problem_of(tmp_path, base, exact["tilted"], tilted())
    assert problem.log_z.tolist() == exact["tilted"]
    assert problem.warnings() == []
    batch, seen = torch.zeros(2, 4), torch.tensor([2, 0])
    partition = build_partition(config_of("prompts.jsonl", tilted()), problem)
    found = partition.log_z(batch, batch, contexts=seen).flatten().tolist()
    # The batch is in float32: half a unit in its last place.
    assert found == pytest.approx([exact["tilted"][2], exact["tilted"][0]], rel=6e-8)
    described = describe_problem(problem)
    assert described["log_z_source"] == "column"
    assert described["column"] == {"log_z": exact["tilted"], "errors": None}


@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_a_column_of_another_target_is_told_of(tmp_path, base, exact, shift):
    wrong = [value + shift for value in exact["tilted"]]
    warnings = problem_of(tmp_path, base, wrong, tilted()).warnings()
    assert len(warnings) == 1
    (sentence,) = warnings
    assert "of 3 prompts" in sentence
    ratio = float(sentence.split(" is ")[1].split(" ±")[0])
    # 1,000 samples of each prompt know Z to some 3 %.
    assert ratio == pytest.approx(math.exp(-shift), rel=0.15)
    # A column that says itself how little it knows is not contradicted.
    assert problem_of(tmp_path, base, wrong, tilted(), log_z_error=1.0).warnings() == []


def test_prompts_that_no_sample_meets_have_the_columns_z(tmp_path, base, exact):
    assert max(exact["rare"]) < -2.0
    path = write(tmp_path / "p.jsonl", [{"log_z": value} for value in exact["rare"]])
    # Eight samples of each prompt meet it at some prompts only.
    problem = build_problem(config_of(path, rare(), samples=24), base)
    assert problem.offline is not None
    assert float(problem.offline.estimate.log_z.min()) == -math.inf
    assert problem.log_z.tolist() == exact["rare"]
    assert problem.warnings() == []
    # E_a is that of all prompts, also of those without a hit.
    share = float(problem.offline.estimate.log_z.exp().mean())
    assert float(problem.target.base_moments[0]) == pytest.approx(share, abs=1e-12)
    assert float(problem.target.moments[0]) == pytest.approx(1.0, abs=1e-12)
    # A column that says nearly all pass.
    (sentence,) = problem_of(tmp_path, base, [-0.01] * 3, rare()).warnings()
    assert "times that of the column log_z" in sentence


def against(
    log_z: list[float],
    column: list[float],
    *,
    errors: list[float] | None = None,
    relative: float = 0.01,
    samples: int = 100,
    share: bool = False,
) -> list[str]:
    """Return what estimates of Z with a relative error say of a column."""
    wide = torch.tensor(log_z, dtype=torch.float64)
    found = PartitionEstimate(wide, torch.full_like(wide, relative), wide)
    own = None if errors is None else torch.tensor(errors, dtype=torch.float64)
    stated = StatedZ(torch.tensor(column, dtype=torch.float64), own)
    return Offline(torch.arange(len(log_z)), samples, found).against(stated, share=share)


@pytest.mark.parametrize("nats", [20.0, 400.0, 5000.0])
def test_one_prompt_whose_z_is_far_too_small_is_told_of(nats):
    """Its ratio is most of the mean and of the spread over prompts, and overflows in the end."""
    told = " ".join(against([0.0] * 4, [0.0, 0.0, 0.0, -nats]))
    assert f"of 4 prompts is at least e^{nats - math.log(4):.0f} times" in told
    # Right up to a rare text, or a column that says itself that it may be off by so much.
    assert against([0.0] * 4, [0.0, 0.0, 0.0, -14.0]) == []
    assert against([0.0] * 4, [0.0, 0.0, 0.0, -nats], errors=[0.0, 0.0, 0.0, nats / 4]) == []


def test_a_share_that_the_column_calls_rare_is_told_of():
    # 50 of 100 passed where the column expects 0.25; 4 of 100 have no law of errors.
    told = " ".join(against([math.log(0.5)], [-6.0], relative=0.1, share=True))
    assert " is 202 ± 20 times" in told
    assert against([math.log(0.04)], [-6.0], relative=0.5, share=True) == []


def test_a_few_samples_contradict_nothing():
    """Two samples that agree by chance: their spread is no error of their mean."""
    log_weights = torch.log(torch.tensor([[1.0, 1.01]], dtype=torch.float64))
    found = Offline(torch.tensor([0]), 2, estimate_partition(log_weights, 0 * log_weights))
    column = StatedZ(torch.tensor([math.log(1.5)], dtype=torch.float64), None)
    assert found.against(column, share=False) == []
    assert len(found._replace(samples=25).against(column, share=False)) == 1


def test_an_estimated_column_may_be_off_by_its_own_bias():
    """1/Z of a column that is an estimate is too large by the square of its relative error."""
    places = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    # Of a Zhat without bias that is lognormal: E[1/Zhat] = e^(0.3^2) / Z, 9 % too much.
    column = (0.3 * math.sqrt(2) * torch.erfinv(2 * places - 1) - 0.3**2 / 2).tolist()
    right = [0.0] * len(column)
    assert float(torch.exp(-torch.tensor(column)).mean()) == pytest.approx(1.09, abs=0.01)
    assert against(right, column, errors=[0.3] * len(column)) == []
    assert len(against(right, [z - 0.1 for z in column], errors=[0.3] * len(column))) == 1


def test_one_round_of_samples_is_enough_where_z_is_stated(tmp_path, base, exact):
    path = write(tmp_path / "p.jsonl", [{"log_z": value} for value in exact["tilted"]])
    problem = build_problem(config_of(path, tilted(), samples=None), base)
    assert problem.offline is not None
    assert problem.offline.samples == 85


LINE = "line 2"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({}, f"{LINE} has no log_z, which partition.policy column needs for every prompt"),
        ({"log_z": None}, f"{LINE} has no log_z"),
        ({"log_z": math.nan}, f"{LINE} has log_z nan: it must be a finite number"),
        ({"log_z": math.inf}, f"{LINE} has log_z inf: it must be a finite number"),
        ({"log_z": -math.inf}, f"{LINE} has log_z -inf: the prompt has no target mass"),
        ({"log_z": 10**400}, f"{LINE} has log_z 10000*: it must be a finite number"),
        ({"log_z": "-1"}, f"{LINE} has log_z '-1': it must be"),
        ({"log_z": True}, f"{LINE} has log_z True: it must be"),
        ({"log_z": [-1.0]}, f"{LINE} has log_z \\[-1.0\\]: it must be"),
        ({"log_z": 0.25}, f"{LINE} has log_z 0.25: of a constraint"),
        ({"log_z": -1.0, "log_z_error": 0.1}, "line 1 has no log_z_error"),
    ],
)
def test_what_is_no_log_z_is_refused_by_its_line(tmp_path, second, message):
    path = write(tmp_path / "p.jsonl", [{"log_z": -1.0}, second, {"log_z": -1}])
    with pytest.raises(RunError, match=message):
        _ = stated_z(path, read_prompt_lines(path), most=0.0)


def test_a_negative_error_and_a_missing_column_are_refused(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"log_z": -1.0, "log_z_error": -0.1}] * 3)
    with pytest.raises(RunError, match="line 1 has a negative log_z_error"):
        _ = stated_z(path, read_prompt_lines(path))
    path = write(tmp_path / "p.jsonl", [{"pass_rate": 0.5}] * 3)
    with pytest.raises(RunError, match=r"does not have \(it has pass_rate\): python -m lm part"):
        _ = stated_z(path, read_prompt_lines(path))
    path = write(tmp_path / "p.jsonl", [{"log_z": 0.25}] * 3)
    assert stated_z(path, read_prompt_lines(path)).log_z.tolist() == [0.25] * 3


def test_a_column_needs_a_file_and_a_target_that_has_a_z():
    column = PartitionConfig(policy="column")
    with pytest.raises(ValueError, match=r"a column of prompts\.file, but there is none"):
        _ = RunConfig(model="m", target=tilted(), partition=column)
    teacher = TargetConfig(kind="teacher", teacher="m")
    prompts = PromptsConfig(file="prompts.jsonl")
    with pytest.raises(ValueError, match="but this target has Z = 1"):
        _ = RunConfig(model="m", prompts=prompts, target=teacher, partition=column)


def test_a_run_does_not_go_on_with_another_column():
    saved = Partition("column", torch.tensor([-1.0, -2.0]), torch.full((2,), math.inf))
    saved.load_state_tensors(saved.state_tensors())
    changed = Partition("column", torch.tensor([-1.0, -2.5]), torch.full((2,), math.inf))
    with pytest.raises(RunError, match="the column log_z of the prompts has changed since"):
        changed.load_state_tensors(saved.state_tensors())


@pytest.mark.slow
def test_a_run_takes_what_lm_partition_writes(tmp_path, capsys):
    model = str(make_llama_folder(tmp_path / "model"))
    prompts, stated = tmp_path / "prompts.jsonl", tmp_path / "stated.jsonl"
    _ = prompts.write_text('{"text": "the cat"}\n{"text": "a"}\n')
    words = ["partition", model, str(prompts), str(stated), "--column", "text", "--samples", "64"]
    target = ["--reward", "characters=0.1", "--beta", "1"]
    assert main([*words, *target, "--max-new-tokens", "3"]) == 0
    rows = [json.loads(line) for line in stated.read_text().splitlines()]

    output = tmp_path / "run"
    config = resolve(
        RunConfig(
            model=model,
            output=str(output),
            prompts=PromptsConfig(file=str(stated), column="text", per_step=2),
            target=TargetConfig(kind="reward_tilted", reward={"characters": 0.1}, beta=1.0),
            partition=PartitionConfig(policy="column"),
            max_new_tokens=3,
            steps=2,
            batch_size=8,
            evaluation=EvaluationConfig(samples=16, group=4, texts=2, target_samples=0),
            device="cpu",
            report=False,
        )
    )
    recipe = tmp_path / "recipe.yaml"
    _ = recipe.write_text(json.dumps(to_plain(config)))
    assert main(["train", str(recipe)]) == 0
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    used = [record["log_z"] for record in records if record["kind"] == "step"]
    mean = sum(row["log_z"] for row in rows) / 2
    # log Z is cast to the float32 of the scores.
    assert used == pytest.approx([mean] * 2, rel=1e-6)
    assert json.loads((output / "status.json").read_text())["verdict"] == "biased"

    # Without the column: a sentence, exit 2, and nothing is left.
    _ = capsys.readouterr()
    other = ["--output", str(tmp_path / "other"), "--prompts.file", str(prompts)]
    assert main(["train", str(recipe), *other]) == 2
    assert (
        "does not have (it has none): python -m lm partition writes it" in capsys.readouterr().err
    )
    assert not list(tmp_path.glob("*other*"))
