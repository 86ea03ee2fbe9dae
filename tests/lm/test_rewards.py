"""Features that a recipe writes out: what each returns, how they combine, what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.lm_models import END, TURN, make_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

from lm.config import RunConfig, TargetConfig
from lm.config.options import parse_config
from lm.errors import RunError, UsageError
from lm.features import registry
from lm.features.registry import FEATURES, feature, feature_values, get_feature
from lm.run.inputs import input_digests


def _of(name: str, texts: list[str], **material: Any) -> list[float]:
    return feature_values([name], texts, **material)[:, 0].tolist()


def _needs(module: str):
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"no {module}: pip install '.[rewards]'")


def test_contains_sees_whole_words_in_any_capitals():
    texts = ["Art is long", "a start", "art.", "state-of-the-art", "", "ART"]
    assert _of("contains(art)", texts) == [1, 0, 1, 1, 0, 1]
    assert _of('contains("of the", long)', ["long ago", "top of  the hill", "off there"]) == [
        1,
        1,
        0,
    ]
    assert _of("count(art)", ["art art, artful Art", "none"]) == [3, 0]
    # The longest phrase is one word, not two.
    assert _of('count("new york", new)', ["new york is new"]) == [2]


def test_a_list_of_words_is_a_file_that_the_run_depends_on(tmp_path):
    path = tmp_path / "words.txt"
    _ = path.write_text("joy\n\nice cream\n")
    name = f"contains(list={str(path)!r})"
    assert _of(name, ["ice  cream!", "a joyful ice", "Joy"]) == [1, 0, 1]
    config = RunConfig(target=TargetConfig(moments={name: 0.5}))
    assert str(path) in input_digests(config)


def test_matches_is_a_regular_expression():
    assert _of(r'matches(r"\bin\b.*\d")', ["in 2024", "begin 1", "in", "In 1"]) == [1, 0, 0, 0]


def test_lengths_are_thresholds_of_the_features_that_count():
    texts, tokens = ["abc", "a", ""], [[1, 2], [3], []]
    found = feature_values(["1 < characters <= 3", "tokens < 2"], texts, tokens=tokens)
    np.testing.assert_array_equal(found, [[1, 0], [0, 1], [0, 1]])


def test_valid_python_is_compiled_and_never_executed(tmp_path):
    witness = tmp_path / "executed"
    texts = [
        f"open({str(witness)!r}, 'w')",
        "def f(:",
        "return 1",
        "x = '\\w'",
        "\0",
        "(" * 1000,
        "1" * 5000,
        "",
    ]
    assert _of("valid_python", texts) == [1, 0, 0, 1, 0, 0, 0, 1]
    assert not witness.exists()
    # A body is judged with its signature, which is the prompt.
    body = {"prompts": ["def f():\n"], "completions": ["    return 1\n"]}
    assert _of("valid_python(of=texts)", ["def f():\n    return 1\n"], **body) == [1]
    assert _of("valid_python", ["def f():\n    return 1\n"], **body) == [0]


def test_has_docstring_looks_at_the_first_function():
    documented = 'def f():\n    """Return 1."""\n    return 1\n'
    texts = [documented, "def f():\n    return 1\n", '"""Of the file."""\n', "def f(:"]
    assert _of("has_docstring", texts) == [1, 0, 0, 0]


def test_valid_json_with_keys():
    texts = ['{"name": 1, "age": 2}', ' {"name": 1} ', "[1]", "NaN", '"name"', "[" * 100_000, ""]
    assert _of("valid_json", texts) == [1, 1, 1, 0, 1, 0, 0]
    assert _of("valid_json(name, age)", texts) == [1, 0, 0, 0, 0, 0, 0]


@_needs("pycodestyle")
def test_pep8_is_valid_python_without_a_complaint():
    texts = ["x = 1", "x=1", "x = 1\n", "def f(:", f"x = '{'a' * 80}'", "def f():\n    return 1"]
    assert _of("pep8", texts) == [1, 0, 1, 0, 0, 1]


@_needs("vaderSentiment")
def test_sentiment_is_the_compound_score_of_vader():
    good, bad, neutral = _of("sentiment", ["This is great!", "This is horrible.", "A table."])
    assert good == 0.6588
    assert bad < -0.4
    assert neutral == 0
    assert get_feature("sentiment").bounds == (-1.0, 1.0)


def test_thresholds_and_conjunctions():
    texts = ["joy", "joy and pain", "pain", "x" * 30]
    assert _of("contains(joy) and not contains(pain)", texts) == [1, 0, 0, 0]
    assert _of("contains(joy) or characters >= 30", texts) == [1, 1, 0, 1]
    assert _of("contains(joy) and (characters > 3 or words < 2)", texts) == [1, 1, 0, 0]
    assert get_feature("characters > 3").bounds == (0.0, 1.0)


def test_a_feature_in_several_expressions_is_called_once(monkeypatch):
    monkeypatch.setattr(registry, "FEATURES", dict(FEATURES))
    calls = []

    @feature("slow")
    def slow(texts):
        calls.append(len(texts))
        return [float(len(text)) for text in texts]

    found = feature_values(["slow > 1", "slow > 2 and slow < 9"], ["a", "bb", "ccc"])
    np.testing.assert_array_equal(found, [[0, 0], [1, 0], [1, 1]])
    assert calls == [3]


def test_a_threshold_does_not_hide_a_nan(monkeypatch):
    monkeypatch.setattr(registry, "FEATURES", dict(FEATURES))

    @feature("broken")
    def broken(texts):
        return [float("nan") for _ in texts]

    with pytest.raises(RunError, match=r"feature 'broken' is nan for the text 'a' \(sample 0"):
        _ = feature_values(["broken > 0.5"], ["a"])


def test_features_of_listed_names_say_so_and_the_short_names_stay():
    for name in ("female", "male", "ends_in_i", "contains_x"):
        assert FEATURES[f"listed_{name}"] is FEATURES[name]
    listed = {name for name, one in FEATURES.items() if one.lives_on_list}
    assert {name.removeprefix("listed_") for name in listed} <= {*listed, "length", "sonority"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("contains()", "contains needs a word: contains(joy)"),
        ("contains(3)", "has the number 3 for a word: put it in quotes"),
        ("contains(list='no.txt')", "no.txt') cannot be read (No such file or directory)"),
        ("contains(joy, lst='x')", "got an unexpected keyword argument 'lst'"),
        ("contains(joy, of=all)", "looks at 'all': of is completions, texts, prompts"),
        ("contains(is)", "put a word that is no name in quotes"),
        ('matches("(")', "is no regular expression: missing )"),
        ('matches("\\bjoy")', 'write a regular expression as r"..."'),
        ('matches("\\w")', 'a regular expression in r"..."'),
        ("sentimant > 0.5", "unknown feature 'sentimant'; did you mean 'sentiment'?"),
        ("characters(3)", "the feature characters has no parameters"),
        ("characters == 3", "compares by something else than >, >=, <, <="),
        ("characters + words", "holds 'characters + words', which is no feature"),
        ("1 < 2", "compares numbers, and no feature"),
        ("__import__('os').system('x')", "which is no feature"),
        ("probability(nowhere)", "missing a required argument: 'label'"),
        ("probability(nowhere, x, device=tpu)", "is 'tpu': it is auto, cpu or cuda"),
        ("contains(joy) and", "cannot be read"),
        ("valid_json(" * 300, "is longer than 2000 characters"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(name, message):
    with pytest.raises(ValueError, match=_literal(message)):
        _ = TargetConfig(kind="constrained", constraints=(name,))


def test_without_its_library_a_feature_names_the_extra(monkeypatch):
    from lm.features.makers import make

    make.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    for name in ("pep8", "sentiment > 0"):
        with pytest.raises(ValueError, match=r"python -m pip install '.\[rewards\]' in a clone"):
            _ = TargetConfig(kind="constrained", constraints=(name,))


def test_a_recipe_and_the_command_line_write_features_alike(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    _ = recipe.write_text(
        "target:\n"
        "  kind: reward_tilted\n"
        "  reward:\n"
        "    contains(joy, happy): 2.0\n"
        "    'matches(r\"\\d\") and characters < 40': -1.0\n"
    )
    rewards = {"contains(joy, happy)": 2.0, 'matches(r"\\d") and characters < 40': -1.0}
    assert parse_config(RunConfig, [str(recipe)], program="lm").target.reward == rewards
    words = ["--target.kind", "reward_tilted", "--target.reward", json.dumps(rewards)]
    assert parse_config(RunConfig, words, program="lm").target.reward == rewards
    with pytest.raises(UsageError, match="sentimant"):
        _ = parse_config(RunConfig, [*words[:3], '{"sentimant": 1}'], program="lm")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """Return the folder of a tiny classifier with the labels sad and glad."""
    return _classifier(tmp_path_factory.mktemp("classifier"), {0: "sad", 1: "glad"})


def _classifier(folder: Path, labels: dict[int, str], **changes) -> Path:
    config = LlamaConfig(
        vocab_size=TURN + 1,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        pad_token_id=END,
        id2label=labels,
        label2id={name: key for key, name in labels.items()},
        **changes,
    )

    # Random weights, and the tokenizer of the tiny Llama with padding.
    with torch.random.fork_rng(devices=[]):
        _ = torch.manual_seed(0)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer = make_tokenizer(adds_begin=True)
    tokenizer.pad_token = tokenizer.eos_token
    _ = tokenizer.save_pretrained(folder)
    return folder


TEXTS = ["the cat", "", "a much longer line of text", "the cat"]


def test_a_classifier_gives_the_probability_of_a_label(classifier):
    names = [f"{kind}({str(classifier)!r}, glad)" for kind in ("probability", "log_probability")]
    found = feature_values([*names, f"probability({str(classifier)!r}, sad)"], TEXTS)
    np.testing.assert_allclose(np.exp(found[:, 1]), found[:, 0], rtol=1e-12)
    np.testing.assert_allclose(found[:, 0] + found[:, 2], 1.0, rtol=1e-12)
    assert found[0, 0] == pytest.approx(found[3, 0], rel=1e-6)

    # A text by itself, as transformers scores it: batches and padding change nothing.
    model = LlamaForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = make_tokenizer(adds_begin=True)
    for text, value in zip(TEXTS, found[:, 0], strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokenizer.encode(text)])).logits[0]
        assert float(logits.softmax(-1)[1]) == pytest.approx(value, rel=1e-5)


def test_a_classifier_is_float32_whatever_the_policy_computes_in(classifier):
    name = f"probability({str(classifier)!r}, glad)"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = _of(name, TEXTS)
    assert inside == _of(name, TEXTS)


def test_a_label_that_is_not_there_is_refused_with_those_that_are(classifier):
    with pytest.raises(ValueError, match="has no label 'happy': it has sad, glad"):
        _ = TargetConfig(
            kind="reward_tilted", reward={f"probability({str(classifier)!r}, happy)": 1.0}
        )


def test_a_reward_model_has_one_number(classifier, tmp_path):
    with pytest.raises(RunError, match=r"so it is a classifier: write log_probability\("):
        _ = _of(f"reward_model({str(classifier)!r})", TEXTS)
    single = _classifier(tmp_path, {0: "reward"})
    assert len(set(_of(f"reward_model({str(single)!r})", TEXTS))) == 3


def test_several_labels_may_hold_at_once(tmp_path):
    several = {"problem_type": "multi_label_classification"}
    folder = _classifier(tmp_path, {0: "a", 1: "b"}, **several)
    names = [f"probability({str(folder)!r}, {label})" for label in "ab"]
    assert abs(feature_values(names, TEXTS).sum(-1) - 1.0).max() > 1e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_another_device_is_refused_where_there_is_none(classifier):
    with pytest.raises(RunError, match="is wanted on cuda, but torch sees no GPU"):
        _ = _of(f"probability({str(classifier)!r}, glad, device=cuda)", TEXTS)


def test_what_is_no_classifier_is_refused(classifier, tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"the classifier .*nowhere does not load"):
        _ = _of(f"probability({str(tmp_path / 'nowhere')!r}, glad)", TEXTS)
    with pytest.raises(RunError, match=r"reads 32 tokens at most, but 'x+' has 51"):
        _ = _of(f"probability({str(classifier)!r}, glad)", ["x" * 50])

    # Logits of each token, as a tagger has them.
    from lm.features.classifier import _load

    model = _load(str(classifier), "auto").model
    forward = type(model).forward

    def of_tokens(self, **inputs):
        found = forward(self, **inputs)
        found.logits = found.logits[:, None].expand(-1, 3, -1)
        return found

    monkeypatch.setattr(type(model), "forward", of_tokens)
    with pytest.raises(RunError, match=r"logits of the shape \(1, 3, 2\) for 1 texts and 2 labels"):
        _ = _of(f"probability({str(classifier)!r}, glad)", ["a"])


def _literal(message: str) -> str:
    import re

    return re.escape(message)
