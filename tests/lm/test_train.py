"""The training loop: what it calls, what it promises, and what stops it."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.lm_runs import SMALL, finished_run, lines, tiny_config

import lm.train
from lm.config import BaselineConfig, OptimizerConfig, PartitionConfig, TargetConfig
from lm.errors import RunError
from lm.features.registry import FEATURES, Feature
from lm.policy import CausalPolicy, load_policy
from lm.policy.checks import EDGE_OF_THE_CUT, check_log_prob
from lm.run.records import best
from lm.target.listed import ListedSupport
from lm.train import StepRecord, train
from lm.training.baseline import Baseline
from lm.training.describe import describe_coefficients, describe_partition
from lm.training.optimizer import build_optimizer


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Leave out pictures and report, which test_lm_report looks at and which take most time."""
    _ = finished_run()
    monkeypatch.setattr(lm.train, "finish_run", lambda _: None)


def test_the_core_fires_in_every_step_and_its_coefficients_are_what_descends(tmp_path, monkeypatch):
    calls = {"score_signal": [], "score_coefficients": [], "surrogate_loss": []}

    def spy(name):
        original = getattr(lm.train, name)

        def spied(*arguments, **options):
            result = original(*arguments, **options)
            calls[name].append((arguments, options, result))
            return result

        return spied

    for name in calls:
        monkeypatch.setattr(lm.train, name, spy(name))
    _ = train(tiny_config(tmp_path / "run", steps=3))
    assert [len(found) for found in calls.values()] == [3, 3, 3]
    for scored, centred, descended in zip(*calls.values(), strict=True):
        signal, (given, options, coefficients) = scored[2], centred
        assert given[0] is signal
        assert torch.equal(descended[0][1], coefficients.flatten())
        assert not coefficients.requires_grad
        assert signal.shape == (1, 32)
        # On-policy with one update a batch: every importance weight is one.
        assert torch.equal(options["log_weights"], torch.zeros_like(signal))
        peers = (signal.sum() - signal) / (signal.numel() - 1)
        torch.testing.assert_close(coefficients, signal - peers, rtol=0, atol=1e-5)


def test_the_two_sentences_and_the_step_stand_in_one_function():
    source = " ".join(inspect.getsource(lm.train.train_steps).split())
    sentences = [
        "samples = proposal.sample(contexts",
        "log_policy = batches.score(samples",
        "signal = score_signal(log_policy, log_score - log_z, divergence=divergence)",
        "coefficients = score_coefficients( signal, baseline=baseline.of(signal), "
        "log_weights=log_policy - log_proposal )",
        "surrogate_loss(part.log_policy, coefficients",
        "amp.backward(accelerator, loss",
        "amp.step(optimizer)",
    ]
    places = [source.find(sentence) for sentence in sentences]
    assert places == sorted(places)
    assert places[0] > 0
    assert source.count("score_signal(") == source.count("score_coefficients(") == 1
    assert len(inspect.getsource(lm.train).splitlines()) <= 250


def test_the_same_command_writes_the_same_metrics(tmp_path):
    again = train(tiny_config(tmp_path / "again"))
    first = (finished_run() / "metrics.jsonl").read_bytes()
    assert (again / "metrics.jsonl").read_bytes() == first
    other = train(tiny_config(tmp_path / "other", seed=1))
    assert (other / "metrics.jsonl").read_bytes() != first


def test_measuring_less_often_changes_no_step(tmp_path):
    seldom = train(tiny_config(tmp_path / "seldom", evaluation=replace(SMALL, every=4)))
    noise = "gradient_signal_to_noise"  # measured once after each evaluation
    here, there = (
        [{k: v for k, v in step.items() if k != noise} for step in lines(folder, "step")]
        for folder in (finished_run(), seldom)
    )
    assert here == there
    assert [record["step"] for record in lines(seldom, "evaluation")] == [0, 4]
    assert lines(finished_run(), "evaluation")[-1] == lines(seldom, "evaluation")[-1]


def test_records_count_steps_and_samples_and_reach_the_caller(tmp_path):
    seen: list[StepRecord] = []
    folder = train(tiny_config(tmp_path / "run"), on_step=seen.append)
    assert [(record.step, record.steps) for record in seen] == [(k, 4) for k in range(5)]
    assert [record.evaluation is not None for record in seen] == [True, False, True, False, True]
    assert seen[0].record is None
    assert [record.record for record in seen[1:]] == lines(folder, "step")
    assert [record["samples"] for record in lines(folder, "step")] == [32, 64, 96, 128]
    assert not any("seconds" in key for record in lines(folder) for key in record)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_training_descends(tmp_path, divergence):
    config = tiny_config(
        tmp_path / "run",
        divergence=divergence,
        target=TargetConfig(moments={"listed": 0.3}),
        steps=40,
        batch_size=128,
        optimizer=OptimizerConfig(lr=3e-4),
        evaluation=replace(SMALL, every=40, samples=1024),
    )
    first, last = lines(train(config), "evaluation")
    start, start_error = best(first, divergence)
    end, end_error = best(last, divergence)
    assert end < start - 5 * math.hypot(start_error, end_error)
    assert best(last, "feature/listed")[0] > best(first, "feature/listed")[0] + 0.02


