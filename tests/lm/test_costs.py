"""What a run spends outside its steps: numbers of samples that follow from what is wanted."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lm_tiny import enumerate_sequences, tiny_gpt2, tiny_policy

from lm.config import EvaluationConfig, PartitionConfig, RunConfig, TargetConfig, resolve
from lm.config.options import build_config, parse_config
from lm.config.recipes import read_yaml
from lm.errors import RunError
from lm.evaluation.target_samples import draw_target_samples, token_rows
from lm.features import registry as features
from lm.features.registry import feature, score
from lm.policy.causal import CausalPolicy
from lm.sweep.cells import expand
from lm.sweep.config import SweepConfig
from lm.target import fit
from lm.target import problem as problems
from lm.target.decoded import Reader, prompt_keys
from lm.target.offline import draw_base
from lm.target.problem import Problem, build_problem
from lm.target.targets import NoMass

LIMIT, BETA = 3, 1.5
PROMPTS = ("2", "3 1", "2 2 3")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(features, "FEATURES", dict(features.FEATURES))
    monkeypatch.setattr(features, "SCORES", dict(features.SCORES))
    _ = feature("twos")(lambda tokens: [float(row.count(2)) for row in tokens])


@cache
def _model() -> CausalPolicy:
    return tiny_policy(tiny_gpt2(seed=0, scale=8.0, positions=8), pad_id=1, limit=LIMIT)


def _config(target: TargetConfig | None = None, **partition: Any) -> RunConfig:
    known = TargetConfig(
        kind="reward_tilted", reward={"twos": 1.0}, beta=BETA, bounds={"twos": (0.0, 3.0)}
    )
    config = RunConfig(
        model="tiny",
        target=target or known,
        partition=PartitionConfig(policy="frozen", **partition),
        divergence="jensen_shannon",
    )
    return resolve(config)


def _problem(target: TargetConfig | None = None, prompts: Any = None, **partition: Any) -> Problem:
    return build_problem(_config(target, **partition), _model(), prompts)


def _log_z(prompts: tuple[str, ...]) -> torch.Tensor:
    """Return log Z of the tilted target after each prompt, by enumeration."""
    base, found = _model(), []
    tokens, mask = enumerate_sequences(eos_ids=(1,), pad_id=1, limit=LIMIT)
    twos = ((tokens == 2) & mask).sum(-1).double()
    for row in base.vocabulary.encode_prompts(list(prompts)):
        contexts = problems.Prompts.from_ids([row], pad_id=1).repeat(len(tokens))
        with torch.no_grad():
            log_base = base.log_prob(tokens, mask, prompts=contexts).double()
        found.append(torch.logsumexp(log_base + twos / BETA, 0))
    return torch.stack(found)


# Numbers that follow from others.


def test_groups_follow_the_samples():
    assert EvaluationConfig(samples=64).sizes.group == 32
    assert EvaluationConfig(samples=2048).sizes.group == 256
    assert EvaluationConfig(samples=64, group=8).sizes.group == 8
    words = ["--target.moments", "{listed: 0.3}", "--evaluation.samples", "64"]
    config = parse_config(RunConfig, words, program="train")
    assert resolve(config).evaluation.sizes.group == 32


@pytest.mark.parametrize(
    ("steps", "batch_size", "expected"),
    [(200, 256, (5120, 5120, 1024)), (200, 32, (640, 640, 128)), (4, 16, (256, 256, 64))],
)
def test_a_run_spends_a_share_of_its_own_samples_outside_its_steps(steps, batch_size, expected):
    config = resolve(
        RunConfig(target=TargetConfig(moments={"listed": 0.3}), steps=steps, batch_size=batch_size)
    )
    found = config.partition.most, config.evaluation.target_draws, config.evaluation.samples
    assert found == expected
    assert resolve(config) == config


def test_samples_that_are_not_stated_are_enough_for_what_is_asked_of_them():
    target = TargetConfig(moments={"ends_in_i": 0.3})
    shown = EvaluationConfig(coverage="ends_in_i", coverage_at=(1, 300), group=128, texts=30)
    assert resolve(RunConfig(target=target, steps=4, evaluation=shown)).evaluation.samples == 600
    groups = replace(shown, coverage=None)
    assert resolve(RunConfig(target=target, steps=4, evaluation=groups)).evaluation.samples == 256


def test_stated_numbers_stay_what_they_are():
    partition = PartitionConfig(samples=10_000)
    evaluation = EvaluationConfig(samples=2048, target_samples=256, target_draws=4096, group=256)
    config = resolve(
        RunConfig(
            target=TargetConfig(moments={"listed": 0.3}),
            partition=partition,
            evaluation=evaluation,
            steps=2,
        )
    )
    assert config.partition == replace(partition, policy="exact")
    assert config.evaluation == evaluation
    assert EvaluationConfig(target_samples=1024).for_run(100, 1).sizes.target_draws == 4096
    with pytest.raises(ValueError, match=r"remove it, or remove partition\.error"):
        _ = PartitionConfig(samples=64, error=0.1)


def test_registered_runs_are_still_called_what_they_were(monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = build_config(SweepConfig, read_yaml(Path("study/sweeps/pilot2.yaml").read_text()))
    block = next(one for one in sweep.blocks if {"soft_i", "lr=1e-4"} <= {*one.tasks, *one.rates})
    first = {name: getattr(block, name)[:1] for name in ("seeds", "sizes", "methods")}
    place = {"tasks": ("soft_i",), "rates": ("lr=1e-4",)}
    (cell,) = expand(replace(sweep, blocks=(replace(block, **first, **place),)))
    # As at the commit 8ca84e5, before there were numbers that follow from others. Whoever adds an
    # option names it in `lm.sweep.cells.LATER`, or what is stored is computed again.
    assert cell.name == "soft_i forward_kl 2x64b0 lr=1e-4 default 201"
    assert cell.run == "f5fc703065402655"


# Base samples until Z is known well enough.


def test_base_samples_are_drawn_until_z_is_precise():
    problem = _problem(prompts=PROMPTS, error=0.02, most=100_000)
    assert problem.offline is not None
    log_z, errors, _ = problem.offline.estimate
    assert 0.005 < float(errors.max()) <= 0.02
    assert len(PROMPTS) * problem.offline.samples < 20_000
    z = (log_z - _log_z(PROMPTS)) / errors
    assert float(z.abs().max()) < 5
    assert problem.warnings() == []


def test_a_cap_ends_it_with_a_warning():
    problem = _problem(prompts=PROMPTS, error=0.001, most=600)
    assert problem.offline is not None
    assert problem.offline.samples == 200
    (warning,) = problem.warnings()
    assert "above partition.error 0%: use more partition.most" in warning
    assert "for 3 of 3 prompts" in warning


def test_rounds_hold_the_samples_of_each_context_together():
    config, base = _config(most=600), _model()
    contexts = problems.Prompts.from_ids(base.vocabulary.encode_prompts(list(PROMPTS)), pad_id=1)
    keys = prompt_keys(contexts)
    columns = {key: {"answer": prompt} for key, prompt in zip(keys, PROMPTS, strict=True)}
    texts = dict(zip(keys, PROMPTS, strict=True))
    reader = Reader(base, ("twos",), frozenset(), texts, columns)
    rounds = list(draw_base(config, base, reader, contexts, torch.arange(3)))
    assert [drawn.log_base.shape[1] for drawn in rounds] == [85, 170, 200]
    assert [drawn.last for drawn in rounds] == [False, False, True]

    # Whatever is said of a text is said of its own prompt.
    reading, log_base = rounds[-1].reading, rounds[-1].log_base.flatten()
    assert reading.prompts == [prompt for prompt in PROMPTS for _ in range(200)]
    assert reading.columns == {"answer": reading.prompts}
    assert reading.features[:, 0].tolist() == [float(row.count(2)) for row in reading.tokens]
    assert rounds[0].log_base[2].equal(rounds[-1].log_base[2, :85])
    tokens = torch.tensor([row + [1] * (LIMIT - len(row)) for row in reading.tokens])
    mask = torch.tensor([[k < len(row) for k in range(LIMIT)] for row in reading.tokens])
    with torch.no_grad():
        again = base.log_prob(tokens, mask, prompts=contexts.repeat(200))
    torch.testing.assert_close(log_base, again, rtol=1e-5, atol=1e-5)  # some float32 roundings


def test_equal_weights_are_no_precision_where_a_heavy_text_is_rare():
    # A text of weight e^20 that no sample is: all weights are one, and so is Zhat.
    _ = feature("never")(lambda tokens: [0.0] * len(tokens))
    rare = TargetConfig(
        kind="reward_tilted", reward={"never": 1.0}, beta=0.05, bounds={"never": (0.0, 1.0)}
    )
    problem = _problem(rare, most=1000)
    assert problem.offline is not None
    assert problem.offline.samples == 1000
    # Without a bound of the weight, at least as many as a number would have been.
    unknown = _problem(replace(rare, bounds={}), most=5000)
    assert unknown.offline is not None
    assert unknown.offline.samples == 1024


def test_what_the_first_samples_do_not_show_later_ones_may(monkeypatch):
    seen, real = [], fit.fit_target

    def fit_target(config, base, listing, drawn, *arguments, **options):
        seen.append((drawn.log_base.shape[1], drawn.last))
        if len(seen) == 1:
            raise NoMass("not yet")
        return real(config, base, listing, drawn, *arguments, **options)

    monkeypatch.setattr(fit, "fit_target", fit_target)
    _ = _problem(error=0.5, most=1000)
    assert seen == [(256, False), (512, False)]


def test_what_the_last_samples_do_not_show_is_an_error():
    _ = feature("never")(lambda tokens: [0.0] * len(tokens))
    impossible = TargetConfig(kind="constrained", constraints=("never",))
    with pytest.raises(NoMass, match="no text of the base satisfies the constraint never"):
        _ = _problem(impossible, most=300)


def test_too_few_for_the_prompts_names_the_key():
    with pytest.raises(RunError, match=r"partition\.most is 4, which leaves less than two"):
        _ = _problem(prompts=PROMPTS, most=4)
    with pytest.raises(RunError, match=r"partition\.samples is 4, which leaves less than two"):
        _ = _problem(prompts=PROMPTS, samples=4)


# Functions of the user, tried on two texts.


@pytest.mark.parametrize(
    ("kind", "words"), [("feature", "for 2 texts"), ("score", r"'wrong' raised ValueError: no")]
)
def test_a_wrong_function_is_found_before_anything_is_drawn(monkeypatch, kind, words):
    def one_for_all(texts):
        return [1.0]

    def fails(log_base, texts):
        raise ValueError("no")

    drawn = []
    monkeypatch.setattr(problems, "draw_base", lambda *words: drawn.append(words))
    if kind == "feature":
        _ = feature("wrong")(one_for_all)
        target = TargetConfig(kind="reward_tilted", reward={"wrong": 1.0})
    else:
        _ = score("wrong")(fails)
        target = TargetConfig(kind="custom", score="wrong")
    for prompts in (None, PROMPTS):
        with pytest.raises(RunError, match=words):
            _ = _problem(target, prompts)
    assert drawn == []


# Samples of the target, where they are to be had.


def test_samples_of_a_rare_target_are_not_tried_in_vain(monkeypatch):
    _ = feature("two_twos")(lambda tokens: [float(row.count(2) > 1) for row in tokens])
    hard = TargetConfig(kind="constrained", constraints=("two_twos",))
    problem = _problem(hard, samples=4000)
    rate = math.exp(float(problem.log_z[0]))
    enough = EvaluationConfig(target_draws=int(2 * 256 / rate))
    found = draw_target_samples(problem, enough)
    assert found.samples is not None
    # As many as the number asks for, and the very same.
    asked = draw_target_samples(problem, replace(enough, target_samples=256))
    assert asked.samples is not None
    assert token_rows(found.samples) == token_rows(asked.samples)

    # A hundred are too many to ask for: nothing is drawn, unless a number says so.
    few = EvaluationConfig(target_draws=int(50 / rate))
    assert draw_target_samples(problem, replace(few, target_samples=256)).drawn > 0
    monkeypatch.setattr("lm.evaluation.target_samples.draw", None)
    found = draw_target_samples(problem, few)
    assert (found.samples, found.drawn) == (None, 0)
    assert f"about one in {1 / rate:,.0f} base samples" in (found.reason or "")
    assert "more than evaluation.target_draws" in (found.reason or "")
