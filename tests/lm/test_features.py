"""Features and scores of the user's own: registered, in a file, and what is said when they fail."""

from __future__ import annotations

import json
import math
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from support.lm_runs import lines, scratch, tiny_config, tiny_model

from lm.config import RunConfig, TargetConfig
from lm.config.options import from_plain, parse_config, to_plain
from lm.errors import RunError, UsageError
from lm.features import registry as features
from lm.features.calls import call_on_texts
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

def typo(completion):
    return [1.0 for _ in completion]

async def later(texts):
    return [1.0 for _ in texts]

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
        (lambda texts: ["a"] * 4, r"must return one number per text, not \['a', 'a'"),
        (lambda texts: None, "must return one number per text"),
        (lambda texts: ["1.5"] * 4, "text is no number"),
        (lambda texts: np.array(["1.5"] * 4), "text is no number"),
        (lambda texts: np.ma.masked_less([1.0, 2.0, 3.0, 4.0], 2.0), "masked where|is masked"),
        (lambda texts: [1.0, 2.0, np.ma.masked, 3.0], "a masked value is no number"),
        (lambda texts: [1j] * 4, "a complex number is no real number"),
        (lambda texts: torch.ones(4, dtype=torch.complex64), "a complex number is no real"),
        (lambda texts: [1.0, None, 1.0, 1.0], "these are no numbers"),
        (lambda texts: {"a": 1.0}, "these are no numbers"),
        (lambda texts: (1.0 for _ in texts), "these are no numbers"),
        (lambda texts: sys.exit(0), r"raised SystemExit: 0 \(sample 0 of 4, the text 'anna'\)"),
    ],
)
def test_a_failing_feature_names_itself_and_the_text(function, message):
    _ = feature("broken")(function)
    with pytest.raises(RunError, match=message) as caught:
        _ = feature_values(["broken"], TEXTS)
    assert "'broken'" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3, 4],
        (1.0, 2.0, 3.0, 4.0),
        np.arange(1, 5, dtype=np.float32),
        [np.float32(1), np.int64(2), 3, 4.0],
        [True, 2, 3, 4],
        [Decimal(1), Fraction(2), 3, 4],
        torch.arange(1.0, 5.0, requires_grad=True),
        [torch.tensor(float(n), requires_grad=True) for n in range(1, 5)],
        torch.arange(1.0, 5.0, dtype=torch.bfloat16),
    ],
)
def test_numbers_of_every_library_are_numbers(values):
    _ = feature("mine")(lambda texts: values)
    assert feature_values(["mine"], TEXTS)[:, 0].tolist() == [1, 2, 3, 4]


def test_a_function_gets_its_texts_in_blocks():
    sizes: list[int] = []

    def length(texts):
        sizes.append(len(texts))
        return [len(text) for text in texts]

    texts = ["a" * (row % 7) for row in range(2_500)]
    found = call_on_texts("feature 'length'", length, {}, texts, {})
    assert found.tolist() == [len(text) for text in texts]
    assert sizes == [1024, 1024, 452]
    assert call_on_texts("feature 'length'", length, {}, [], {}).tolist() == []


def test_a_function_that_changes_what_it_is_given_changes_nothing_for_the_next():
    @feature("greedy")
    def greedy(texts, tokens, completions):
        texts.sort(reverse=True)
        completions.clear()
        for row in tokens:
            row.clear()
        return [0.0] * len(texts)

    @score("changes_log_base")
    def changes_log_base(log_base, texts):
        log_base[:] = 0.0
        return log_base

    texts, tokens = ["b", "a"], [[1, 2], [3]]
    given = {"tokens": tokens, "completions": texts}
    found = feature_values(["greedy", "tokens", "characters"], texts, **given)
    assert found.tolist() == [[0, 2, 1], [0, 1, 1]]
    assert (texts, tokens) == (["b", "a"], [[1, 2], [3]])
    log_base = np.array([1.0, 2.0])
    assert score_values("changes_log_base", log_base, texts).tolist() == [0, 0]
    assert log_base.tolist() == [1, 2]


