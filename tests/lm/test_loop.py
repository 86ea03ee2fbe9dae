"""The loop's options: each changes what it says and nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lm_runs import SMALL, lines, tiny_config, tiny_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lm.train
from lm.config import (
    BaselineConfig,
    LoraConfig,
    OptimizerConfig,
    PartitionConfig,
    PromptsConfig,
    ProposalConfig,
    RunConfig,
    SamplingConfig,
    TargetConfig,
)
from lm.errors import RunError
from lm.policy import CausalPolicy, load_policy
from lm.run.trackers import scalars
from lm.train import train

SELDOM = replace(SMALL, every=100)
LETTERS = TargetConfig(kind="reward_tilted", reward={"letters": 1.0}, beta=2.0)
# Roundings of float64 in sums of a hundred terms, grown over three steps of Adam, whose first steps
# divide gradients by their own size.
SAME = 1e-8


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Leave out pictures and report, which test_lm_report looks at and which take most time."""
    monkeypatch.setattr(lm.train, "finish_run", lambda _: None)


def _config(output: Path, **changes: Any) -> RunConfig:
    given = {"steps": 3, "precision": "float64", "evaluation": SELDOM}
    return tiny_config(output, **(given | changes))


def _steps(folder: Path) -> list[dict[str, Any]]:
    return lines(folder, "step")


def _weights(folder: Path) -> torch.Tensor:
    parameters = load_policy(folder / "policy").model.parameters()
    return torch.cat([parameter.flatten() for parameter in parameters])


def _assert_same(one: Path, other: Path, *, but: tuple[str, ...] = ()) -> None:
    for here, there in zip(_steps(one), _steps(other), strict=True):
        for name, value in here.items():
            if name not in {"kind", *but}:
                same = value if value is None else pytest.approx(value, rel=SAME, abs=SAME)
                assert there[name] == same, name
    torch.testing.assert_close(_weights(one), _weights(other), rtol=0, atol=SAME)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Return a run of three steps in float64, without any option."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm.train, "finish_run", lambda _: None)
        return train(_config(tmp_path_factory.mktemp("plain") / "run"))


@pytest.mark.parametrize(
    "options",
    [
        {"micro_batch_size": 12},
        {"activation_checkpointing": True, "micro_batch_size": 16},
        {"score_chunk": 7},
    ],
    ids="-".join,
)
def test_an_option_of_memory_or_speed_changes_no_number(plain, tmp_path, options):
    folder = train(_config(tmp_path / "run", **options))
    # In several micro-batches the two halves of the batch are no graph to be differentiated.
    _assert_same(plain, folder, but=("gradient_signal_to_noise",))
    noise = [step["gradient_signal_to_noise"] for step in _steps(folder)]
    assert (noise[0] is None) == ("micro_batch_size" in options)


def test_a_base_can_be_passed_and_is_left_alone(plain, tmp_path):
    base = load_policy(tiny_model())
    before = [parameter.clone() for parameter in base.model.parameters()]
    folder = train(_config(tmp_path / "run", model=None), base=base)
    _assert_same(plain, folder)
    assert all(torch.equal(*pair) for pair in zip(before, base.model.parameters(), strict=True))
    assert base.model.dtype == torch.float32
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model"] == "(passed as train(base=...))"
    with pytest.raises(RunError, match="are two bases"):
        _ = train(_config(tmp_path / "other"), base=base)
    with pytest.raises(RunError, match="max_new_tokens is 3, but the base that is passed has"):
        _ = train(_config(tmp_path / "other", model=None, max_new_tokens=3), base=base)


def test_float64_trains_and_saves_weights_in_float64(plain):
    assert _weights(plain).dtype == torch.float64


def test_no_scoring_of_a_step_holds_more_than_a_micro_batch(tmp_path, monkeypatch):
    rows, score, steps = [], CausalPolicy.score, lm.train.train_steps

    def spied(self, samples, **options):
        rows.append(len(samples.tokens))
        return score(self, samples, **options)

    def only_steps(session):
        # Saved folders are scored before and after, eight samples each.
        with monkeypatch.context() as within:
            within.setattr(CausalPolicy, "score", spied)
            steps(session)

    monkeypatch.setattr(lm.train, "train_steps", only_steps)
    unaided = replace(SELDOM, target_samples=0)
    _ = train(_config(tmp_path / "run", steps=1, micro_batch_size=8, evaluation=unaided))
    # The base's four parts of the 32 samples, the policy's, and the policy's with their graphs; the
    # evaluations have batches of their own, and score their longest row alone.
    assert [n for n in rows if n not in {1, SELDOM.samples}] == [8] * 12


