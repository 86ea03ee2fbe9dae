"""Prompts with columns, as messages of a chat, from a data set, and one that is fixed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lm_models import BEGIN, TURN, make_llama_folder
from transformers import AutoTokenizer

from lm.config import (
    EvaluationConfig,
    PartitionConfig,
    PromptsConfig,
    RunConfig,
    TargetConfig,
    resolve,
)
from lm.errors import RunError
from lm.features import registry
from lm.features.registry import FEATURES, feature, feature_values
from lm.models.tokenizer import TokenizerVocabulary
from lm.policy.load import load_policy
from lm.target.problem import build_problem
from lm.target.prompt_file import read_prompt_lines
from lm.train import train

TEMPLATE = (
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + ': ' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>' }}{% endif %}"
)
needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None,
    reason="no datasets: pip install '.[datasets]'",
)


@pytest.fixture(autouse=True)
def _own_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "FEATURES", dict(FEATURES))


def _jsonl(tmp_path: Path, *rows: object) -> str:
    path = tmp_path / "prompts.jsonl"
    _ = path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _config(folder: Path, prompts: PromptsConfig, target: TargetConfig, **changes) -> RunConfig:
    options = {
        "model": str(folder),
        "prompts": prompts,
        "target": target,
        "max_new_tokens": 4,
        "batch_size": 8,
        "steps": 2,
        "partition": PartitionConfig(samples=64),
        "evaluation": EvaluationConfig(samples=16, group=4, texts=2, target_samples=0, every=2),
        "device": "cpu",
        "report": False,
    }
    return resolve(RunConfig(**{**options, **changes}))


def _rewarded(name: str) -> TargetConfig:
    return TargetConfig(kind="reward_tilted", reward={name: 1.0}, beta=1.0)


def test_columns_reach_a_function_by_the_names_after_the_star(tmp_path):
    seen = []

    @feature("right")
    def right(completions, *, answer, level):
        seen.extend(zip(answer, level, strict=True))
        return [float(text == wanted) for text, wanted in zip(completions, answer, strict=True)]

    rows = [
        {"prompt": "the cat", "answer": "a", "level": 1},
        {"prompt": "the co", "answer": "b", "level": 2, "only here": True},
    ]
    folder = make_llama_folder(tmp_path / "model")
    config = _config(folder, PromptsConfig(file=_jsonl(tmp_path, *rows)), _rewarded("right"))
    _ = build_problem(config, load_policy(folder, max_new_tokens=4))
    # The samples of each prompt come with what stands on its line; the first two are the trial.
    assert seen[2:] == [("a", 1)] * 32 + [("b", 2)] * 32


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    @feature("right")
    def right(completions, *, solution):
        return [0.0 for _ in completions]

    folder = make_llama_folder(tmp_path / "model")
    base = load_policy(folder, max_new_tokens=4)
    rows = [{"prompt": "the cat", "answer": "a"}, {"prompt": "the co", "answer": "b", "level": 2}]
    config = _config(folder, PromptsConfig(file=_jsonl(tmp_path, *rows)), _rewarded("right"))
    with pytest.raises(RunError, match=r"asks for the column 'solution' .*they have answer: name"):
        _ = build_problem(config, base)
    with pytest.raises(RunError, match=r"asks for the column 'solution' .*they have none"):
        _ = build_problem(_config(folder, PromptsConfig(text="the"), _rewarded("right")), base)
    with pytest.raises(RunError, match="asks for the column 'solution'"):
        _ = feature_values(["right"], ["x"])


def test_another_key_holds_the_prompt_and_a_missing_one_lists_the_keys(tmp_path):
    path = _jsonl(tmp_path, {"question": "why", "answer": "so"})
    (line,) = read_prompt_lines(path, column="question")
    assert (line.number, line.text, line.columns) == (1, "why", {"answer": "so"})
    with pytest.raises(RunError, match=r'line 1 has no text under the key "prompt" \(it has quest'):
        _ = read_prompt_lines(path)


def _vocabulary(path: Path) -> TokenizerVocabulary:
    """Return the vocabulary of a model with a chat template, stored and loaded again."""
    folder = make_llama_folder(path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    _ = tokenizer.save_pretrained(folder)
    vocabulary = load_policy(folder, max_new_tokens=4).vocabulary
    assert isinstance(vocabulary, TokenizerVocabulary)
    return vocabulary


@pytest.mark.parametrize("key", ["messages", "prompt"])
def test_messages_go_through_the_template_without_a_second_start(tmp_path, key):
    vocabulary = _vocabulary(tmp_path)
    chat = [{"role": "user", "content": "the cat"}]
    path = _jsonl(tmp_path, {key: chat})
    (line,) = read_prompt_lines(path, chat=vocabulary.chat_text)
    assert line.text == "<|turn|>user: the cat<|turn|>"

    # The template writes no start token, and none is put before what it writes.
    (row,) = vocabulary.encode_prompts([line.text])
    options: Any = {"add_generation_prompt": True, "return_dict": True}
    found: Any = vocabulary.tokenizer.apply_chat_template(chat, **options)
    assert row == found["input_ids"]
    assert (row[0], row[-1], BEGIN in row) == (TURN, TURN, False)
    # A plain text still begins as the tokenizer begins it.
    assert vocabulary.encode_prompts(["the cat"])[0][0] == BEGIN


def test_the_answer_of_the_assistant_is_gone_on_with(tmp_path):
    vocabulary = _vocabulary(tmp_path)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "the"}]
    (line,) = read_prompt_lines(_jsonl(tmp_path, {"prompt": chat}), chat=vocabulary.chat_text)
    assert line.text == "<|turn|>user: a<|turn|>assistant: the"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "user", "content": "a"}], "but the model has no chat template"),
        ([{"role": "user"}], 'an object with the texts "role" and "content"'),
        (["a"], "holds the message 'a'"),
        ([], "holds no message"),
    ],
)
def test_a_chat_that_cannot_be_given_is_named_with_its_line(tmp_path, messages, reason):
    path = _jsonl(tmp_path, {"prompt": "the cat"}, {"prompt": messages})
    with pytest.raises(RunError, match=f"line 2 .*{reason}"):
        _ = read_prompt_lines(path)


def test_moments_are_held_after_one_fixed_prompt(tmp_path):
    folder = make_llama_folder(tmp_path / "model")
    target = TargetConfig(moments={"contains(a)": 0.5, "characters": "base"})
    with pytest.raises(ValueError, match=r"or one prompt as prompts\.text"):
        _ = _config(folder, PromptsConfig(file="prompts.txt"), target)

    @feature("short")
    def short(completions):
        return [float(len(text) < 3) for text in completions]

    target = TargetConfig(moments={"short": 0.5})
    config = _config(folder, PromptsConfig(text=" the"), target, output=str(tmp_path / "run"))
    problem = build_problem(config, load_policy(folder, max_new_tokens=4))
    assert problem.prompt_texts == (" the",)
    assert float(problem.target.moments[0]) == pytest.approx(0.5, abs=1e-6)
    assert torch.isfinite(problem.log_z).all()
    assert (train(config) / "policy").is_dir()


def test_a_data_set_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RunError, match=r"python -m pip install '.\[datasets\]' in a clone"):
        _ = read_prompt_lines(str(tmp_path))


@needs_datasets
def test_a_data_set_is_read_from_its_folder(tmp_path):
    datasets = importlib.import_module("datasets")
    table = datasets.Dataset.from_dict({"prompt": ["a", "b"], "answer": [1, 2]})
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": table}).save_to_disk(str(tmp_path / "several"))
    lines = read_prompt_lines(str(tmp_path / "one"))
    assert [(line.number, line.text, line.columns) for line in lines] == [
        (1, "a", {"answer": 1}),
        (2, "b", {"answer": 2}),
    ]
    assert len(read_prompt_lines(str(tmp_path / "several"), split="test")) == 2
    with pytest.raises(RunError, match="has no split 'train': it has test"):
        _ = read_prompt_lines(str(tmp_path / "several"))
    with pytest.raises(RunError, match=r"no text under the key \"text\" \(it has prompt, answer\)"):
        _ = read_prompt_lines(str(tmp_path / "one"), column="text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="cannot be read as a data set"):
        _ = read_prompt_lines(str(tmp_path / "empty"))
    with pytest.raises(RunError, match="there is no name after hf:"):
        _ = read_prompt_lines("hf:")
    datasets.Dataset.from_dict({"prompt": []}).save_to_disk(str(tmp_path / "rowless"))
    with pytest.raises(RunError, match="holds no prompt: give it one per line"):
        _ = read_prompt_lines(str(tmp_path / "rowless"))