def test_a_column_that_a_function_changes_is_whole_for_the_next_sample_and_function():
    @feature("takes_one")
    def takes_one(texts, *, answer):
        return [one["right"].pop() for one in answer]

    @feature("counts")
    def counts(texts, *, answer):
        return [len(one["right"]) for one in answer]

    # Samples of one prompt share the values of its line.
    answer = {"right": [5.0, 7.0]}
    columns = {"answer": [answer, answer]}
    found = feature_values(["takes_one", "counts"], ["a", "b"], columns=columns)
    assert found.tolist() == [[7, 2], [7, 2]]
    assert answer == {"right": [5.0, 7.0]}


def test_a_function_is_given_what_its_arguments_are_called():
    for function, reason in (
        (
            lambda batch: [0.0],
            r"asks for 'batch', which there is not: a function is given t",
        ),
        (lambda texts, answers: [0.0], "asks for 'answers'"),
        (lambda: [0.0], "takes 0 argument"),
        (dict, "is no function"),
    ):
        with pytest.raises(ValueError, match=reason):
            _ = feature("mine")(function)
    # Optional arguments of its own, and a first one that it says not to look at, are left alone.
    _ = feature("mine")(lambda texts, weight=2.0, tokens=(): [weight + len(tokens)] * len(texts))
    assert feature_values(["mine"], ["x"], tokens=[[1]]).tolist() == [[3.0]]
    _ = feature("mine")(lambda *args, **options: [float(len(args[0]))])
    assert feature_values(["mine"], ["x"]).tolist() == [[1.0]]
    _ = feature("mine")(lambda _: [5.0])
    assert feature_values(["mine"], ["x"]).tolist() == [[5.0]]
    _ = score("mine")(lambda texts, log_base: log_base + len(texts))
    assert score_values("mine", np.zeros(2), ["x", "y"]).tolist() == [2, 2]


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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('probability("/a/b/judge", good) > 0.5', 'probability("judge", good) > 0.5'),
        ("reward_model(model='../x/judge')", "reward_model(model='judge')"),
        ("log_probability('a/b/judge', 'good')", "log_probability('judge', 'good')"),
        ('probability("someone/judge", good)', 'probability("someone/judge", good)'),
        ('contains("/etc/passwd") and female', 'contains("/etc/passwd") and female'),
    ],
)
def test_a_classifiers_folder_is_shown_by_its_last_part(name, shown):
    assert short_name(name) == shown


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
        ("rewards.py:no_arguments", r"takes 0 argument\(s\), but it is called with 1 at least"),
        (
            "rewards.py:typo",
            "asks for 'completion', which there is not: a function is given",
        ),
        ("rewards.py:later", "later in rewards.py is an async function"),
        ("rewards.py:Weights", "Weights in rewards.py is a class: name a function"),
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


def test_a_file_may_import_its_neighbours_while_it_is_loaded(tmp_path):
    folder = tmp_path / "rewards_of_mine"
    folder.mkdir()
    _ = (folder / "neighbour_of_rewards.py").write_text("WEIGHT = 2.0\n")
    _ = (folder / "rewards.py").write_text(
        "from neighbour_of_rewards import WEIGHT\n"
        "def f(texts):\n    return [WEIGHT for _ in texts]\n"
    )
    before = list(sys.path)
    assert feature_values([f"{folder}/rewards.py:f"], ["x"]).tolist() == [[2.0]]
    assert sys.path == before
    _ = (folder / "lost.py").write_text("import no_such_neighbour\ndef f(texts):\n    return []\n")
    with pytest.raises(
        RunError, match=r"No module named 'no_such_neighbour'.*looked for beside it"
    ):
        _ = get_feature(f"{folder}/lost.py:f")
    assert sys.path == before


@pytest.mark.parametrize("how", ["raise SystemExit(0)", "import sys; sys.exit()", "exit(0)"])
def test_a_file_that_leaves_the_program_is_an_error(tmp_path, how):
    path = tmp_path / "leaves.py"
    _ = path.write_text(f"{how}\ndef f(texts):\n    return [1.0 for _ in texts]\n")
    with pytest.raises(RunError, match=r"leaves\.py raised SystemExit while it was loaded"):
        _ = get_feature(f"{path}:f")


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


@pytest.mark.slow
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
