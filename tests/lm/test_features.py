"""Features and scores of the user's own: registered, in a file, and what is said when they fail."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from support.lm_runs import lines, scratch, tiny_config, tiny_model

from lm.config.options import from_plain, parse_config, to_plain
from lm.config.run import RunConfig, TargetConfig
from lm.errors import RunError, UsageError
from lm.features import registry as features
from lm.features.files import load_function
from lm.features.registry import (
    FEATURES,
    feature,
    feature_values,
    get_feature,
    score,
    score_values,
    short_name,
)
from lm.train import train

TEXTS = ["anna", "bob", "", "eve"]
FILE = '''
"""Somebody's rewards."""
from dataclasses import dataclass

@dataclass
class Weights:
    vowel: float = 1.0

def vowels(completions):
    """Number of vowels."""
    return [Weights().vowel * sum(letter in "aeiou" for letter in text) for text in completions]

def log_score(log_base, texts):
    return log_base + 1.0

def no_arguments():
    return 1.0

value = 3
'''


@pytest.fixture(autouse=True)
def _own_names(monkeypatch):
    monkeypatch.setattr(features, "FEATURES", dict(features.FEATURES))
    monkeypatch.setattr(features, "SCORES", dict(features.SCORES))


@pytest.fixture
def file(tmp_path, monkeypatch):
    _ = (tmp_path / "rewards.py").write_text(FILE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "rewards.py"


def test_general_features_look_at_the_completion():
    values = feature_values(
        ["letters", "characters", "words", "tokens"],
        ["Say: a b!", "Say: xyz"],
        prompts=["Say: ", "Say: "],
        completions=["a b!", "xyz"],
        tokens=[[5, 6, 7, 8, 1], [9]],
    )
    assert values.tolist() == [[2, 4, 2, 5], [3, 3, 1, 1]]
    assert feature_values(["letters"], TEXTS)[:, 0].tolist() == [4, 3, 0, 3]


def test_a_function_gets_what_its_signature_names():
    seen = {}

    @feature("nosy")
    def nosy(texts, prompts, *, tokens, completions):
        seen.update(texts=texts, prompts=prompts, tokens=tokens, completions=completions)
        return torch.ones(2, requires_grad=True)

    @feature("first_by_name")
    def first_by_name(completions):
        return [float(text == "x") for text in completions]

    given = {"prompts": ["p", "q"], "completions": ["x", "y"], "tokens": [[1], [2]]}
    values = feature_values(["nosy", "first_by_name"], ["px", "qy"], **given)
    assert values.tolist() == [[1, 1], [1, 0]]
    assert seen == {"texts": ["px", "qy"], **given}
    assert feature_values(["nosy"], ["px", "qy"], tokens=[[1], [2]]).tolist() == [[1], [1]]
    assert (seen["prompts"], seen["completions"]) == (["", ""], ["px", "qy"])
    with pytest.raises(RunError, match="feature 'nosy' asks for tokens=, which only samples"):
        _ = feature_values(["nosy"], ["px", "qy"])


def _raises_on_bob(texts):
    if "bob" in texts:
        raise KeyError("no such name")
    return [0.0] * len(texts)


def _raises_together(texts):
    if len(texts) > 1:
        raise RuntimeError("out of memory")
    return [0.0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_raises_on_bob, r"raised KeyError: 'no such name' \(sample 1 of 4, the text 'bob'\)"),
        (_raises_together, "raised RuntimeError: out of memory .on 4 texts together, though"),
        (lambda texts: [0.0, math.nan, 0.0, 0.0], r"is nan for the text 'bob' \(sample 1 of 4\)"),
        (lambda texts: [0.0, 1.0, math.inf, 0.0], r"is inf for the text '' \(sample 2 of 4\)"),
        (lambda texts: [0.0, 1.0, 1.0, -math.inf], "is -inf for the text 'eve'"),
        (lambda texts: [1.0, 2.0], r"shape \(2,\) for 4 texts, the first of which is 'anna'"),
        (lambda texts: np.ones((4, 1)), r"shape \(4, 1\) for 4 texts"),
        (lambda texts: 1.0, r"shape \(\) for 4 texts"),
        (lambda texts: ["a"] * 4, r"must return one number a text, not \['a', 'a'"),
        (lambda texts: None, "must return one number a text|shape"),
    ],
)
def test_a_failing_feature_names_itself_and_the_text(function, message):
    _ = feature("broken")(function)
    with pytest.raises(RunError, match=message) as caught:
        _ = feature_values(["broken"], TEXTS)
    assert "'broken'" in str(caught.value)


def test_a_score_may_exclude_but_not_be_infinite():
    values = iter([[0.0, -math.inf, 1.0, 2.0], [0.0, math.inf, 1.0, 2.0], [math.nan] * 4])
    _ = score("mine")(lambda log_base, texts: log_base + next(values))
    log_base = np.zeros(4)
    assert score_values("mine", log_base, TEXTS).tolist() == [0.0, -math.inf, 1.0, 2.0]
    with pytest.raises(RunError, match="score 'mine' is inf for the text 'bob'"):
        _ = score_values("mine", log_base, TEXTS)
    with pytest.raises(RunError, match="score 'mine' is nan for the text 'anna'"):
        _ = score_values("mine", log_base, TEXTS)


def test_names_of_the_project_are_kept_and_yours_may_be_renewed():
    with pytest.raises(ValueError, match="'female' is a feature of the project"):
        _ = feature("female")
    with pytest.raises(ValueError, match=r"'a\.py:b' cannot be a name"):
        _ = feature("a.py:b")
    _ = feature("mine")(lambda texts: [1.0] * len(texts))
    _ = feature("mine")(lambda texts: [2.0] * len(texts))
    assert feature_values(["mine"], ["x"]).tolist() == [[2.0]]
    assert "mine" not in FEATURES


def test_a_function_in_a_file_is_a_feature(file):
    name = f"{file}:vowels"
    assert feature_values([name], TEXTS)[:, 0].tolist() == [2, 1, 0, 2]
    assert get_feature(name).description == "Number of vowels."
    assert short_name(name) == "vowels"
    assert load_function(name) is load_function(name)


def test_a_recipe_names_functions_in_files(file, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    _ = recipe.write_text(
        "target:\n  kind: reward_tilted\n  reward: {'rewards.py:vowels': 1.0}\n", encoding="utf-8"
    )
    config = parse_config(RunConfig, [str(recipe)], program="lm train")
    assert config.target.features == ("rewards.py:vowels",)
    assert not config.target.on_list
    assert from_plain(RunConfig, json.loads(json.dumps(to_plain(config)))) == config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py:f", "there is no nowhere.py in"),
        ("rewards.py:vowel", "no function 'vowel' at its top level; did you mean 'vowels'"),
        ("rewards.py:value", "no function 'value'"),
        ("rewards.py:no_arguments", "takes 0 positional"),
        ("broken.py:f", "broken.py is not valid Python: "),
        ("vowels", r"unknown feature 'vowels'; There are: female, .* file\.py:vowels in a recipe"),
    ],
)
@pytest.mark.usefixtures("file")
def test_a_wrong_name_is_refused_before_anything_runs(name, message, tmp_path):
    _ = (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match=message):
        _ = TargetConfig(kind="reward_tilted", reward={name: 1.0})
    words = ["--target.kind", "reward_tilted", "--target.reward", json.dumps({name: 1.0})]
    with pytest.raises(UsageError, match=message):
        _ = parse_config(RunConfig, words, program="lm train")


def test_a_recipe_is_checked_without_executing_the_file(tmp_path):
    trap = tmp_path / "trap.py"
    _ = trap.write_text("raise SystemError('executed')\ndef f(texts):\n    return texts\n")
    name = f"{trap}:f"
    _ = TargetConfig(kind="reward_tilted", reward={name: 1.0})
    with pytest.raises(RunError, match=r"trap\.py raised SystemError while it was loaded"):
        _ = get_feature(name)


def test_a_custom_target_takes_a_score_and_nothing_else(file):
    target = TargetConfig(kind="custom", score=f"{file}:log_score")
    assert (target.features, target.on_list) == ((), False)
    wrong = [
        ({"kind": "custom"}, r"needs target\.score, which is empty"),
        ({"score": f"{file}:log_score", "moments": {"letters": 5.0}}, "belongs to target.kind"),
        ({"kind": "custom", "score": "unknown"}, "unknown score 'unknown'"),
        ({"kind": "custom", "score": f"{file}:vowels"}, "called with 2"),
    ]
    for fields, message in wrong:
        with pytest.raises(ValueError, match=message):
            _ = TargetConfig(**fields)


def test_a_target_may_be_any_score_on_the_census_model():
    # The same target as a reward and as a score of one's own: the same numbers, nearly to rounding.
    @score("tilted_by_letters")
    def tilted(log_base, texts):
        return log_base + np.array([sum(map(str.isalpha, text)) for text in texts]) / 2.0

    targets = {
        "custom": TargetConfig(kind="custom", score="tilted_by_letters"),
        "reward": TargetConfig(kind="reward_tilted", reward={"letters": 1.0}, beta=2.0),
    }
    records = {}
    for name, target in targets.items():
        config = tiny_config(scratch() / f"any_{name}", target=target, model=str(tiny_model()))
        records[name] = lines(train(config), "evaluation")
    for own, built in zip(records["custom"], records["reward"], strict=True):
        assert "feature/letters" not in own["estimates"]
        for quantity in ("forward_kl", "jensen_shannon", "kl_target_base", "log_z"):
            for estimator, fields in own["estimates"][quantity].items():
                other = built["estimates"][quantity][estimator]
                # Float32 log-probabilities, rounded in another order, through four training steps.
                assert fields["value"] == pytest.approx(other["value"], rel=1e-3, abs=1e-5)