@pytest.mark.parametrize(
    ("policy", "baseline"),
    [
        ("exact", "leave_one_out"),
        ("frozen", "running"),
        ("past_only", "constant"),
        ("leave_one_out", "none"),
        ("leave_one_out", "leave_one_out"),
        ("same_batch", "leave_one_out"),
    ],
)
def test_every_source_of_z_and_every_baseline_runs(tmp_path, policy, baseline):
    config = tiny_config(
        tmp_path / "run",
        steps=2,
        partition=PartitionConfig(policy=policy, samples=500, forgetting=0.9),
        baseline=BaselineConfig(kind=baseline, value=0.1 if baseline == "constant" else 0.0),
    )
    folder = train(config)
    status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    verdicts = {"exact": "unbiased", "frozen": "proportional", "past_only": "proportional"}
    if policy == "leave_one_out":
        verdicts[policy] = "biased" if baseline == "leave_one_out" else "proportional"
    assert status["verdict"] == verdicts.get(policy, "biased")
    steps = lines(folder, "step")
    exact = json.loads((folder / "target.json").read_text(encoding="utf-8"))["log_z"]
    if policy in {"exact", "frozen"}:
        assert steps[0]["log_z"] == steps[1]["log_z"]
        assert (abs(steps[0]["log_z"] - exact) < 1e-6) == (policy == "exact")
    if policy == "same_batch":
        assert steps[0]["log_z"] == pytest.approx(steps[0]["batch_log_z"], abs=1e-6)


def test_a_running_baseline_knows_the_past_only():
    baseline = Baseline(BaselineConfig(kind="running", forgetting=0.5))
    batch = torch.tensor([9.0, 9.0])
    assert baseline.of(batch) == 0.0
    baseline.observe(torch.tensor([1.0, 3.0]))
    assert baseline.of(batch) == pytest.approx(2.0)
    baseline.observe(torch.tensor([5.0, 7.0]))
    # The past counts half of its two samples: (0.5 * 2 * 2 + 2 * 6) / (0.5 * 2 + 2).
    assert baseline.of(batch) == pytest.approx(14 / 3)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, *(0.5 + 0.5 * math.cos(math.pi * k / 4) for k in (1, 2, 3))]),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule, factors):
    parameter = torch.nn.Parameter(torch.zeros(1))
    config = OptimizerConfig(lr=0.1, schedule=schedule, warmup_steps=2)
    optimizer, scheduler = build_optimizer(config, [parameter], steps=6)
    rates = []
    for _ in factors:
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.1 * factor for factor in factors])


def test_a_clip_is_off_by_default_and_logged_where_asked_for(tmp_path):
    clip = OptimizerConfig(lr=1e-3, clip_norm=1e-4)
    steps = lines(train(tiny_config(tmp_path / "run", optimizer=clip)), "step")
    assert [step["clipped"] for step in steps] == [True] * 4
    assert not any(step["clipped"] for step in lines(finished_run(), "step"))


