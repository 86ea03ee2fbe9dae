"""The running mean of the weights: what it is, what it leaves alone, and that it resumes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.lm_runs import lines, tiny_config, tiny_model

from lm.config import CheckpointConfig, OptimizerConfig
from lm.errors import RunInterrupted
from lm.policy import load_policy
from lm.train import train
from lm.training.average import WeightAverage

# Each trains a run or two. `make test-slow` runs them.
pytestmark = pytest.mark.slow

AVERAGED = OptimizerConfig(lr=1e-3, average=0.8)


def _weights(policy) -> list[torch.Tensor]:
    return [p.detach().clone() for p in policy.model.parameters()]


def test_the_average_is_a_slow_loops_and_is_only_lent():
    policy = load_policy(tiny_model()).trainable_copy()
    average, slow = WeightAverage(policy, 0.8), _weights(policy)
    for step in range(3):
        with torch.no_grad():
            for p in policy.model.parameters():
                _ = p.add_(0.01 * (step + 1))
        average.observe()
        slow = [0.8 * one + 0.2 * now for one, now in zip(slow, _weights(policy), strict=True)]
    before = _weights(policy)
    with average.applied():
        for one, other in zip(_weights(policy), slow, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    for one, other in zip(_weights(policy), before, strict=True):
        assert torch.equal(one, other)


def test_without_one_nothing_is_held():
    policy = load_policy(tiny_model()).trainable_copy()
    average = WeightAverage(policy, None)
    average.observe()
    assert average.state_tensors() == {}


def test_training_goes_its_way_and_the_average_is_measured_and_saved(tmp_path):
    config = tiny_config(tmp_path / "plain", report=False)
    plain = train(config)
    averaged = train(replace(config, output=str(tmp_path / "averaged"), optimizer=AVERAGED))
    assert lines(plain, "step") == lines(averaged, "step")
    start, *_, end = lines(averaged, "evaluation")
    assert start == lines(plain, "evaluation")[0]
    assert end != lines(plain, "evaluation")[-1]
    base, last, mean = (
        load_policy(f).model for f in (tiny_model(), plain / "policy", averaged / "policy")
    )
    pairs = zip(base.parameters(), last.parameters(), mean.parameters(), strict=True)
    moved = [(float((b - c).norm()), float((b - a).norm())) for b, a, c in pairs]
    # The average lags behind: it is nearer to the start than the end is.
    assert all(short <= long for short, long in moved)


def test_an_interrupted_average_goes_on_bit_by_bit(tmp_path):
    config = tiny_config(
        tmp_path / "whole", report=False, optimizer=AVERAGED, checkpoint=CheckpointConfig(every=1)
    )
    whole = train(config)
    broken = replace(config, output=str(tmp_path / "broken"))

    def stop(report):
        if report.step == 2:
            raise RunInterrupted("a test", 2, 4, "there")

    with pytest.raises(RunInterrupted):
        _ = train(broken, on_step=stop)
    resumed = train(replace(broken, resume=True))
    assert (whole / "metrics.jsonl").read_bytes() == (resumed / "metrics.jsonl").read_bytes()


def test_its_weight_lies_strictly_inside():
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"optimizer\.average is"):
            _ = OptimizerConfig(average=wrong)