def test_several_updates_weigh_the_samples_by_what_the_policy_became(tmp_path, monkeypatch):
    weights = []
    original = lm.train.score_coefficients

    def spied(signal, *, log_weights, **options):
        weights.append(log_weights)
        return original(signal, log_weights=log_weights, **options)

    monkeypatch.setattr(lm.train, "score_coefficients", spied)
    slow = OptimizerConfig(lr=1e-4)
    folder = train(_config(tmp_path / "run", updates_per_batch=3, steps=2, optimizer=slow))
    assert len(weights) == 6
    for first, second, third in (weights[:3], weights[3:]):
        assert torch.equal(first, torch.zeros_like(first))
        assert 0 < float(second.abs().max()) < float(third.abs().max()) < 1
    for step, last in zip(_steps(folder), (weights[2], weights[5]), strict=True):
        w = last.exp().flatten()
        assert step["weight_mean"] == pytest.approx(float(w.mean()), rel=1e-12)
        ess = float(w.sum() ** 2 / (w**2).sum()) / len(w)
        assert step["weight_ess_share"] == pytest.approx(ess, rel=1e-12)
        assert step["weight_largest_share"] == pytest.approx(float(w.max() / w.sum()), rel=1e-12)
        assert step["learning_rate"] == 1e-4
    assert [step["samples"] for step in _steps(folder)] == [32, 64]


def test_the_first_of_several_updates_is_the_on_policy_one(plain, tmp_path, monkeypatch):
    seen = []
    original = lm.train.describe_gradient

    def spied(norm, *arguments, **options):
        seen.append(float(norm))
        return original(norm, *arguments, **options)

    monkeypatch.setattr(lm.train, "describe_gradient", spied)
    _ = train(_config(tmp_path / "run", updates_per_batch=2, steps=1))
    assert seen[0] == pytest.approx(_steps(plain)[0]["gradient_norm"], rel=SAME)
    assert seen[1] != seen[0]


def test_a_kl_adaptive_run_logs_its_gain_and_draws_from_the_copy(tmp_path):
    config = _config(
        tmp_path / "run",
        proposal=ProposalConfig("kl_adaptive", every=2),
        target=LETTERS,
        batch_size=256,
        steps=6,
        optimizer=OptimizerConfig(lr=1e-4),
    )
    steps = _steps(train(config))
    assert ["proposal_gain" in step for step in steps] == [False, True] * 3
    compared = steps[1::2]
    assert all(step["proposal_renewed"] == (step["proposal_gain"] > 0) for step in compared)
    # Descending toward the target, the policy soon is the better proposal.
    assert any(step["proposal_renewed"] for step in compared)
    # At the first step the copy is the policy; then the weights are not one until it is renewed.
    assert steps[0]["weight_ess_share"] == pytest.approx(1.0, abs=1e-12)
    assert 0.5 < steps[1]["weight_ess_share"] < 1.0 - 1e-6


@pytest.mark.parametrize(
    ("transform", "off_policy"),
    [
        (SamplingConfig(temperature=0.8), False),
        (SamplingConfig(top_k=6), False),
        (SamplingConfig(top_p=0.9), True),
    ],
)
def test_a_sampling_transform_is_part_of_the_policy_or_of_the_proposal(
    tmp_path, transform, off_policy
):
    config = _config(
        tmp_path / "run",
        sampling=transform,
        off_policy=off_policy,
        target=LETTERS,
        divergence="jensen_shannon",
    )
    folder = train(config)
    first = _steps(folder)[0]
    assert ("weight_mean" in first) == off_policy
    assert ("kept_mass" in first) == transform.truncates
    if transform.truncates:
        assert 0.5 < first["kept_mass"] < 1.0
    if off_policy:
        # Within the kept set pi < q: every weight is the kept mass of its sequence, below one.
        assert first["weight_mean"] < 1.0
    start = lines(folder, "evaluation")[0]["estimates"]["kl_policy_base"]["rao_blackwell"]
    assert abs(start["value"]) < 1e-9


def _prompt_file(folder: Path) -> Path:
    path = folder / "prompts.txt"
    _ = path.write_text("a\nma\njo\nel\n\nka\n", encoding="utf-8")
    return path


def test_prompts_are_trained_on_with_a_z_of_their_own(tmp_path):
    path = _prompt_file(tmp_path)
    config = _config(
        tmp_path / "run",
        target=LETTERS,
        prompts=PromptsConfig(str(path), per_step=2),
        max_new_tokens=8,
        partition=PartitionConfig(policy="past_only", samples=1000),
        steps=4,
    )
    folder = train(config)
    steps = _steps(folder)
    # Each prompt has another Z, so that the mean over a step's two moves with the prompts.
    assert len({round(step["log_z"], 6) for step in steps}) == 4
    small = train(replace(config, output=str(tmp_path / "small"), micro_batch_size=5))
    _assert_same(folder, small, but=("gradient_signal_to_noise",))
    with pytest.raises(RunError, match=r"per_step is 8, but there are only 5 prompts"):
        _ = train(
            replace(
                config, output=str(tmp_path / "many"), prompts=PromptsConfig(str(path), per_step=8)
            )
        )


