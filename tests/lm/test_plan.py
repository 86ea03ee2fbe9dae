"""The plan before the work: what it says, and that it changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.lm_runs import SMALL, finished_run, lines, tiny_config, tiny_model

import lm.train
from lm.cli.main import main
from lm.config import PartitionConfig, PromptsConfig, RunConfig, TargetConfig, resolve
from lm.device.amp import Amp
from lm.errors import RunError, RunPlanned
from lm.phases import phase
from lm.policy import load_policy
from lm.policy.protocol import Policy
from lm.run.start import partial_folder
from lm.target.problem import Draft, draft_problem
from lm.training import plan as plans
from lm.training.plan import Cost, Plan, plan_run, planned

LETTERS = TargetConfig(
    kind="reward_tilted", reward={"letters": 1.0}, beta=2.0, bounds={"letters": (0.0, 12.0)}
)


@cache
def _base(limit: int | None) -> Policy:
    return load_policy(tiny_model(), max_new_tokens=limit)


def _draft(config: RunConfig) -> Draft:
    return draft_problem(config, _base(config.max_new_tokens))


def _planned(config: RunConfig, **seconds: float) -> dict[str, plans.Line]:
    """Return the lines of a plan for costs that are known, by their names."""
    names = ("sample", "read", "score", "laws", "differentiate")
    costs = {name: Cost(0.0, seconds.get(name, 0.0)) for name in names}
    measured = plans._Measured(costs, 6.0, 1000.0, seconds.get("optimizer", 0.0))
    draft = _draft(config)
    found = plans._plan(config, draft, draft.base, measured)
    return {line.name: line for line in found.lines}


def test_what_a_batch_costs_and_what_a_text_costs_are_told_apart():
    cost = plans._line({4: 1.4, 16: 2.6})
    assert cost.of(256) == pytest.approx(1.0 + 0.1 * 256)
    assert cost.of(256, at_once=64) == pytest.approx(4 * 1.0 + 0.1 * 256)
    assert cost.of(0) == 0.0
    assert plans._line({8: 4.0}).of(16) == pytest.approx(8.0)
    # Noise makes neither a text nor a batch cost less than nothing.
    for seconds in ({4: 2.0, 16: 1.0}, {4: 0.1, 16: 9.0}):
        cost = plans._line(seconds)
        assert cost.of(16) == pytest.approx(seconds[16])
        assert cost.each > 0
        assert cost.fixed >= 0


def test_the_phases_take_what_their_samples_take(tmp_path):
    config = resolve(tiny_config(tmp_path, target=LETTERS, steps=5, max_new_tokens=None))
    found = _planned(config, sample=1.0)
    assert list(found) == ["Z", "samples of p", "steps", "evaluations"]
    assert found["Z"].samples == "at most 256"
    assert found["Z"].seconds == 256
    assert found["samples of p"].seconds == 256
    assert found["steps"].seconds == 5 * 32
    # Before the first step, after the second, the fourth and the last; and the base's, once.
    assert found["evaluations"].samples == "4 x 256"
    assert found["evaluations"].seconds == 5 * 256
    assert all(line.memory > 2**20 and line.keys for line in found.values())

    # A step scores under the base and differentiates; in micro-batches it scores twice.
    assert _planned(config, score=1.0)["steps"].seconds == 5 * 32
    assert _planned(config, differentiate=1.0)["steps"].seconds == 5 * 32
    small = replace(config, micro_batch_size=8, updates_per_batch=2)
    assert _planned(small, score=1.0)["steps"].seconds == 5 * 32 * 3
    assert _planned(small, differentiate=1.0)["steps"].seconds == 5 * 32 * 2
    assert _planned(small, optimizer=1.0)["steps"].seconds == 5 * 2


def test_what_a_run_does_not_do_is_not_planned(tmp_path):
    config = tiny_config(tmp_path, evaluation=replace(SMALL, target_samples=0))
    assert list(_planned(resolve(config))) == ["steps", "evaluations"]
    by_number = replace(config, target=LETTERS, partition=PartitionConfig(samples=500))
    line = _planned(resolve(by_number), sample=1.0)["Z"]
    assert (line.samples, line.seconds, line.keys) == ("500", 500, "partition.samples")


def test_a_slow_model_is_not_measured_for_longer_than_is_said(tmp_path, monkeypatch):
    config = resolve(tiny_config(tmp_path, target=LETTERS))
    draft, sizes, of = _draft(config), [], plans._Probe.of

    def seen(probe: Any, n: int) -> dict[str, float]:
        sizes.append(n)
        return of(probe, n)

    monkeypatch.setattr(plans._Probe, "of", seen)
    monkeypatch.setattr(plans, "MOST_SECONDS", 0.0)
    policy = draft.base.trainable_copy()
    found = plan_run(config, draft, policy, Amp("float32", "cpu"), always=True)
    assert sizes == [plans.WARM_UP]
    assert found is not None
    assert found.seconds > 0


# Seconds of so many texts, of SmolLM2 on two idle cores (AMD EPYC; chats, 20 new tokens):
# measured up to 64; 256 is on the line through 16 and 64.
SLOW = {2: 4.6, 4: 5.5, 16: 11.7, 64: 36.8, 256: 137.0}


def test_a_slow_model_is_measured_with_two_sizes(tmp_path, monkeypatch):
    config, now, sizes = resolve(tiny_config(tmp_path, target=LETTERS)), [0.0], list[int]()

    def of(probe: Any, n: int) -> dict[str, float]:
        sizes.append(n)
        now[0] += SLOW[n]
        probe._tokens, probe._texts = probe._tokens + 6 * n, probe._texts + n
        return {"sample": SLOW[n]} | dict.fromkeys(("read", "score", "laws", "differentiate"), 0.0)

    monkeypatch.setattr(plans._Probe, "of", of)
    monkeypatch.setattr(plans, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    draft = _draft(config)
    found = plan_run(config, draft, draft.base.trainable_copy(), Amp("float32", "cpu"))
    assert sizes == [2, 4, 16]
    # A plan is to be right within a factor of 1.5. From 4 texts alone it would say 5.5 / 4 * 256
    # seconds for the 256 of Z, 2.6 times what they take.
    assert found is not None
    (seconds,) = [line.seconds for line in found.lines if line.name == "Z"]
    assert SLOW[256] / 1.5 < seconds < SLOW[256] * 1.5


def test_the_measurement_leaves_the_policy_and_the_random_numbers_alone(tmp_path, monkeypatch):
    config = resolve(tiny_config(tmp_path, target=LETTERS))
    draft, amp = _draft(config), Amp("float32", "cpu")
    policy = draft.base.trainable_copy()
    before, state = [p.clone() for p in policy.model.parameters()], torch.get_rng_state()
    found = plan_run(config, draft, policy, amp, always=True)
    assert found is not None
    assert found.seconds > 0
    assert found.sampled > 0
    assert found.trained > 0
    assert all(p.grad is None for p in policy.model.parameters())
    for now, then in zip(policy.model.parameters(), before, strict=True):
        assert now.equal(then)
    assert torch.get_rng_state().equal(state)
    # It is over before anybody has read a plan, however slow the machine that reads this.
    monkeypatch.setattr(plans, "SHORT_SECONDS", math.inf)
    assert plan_run(config, draft, policy, amp) is None
    monkeypatch.setattr(plans, "SHORT_SECONDS", 0.0)
    assert plan_run(config, draft, policy, amp) is not None


def test_prompts_are_measured_after_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    _ = file.write_text("a\nmar\njo\n")
    config = tiny_config(
        tmp_path / "run",
        target=LETTERS,
        prompts=PromptsConfig(file=str(file), per_step=2),
        max_new_tokens=9,
    )
    config = resolve(config)
    draft = _draft(config)
    found = plan_run(config, draft, draft.base.trainable_copy(), Amp("float32", "cpu"), always=True)
    assert found is not None
    assert next(line.name for line in found.lines) == "Z"


@pytest.mark.slow
def test_a_run_that_was_planned_has_the_numbers_of_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "SHORT_SECONDS", 0.0)
    seen: list[Plan] = []
    run = lm.train.train(tiny_config(tmp_path / "run"), on_plan=seen.append)
    assert len(seen) == 1
    assert lines(run) == lines(finished_run())
    evaluations = len(lines(run, "evaluation"))
    assert seen[0].lines[-1].samples == f"{evaluations} x 256"


@pytest.mark.slow
def test_a_plan_is_printed_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--model", str(tiny_model()), "--target.moments", "{listed: 0.3}"]
    words += ["--output", "run", "--plan", "true", "--steps", "40", "--batch_size", "32"]
    # What an interrupted run has left stays there, also where it would be in the way.
    partial = partial_folder(tmp_path / "run")
    partial.mkdir()
    _ = (partial / "timings.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
    assert main([*words, "--overwrite", "true"]) == 0
    assert main(words) == 0
    out = capsys.readouterr().out
    for word in ("samples of p", "40 x 32", "evaluation.every, evaluation.samples", " in all"):
        assert word in out
    assert [path.name for path in tmp_path.iterdir()] == [partial.name]
    assert [path.name for path in partial.iterdir()] == ["timings.jsonl"]


def test_a_plan_is_for_one_process(tmp_path):
    accelerator: Any = SimpleNamespace(num_processes=2, device="cpu")
    with pytest.raises(RunError, match="plan measures one process, but there are 2"):
        raise planned(resolve(tiny_config(tmp_path)), None, accelerator)


@pytest.mark.slow
def test_a_program_gets_the_plan_as_an_exception(tmp_path):
    with pytest.raises(RunPlanned) as caught:
        _ = lm.train.train(tiny_config(tmp_path / "run", plan=True))
    assert [line.name for line in caught.value.plan.lines] == [
        "samples of p",
        "steps",
        "evaluations",
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_interrupt_names_the_innermost_phase(tmp_path, monkeypatch, capsys):
    def interrupted(*words, **options):
        with phase("drawing base samples for Z"):
            raise KeyboardInterrupt

    monkeypatch.setattr("lm.training.plan.fit_problem", interrupted)
    words = ["train", "--model", str(tiny_model()), "--target.moments", "{listed: 0.3}"]
    assert main([*words, "--output", str(tmp_path / "run")]) == 130
    error = capsys.readouterr().err
    assert "lm: interrupted while drawing base samples for Z\n" in error
    assert "lm: no step was done yet, so nothing of the run is kept\n" in error
    assert not list(tmp_path.iterdir())
