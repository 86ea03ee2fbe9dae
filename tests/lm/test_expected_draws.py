"""What a plan foresees of Z and of the samples of p, against what is then drawn."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from support.lm_runs import SMALL, tiny_config, tiny_model

from lm.config import PartitionConfig, PromptsConfig, RunConfig, TargetConfig, resolve
from lm.evaluation.expected_draws import Draws, expected_draws
from lm.evaluation.target_samples import draw_target_samples
from lm.features.registry import FEATURES, feature
from lm.policy import load_policy
from lm.policy.protocol import Policy
from lm.target.problem import draft_problem, fit_problem

LETTERS = TargetConfig(
    kind="reward_tilted", reward={"letters": 1.0}, beta=2.0, bounds={"letters": (0.0, 12.0)}
)
TEXTS = 256
LARGE = replace(SMALL, target_samples=128, target_draws=4_096)


@cache
def _base(limit: int | None) -> Policy:
    return load_policy(tiny_model(), max_new_tokens=limit)


def _config(path: Any, target: TargetConfig, **changes: Any) -> RunConfig:
    usual = {"max_new_tokens": 9, "evaluation": LARGE, "partition": PartitionConfig(most=8_192)}
    return resolve(tiny_config(path, target=target, **{**usual, **changes}))


def _expected(config: RunConfig, n: int = TEXTS) -> Draws | None:
    draft = draft_problem(config, _base(config.max_new_tokens))
    generator, prompts = torch.Generator().manual_seed(1), draft.prompts
    if prompts is not None:
        n = n // len(prompts.tokens)
    samples = draft.base.sample(n, generator=generator, prompts=prompts)
    return expected_draws(config, draft, samples, draft.reader.read(samples))


def _drawn(config: RunConfig) -> Draws:
    problem = fit_problem(config, draft_problem(config, _base(config.max_new_tokens)))
    p = draw_target_samples(problem, config.evaluation).drawn
    offline = problem.offline
    return Draws(0 if offline is None else offline.samples * len(offline.contexts), p)


@pytest.mark.parametrize(
    "target",
    [
        LETTERS,
        replace(LETTERS, beta=0.7),
        replace(LETTERS, bounds={}),
        TargetConfig(moments={"letters": 5.0}, bounds={"letters": (0.0, 12.0)}),
        TargetConfig(kind="constrained", constraints=("ends_in_i",)),
        TargetConfig(moments={"listed": 0.3}),
    ],
    ids=["tilted", "strongly tilted", "without bounds", "moments", "hard", "on the list"],
)
@pytest.mark.parametrize("error", [0.01, 0.1])
def test_as_many_are_drawn_as_are_foreseen(target, error, tmp_path):
    partition = PartitionConfig(error=error, most=8_192)
    # A list is exact where the longest name fits.
    limit = None if target.on_list else 9
    config = _config(tmp_path, target, partition=partition, max_new_tokens=limit)
    found, drawn = _expected(config), _drawn(config)
    assert found is not None
    # Both double what they draw, so that any difference is a factor of two at least.
    for foreseen, then in zip(found, drawn, strict=True):
        assert then / 2 <= foreseen <= 2 * then


def test_caps_and_numbers_that_were_asked_for_are_kept(tmp_path):
    partition = PartitionConfig(error=0.001, most=700)
    found = _expected(_config(tmp_path, LETTERS, partition=partition))
    assert found is not None
    assert found.for_z == 700
    found = _expected(_config(tmp_path, LETTERS, partition=PartitionConfig(samples=300)))
    assert found is not None
    assert found.for_z == 300


def test_nothing_is_foreseen_of_what_no_text_shows(tmp_path, monkeypatch):
    monkeypatch.setattr("lm.features.registry.FEATURES", dict(FEATURES))

    @feature("never")
    def never(texts: list[str]) -> list[float]:
        return [0.0] * len(texts)

    hard = TargetConfig(kind="constrained", constraints=("never",))
    assert _expected(_config(tmp_path, hard)) is None
    wanted = TargetConfig(moments={"never": 0.5}, bounds={"never": (0.0, 1.0)})
    assert _expected(_config(tmp_path, wanted)) is None
    # Two texts are too few of any target.
    assert _expected(_config(tmp_path, LETTERS), n=2) is None


def test_what_is_measured_against_another_target_or_cannot_be_built_is_not_foreseen(
    tmp_path, monkeypatch
):
    other = replace(_config(tmp_path, LETTERS), measure=replace(LETTERS, beta=0.5))
    assert _expected(other) is None

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("the run says it in its own words")

    monkeypatch.setattr("lm.evaluation.expected_draws.fit_target", refuse)
    assert _expected(_config(tmp_path, LETTERS)) is None


def test_prompts_are_looked_at_as_one(tmp_path):
    file = tmp_path / "prompts.txt"
    _ = file.write_text("a\nmar\njo\n")
    prompts = PromptsConfig(file=str(file), per_step=2)
    config = _config(tmp_path / "run", LETTERS, prompts=prompts)
    found, drawn = _expected(config), _drawn(config)
    assert found is not None
    # A factor of two for the doubling, and one for what the prompts differ by: the one with the
    # largest error decides how many all of them draw.
    assert drawn.for_z / 4 <= found.for_z <= 4 * drawn.for_z
    assert drawn.for_p / 4 <= found.for_p <= 4 * drawn.for_p