def test_bfloat16_trains_with_master_weights_in_float32(tmp_path):
    folder = train(tiny_config(tmp_path / "run", steps=2, precision="bfloat16"))
    weights = load_policy(folder / "policy").model.parameters()
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_a_feature_that_is_not_finite_stops_the_run_and_names_the_text(tmp_path, monkeypatch):
    nowhere = Feature("never a number", lambda texts: np.full(len(texts), np.nan), True)
    monkeypatch.setattr("lm.features.registry.FEATURES", {**FEATURES, "listed": nowhere})
    with pytest.raises(ValueError, match=r"feature 'listed' is nan for the text '\w+'"):
        _ = train(tiny_config(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_does_not_start_at_the_base_is_refused(tmp_path, monkeypatch):
    original = CausalPolicy.trainable_copy

    def shifted(self):
        copy = original(self)
        with torch.no_grad():
            for parameter in copy.model.parameters():
                _ = parameter.mul_(1.05)
        return copy

    monkeypatch.setattr(CausalPolicy, "trainable_copy", shifted)
    with pytest.raises(RunError, match="the policy before training and the base disagree on"):
        _ = train(tiny_config(tmp_path / "run"))


def test_a_run_that_breaks_keeps_its_records_apart_and_says_where(tmp_path, monkeypatch):
    original = lm.train.score_coefficients
    calls = []

    def poisoned(signal, **options):
        calls.append(1)
        return original(signal, **options) * (math.nan if len(calls) == 3 else 1.0)

    monkeypatch.setattr(lm.train, "score_coefficients", poisoned)
    with pytest.raises(RunError, match=r"the coefficient of sample 0 of 32, .* is nan") as caught:
        _ = train(tiny_config(tmp_path / "run"))
    partial = tmp_path / ".run.partial"
    assert list(tmp_path.iterdir()) == [partial]
    assert caught.value.__notes__ == [f"what was recorded until then is in {partial}"]
    monkeypatch.undo()
    with pytest.raises(RunError, match="add --resume to continue it, or --overwrite"):
        _ = train(tiny_config(tmp_path / "run"))
    assert train(tiny_config(tmp_path / "run", overwrite=True)) == tmp_path / "run"
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_a_run_is_replaced_only_when_asked_and_other_folders_never(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    _ = (folder / "precious.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not empty"):
        _ = train(tiny_config(folder))
    with pytest.raises(RunError, match="is not a run that this program wrote"):
        _ = train(tiny_config(folder, overwrite=True))
    assert (folder / "precious.txt").read_text() == "mine"

    (folder / "precious.txt").unlink()
    assert train(tiny_config(folder, steps=1)) == folder
    with pytest.raises(RunError, match="exists and is not empty"):
        _ = train(tiny_config(folder, steps=1))
    assert train(tiny_config(folder, overwrite=True, steps=1)) == folder


def test_the_saved_policy_is_the_trained_one():
    last = lines(finished_run(), "evaluation")[-1]
    policy = load_policy(finished_run() / "policy")
    support = ListedSupport(("female",))
    female = float(support.exact_moments(support.log_prob(policy))[0])
    assert female == pytest.approx(best(last, "feature/female")[0], rel=1e-6)


class _OnAnotherDevice(torch.Tensor):
    """A tensor that mixes with no other one until it is brought to the CPU, as on a GPU."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cpu:
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].as_subclass(torch.Tensor)
        found = super().__torch_function__(function, types, args, kwargs or {})
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        if any(not isinstance(x, _OnAnotherDevice) for x in tensors):
            raise RuntimeError("Expected all tensors to be on the same device")
        return found


def test_a_running_baseline_goes_on_from_a_checkpoint_whatever_the_device_of_the_signal():
    config = BaselineConfig(kind="running", forgetting=0.5)
    unbroken, resumed = Baseline(config), Baseline(config)
    first, second = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 7.0]])
    unbroken.observe(first)
    # What a checkpoint gives back lies on the CPU.
    resumed.load_state_tensors(unbroken.state_tensors())
    for baseline in (unbroken, resumed):
        baseline.observe(second.as_subclass(_OnAnotherDevice))
    assert (
        unbroken.of(second) == resumed.of(second) == pytest.approx((0.5 * 3 + 12) / (0.5 * 2 + 2))
    )


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_coefficient_that_is_not_finite_stops_the_run_and_names_its_sample(
    tmp_path, monkeypatch, precision
):
    original = lm.train.score_coefficients

    def overflowing(signal, **options):
        coefficients = original(signal, **options)
        coefficients[0, 3] = math.inf
        return coefficients

    monkeypatch.setattr(lm.train, "score_coefficients", overflowing)
    # float16's scaler would take it for an overflow of the scale, and skip step after step.
    with pytest.raises(RunError, match=r"coefficient of sample 3 of 32, the text '.*', is inf"):
        _ = train(tiny_config(tmp_path / "run", precision=precision))


def test_squares_of_large_numbers_stay_finite_in_a_record():
    large = torch.tensor([[1e30, -1e30]])
    found = describe_coefficients(large, large)
    assert found["coefficient_rms"] == pytest.approx(1e30, rel=1e-6)
    assert math.isfinite(found["signal_std"])


def test_one_sample_of_each_prompt_says_nothing_about_z_and_trains():
    log_z, one = torch.zeros(4, 1), torch.zeros(4, 1)
    found = describe_partition(log_z, one, one)
    assert found == {
        "log_z": 0.0,
        **dict.fromkeys(("batch_log_z", "batch_log_z_error", "largest_share", "ess_share")),
    }


def test_a_sample_that_its_own_policy_cuts_is_explained():
    log_prob = torch.tensor([-1.0, -math.inf])
    with pytest.raises(RunError, match=r"'b' .* is -inf .*learning rate"):
        check_log_prob("policy", log_prob, ["a", "b"])
    with pytest.raises(RunError, match=r"'b' .* is -inf .*top_k, top_p or min_p kept a token"):
        check_log_prob("policy", log_prob, ["a", "b"], cause=EDGE_OF_THE_CUT)