def test_one_sample_of_each_prompt_is_enough_without_peers(tmp_path):
    config = _config(
        tmp_path / "run",
        target=LETTERS,
        prompts=PromptsConfig(str(_prompt_file(tmp_path)), per_step=5),
        max_new_tokens=8,
        batch_size=5,
        baseline=BaselineConfig(kind="running"),
        steps=2,
    )
    steps = _steps(train(config))
    assert [step["batch_log_z_error"] for step in steps] == [None, None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "cannot be read"),
        ("empty.txt", "\n \n", "holds no prompt"),
        ("twice.txt", "a\nb\na\n", "holds 'a' twice"),
        ("bad.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "line 2 has no text under the key"),
        ("bad.jsonl", '{"prompt": "a"\n', "line 1 is not valid JSON"),
    ],
)
def test_unusable_prompts_stop_the_run_before_it_begins(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        _ = path.write_text(content, encoding="utf-8")
    config = _config(tmp_path / "run", target=LETTERS, prompts=PromptsConfig(str(path)))
    with pytest.raises(RunError, match=message):
        _ = train(config)
    assert not any(tmp_path.glob("*run*"))


def test_an_adapter_is_trained_and_its_base_is_the_model_without_it(tmp_path):
    config = _config(tmp_path / "run", lora=LoraConfig(rank=2), divergence="reverse_kl")
    folder = train(config)
    evaluations = lines(folder, "evaluation")
    start = evaluations[0]["estimates"]["kl_policy_base"]["rao_blackwell"]["value"]
    moved = evaluations[-1]["estimates"]["kl_policy_base"]["rao_blackwell"]["value"]
    assert abs(start) < 1e-12
    assert moved > 1e-6
    # Saved with the adapter in its weights, as a plain model.
    base = torch.cat([p.flatten() for p in load_policy(tiny_model()).model.parameters()])
    assert 0 < float((_weights(folder) - base).abs().max()) < 0.1


def test_float16_trains_on_a_cpu_by_its_scaler(tmp_path):
    config = tiny_config(
        tmp_path / "run", precision="float16", steps=3, evaluation=SELDOM, batch_size=128
    )
    steps = _steps(train(config))
    taken = [step for step in steps if not step["skipped"]]
    assert taken
    # An overflow halves the scale; 2000 steps without one would double it.
    assert steps[0]["loss_scale"] == 65536
    for before, after in pairwise(steps):
        assert after["loss_scale"] == before["loss_scale"] / (2 if before["skipped"] else 1)
    for step in steps:
        assert (step["gradient_norm"] is None) == step["skipped"]
    reference = _steps(train(replace(config, output=str(tmp_path / "32"), precision="float32")))
    # float16 logits carry 5e-4 of their size; in a norm over 128 samples that is a few percent.
    assert not steps[0]["skipped"]
    assert steps[0]["gradient_norm"] == pytest.approx(reference[0]["gradient_norm"], rel=0.1)


def test_an_overflow_skips_the_update_and_halves_the_scale(tmp_path, monkeypatch):
    original = lm.train.surrogate_loss
    calls = []

    def overflowing(log_policy, coefficients):
        calls.append(1)
        return original(log_policy, coefficients) * (1e36 if len(calls) == 1 else 1.0)

    monkeypatch.setattr(lm.train, "surrogate_loss", overflowing)
    config = tiny_config(tmp_path / "run", precision="float16", steps=2, evaluation=SELDOM)
    first, second = _steps(train(config))
    assert first["skipped"]
    assert second["loss_scale"] == first["loss_scale"] / 2


def test_tensorboard_shows_the_records(tmp_path):
    folder = train(_config(tmp_path / "run", tracker="tensorboard", evaluation=SMALL))
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    shown = {
        (name, event.step): event.value
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    }
    written = {
        (name, record["step"]): value
        for record in lines(folder)
        for name, value in scalars(record).items()
    }
    assert shown.keys() == written.keys()
    assert len(written) > 50
    for key, value in written.items():
        # TensorBoard stores float32.
        assert shown[key] == pytest.approx(value, rel=1e-6, abs=1e-30) or math.isinf(value), key
    assert ("step/gradient_norm", 1) in written
    assert ("forward_kl/sampled_error", 0) in written


def test_without_a_tracker_there_is_no_event_file(plain):
    assert not (plain / "tensorboard").exists()
