"""`python -m lm partition`: log Z of each prompt as a column, resumed, and refused by name."""

from __future__ import annotations

import datetime
import importlib
import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lm_models import make_llama_folder

from lm.cli import partition
from lm.cli.main import main
from lm.policy import load_policy
from lm.policy.prompts import Prompts
from lm.run.files import held_file
from lm.target.prompt_file import refuse_same_tokens

PROMPTS = ("ann", "bo", "cleo")
SAMPLES = 200
LENGTH = ("--max-new-tokens", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("partition")
    _ = make_llama_folder(path / "model")
    rows = [{"prompt": text, "number": i} for i, text in enumerate(PROMPTS)]
    _ = (path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def features(folder: Path) -> str:
    """A file of features: of the first token, whose law is one row of the model, and of nothing."""
    path = folder / "mine.py"
    even = "def even(texts, tokens):\n    return [float(t[0] % 2 == 0) for t in tokens]\n"
    _ = path.write_text(f"{even}\ndef never(texts):\n    return [0.0] * len(texts)\n")
    return str(path)


def run(folder: Path, output: Path, *target: str, samples: int = SAMPLES) -> int:
    files = [str(folder / "model"), str(folder / "prompts.jsonl"), str(output)]
    sizes = ["--samples", str(samples), *LENGTH]
    return main(["partition", *files, *target, *sizes])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def exact_pass_rates(folder: Path) -> list[float]:
    """Return the probability that the first token is even, summed over the vocabulary."""
    policy = load_policy(folder / "model", max_new_tokens=3)
    even = torch.arange(0, policy.vocabulary_size, 2)[:, None]
    rates = []
    for row in policy.vocabulary.encode_prompts(list(PROMPTS)):
        prompts = Prompts.from_ids([row]).repeat(len(even))
        with torch.no_grad():
            found = policy.log_prob(even, torch.ones_like(even, dtype=torch.bool), prompts=prompts)
        rates.append(float(found.double().exp().sum()))
    return rates


def test_log_z_of_a_verifier_is_its_log_pass_rate(folder, features, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    assert run(folder, output, "--constraints", f"{features}:even") == 0
    assert "log Z of 3 prompts, 200 base samples each" in capsys.readouterr().out
    rows = read(output)
    assert [(row["prompt"], row["number"]) for row in rows] == [
        *zip(PROMPTS, range(3), strict=True)
    ]
    for row, rate in zip(rows, exact_pass_rates(folder), strict=True):
        found = math.exp(row["log_z"])
        # The standard error of a share is that of a coin, relative to the share.
        coin = math.sqrt(found * (1 - found) / SAMPLES) / found
        assert row["log_z_error"] == pytest.approx(coin, rel=0.01)
        assert abs(found - rate) < 5 * coin * found


def test_log_z_of_a_reward(folder, features, tmp_path):
    output = tmp_path / "out.jsonl"
    assert run(folder, output, "--reward", f"{features}:even=2", "--beta", "0.5") == 0
    for row, rate in zip(read(output), exact_pass_rates(folder), strict=True):
        exact = math.log(rate * math.exp(4) + 1 - rate)
        assert abs(row["log_z"] - exact) < 5 * row["log_z_error"]


def test_a_second_call_goes_on_where_the_first_ended(folder, features, tmp_path, capsys):
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    target = ("--constraints", f"{features}:even")
    assert run(folder, whole, *target) == 0
    assert run(folder, torn, *target) == 0
    lines = torn.read_text().splitlines(keepends=True)
    _ = torn.write_text(lines[0] + lines[1][:17])
    _ = capsys.readouterr()
    assert run(folder, torn, *target) == 0
    assert "torn.jsonl: 1 of 3 prompts are done" in capsys.readouterr().out
    assert torn.read_bytes() == whole.read_bytes()


def test_other_settings_and_foreign_files_are_not_continued(folder, features, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    assert run(folder, output, "--constraints", f"{features}:even", samples=4) == 0
    _ = capsys.readouterr()
    assert run(folder, output, "--constraints", f"{features}:even", samples=8) == 2
    assert "was begun with another samples (4)" in capsys.readouterr().err
    (tmp_path / "out.jsonl.settings.json").unlink()
    assert run(folder, output, "--constraints", f"{features}:even", samples=4) == 2
    assert "is there and not of this command: name another file" in capsys.readouterr().err


def test_what_is_in_the_files_is_one_of_the_settings(folder, features, tmp_path, capsys):
    mine, output = tmp_path / "mine.py", tmp_path / "out.jsonl"
    _ = shutil.copy(features, mine)
    target = ("--constraints", f"{mine}:even")
    assert run(folder, output, *target, samples=4) == 0
    settings = json.loads((tmp_path / "out.jsonl.settings.json").read_text())
    assert {f"content of {folder / 'model'}", f"content of {mine}"} < set(settings)

    # A verifier that was edited is another target.
    lines = output.read_text().splitlines(keepends=True)
    _ = output.write_text(lines[0])
    _ = mine.write_text(mine.read_text().replace("== 0", "== 1"))
    assert run(folder, output, *target, samples=4) == 2
    assert f"was begun with another content of {mine}" in capsys.readouterr().err
    assert output.read_text() == lines[0]

    # A file of an earlier version, which did not look, is continued.
    stored = {name: value for name, value in settings.items() if "content" not in name}
    _ = (tmp_path / "out.jsonl.settings.json").write_text(json.dumps(stored))
    assert run(folder, output, *target, samples=4) == 0


def test_a_longest_sample_that_was_drawn_by_another_law_ends_it(
    folder, features, tmp_path, capsys, monkeypatch
):
    def shifted(*words: Any, **options: Any) -> Any:
        policy: Any = load_policy(*words, **options)
        score = policy.score
        policy.score = lambda samples: score(samples) + 1.0
        return policy

    monkeypatch.setattr(partition, "load_policy", shifted)
    output = tmp_path / "out.jsonl"
    assert run(folder, output, "--constraints", f"{features}:even", samples=4) == 2
    assert "sampler and its scorer disagree" in capsys.readouterr().err
    assert read(output) == []


def test_two_processes_do_not_write_one_file(folder, features, tmp_path, capsys, monkeypatch):
    output, target = tmp_path / "out.jsonl", ("--constraints", f"{features}:even")
    with held_file(output):
        assert run(folder, output, *target, samples=4) == 2
    assert "another process writes to" in capsys.readouterr().err

    # Or one that was through with it while the model was loaded.
    def slow(*words: Any, **options: Any) -> Any:
        monkeypatch.setattr(partition, "refuse_same_tokens", refuse_same_tokens)
        assert run(folder, output, *target, samples=4) == 0

    monkeypatch.setattr(partition, "refuse_same_tokens", slow)
    assert run(folder, output, *target, samples=4) == 2
    assert "another process has written to" in capsys.readouterr().err
    assert len(read(output)) == 3


@pytest.mark.parametrize("foreign", ['{"x": 1}', "[1]", "no JSON"])
def test_what_is_not_ours_stays_as_it_is(folder, features, tmp_path, capsys, foreign):
    output, beside = tmp_path / "out.jsonl", tmp_path / "out.jsonl.settings.json"
    _ = beside.write_text(foreign)
    assert run(folder, output, "--constraints", f"{features}:even", samples=4) == 2
    assert "so it is not replaced" in capsys.readouterr().err
    _ = output.write_text("mine")
    assert run(folder, output, "--constraints", f"{features}:even", samples=4) == 2
    assert "is there and not of this command" in capsys.readouterr().err
    assert (beside.read_text(), output.read_text()) == (foreign, "mine")


@pytest.mark.parametrize("change", ["another", "more", "text"])
def test_a_file_that_others_wrote_to_is_not_continued(folder, features, tmp_path, capsys, change):
    output, target = tmp_path / "out.jsonl", ("--constraints", f"{features}:even")
    assert run(folder, output, *target, samples=4) == 0
    lines = output.read_text().splitlines(keepends=True)
    other = lines[0].replace("ann", "eve")
    _ = output.write_text(
        "".join({"another": [other], "more": [*lines, other], "text": ["x\n"]}[change])
    )
    before = output.read_bytes()
    assert run(folder, output, *target, samples=4) == 2
    number = 4 if change == "more" else 1
    assert f"line {number} is not log Z of prompt {number}" in capsys.readouterr().err
    assert output.read_bytes() == before


def test_a_model_that_does_not_load_leaves_nothing_behind(folder, tmp_path, capsys):
    words = [str(tmp_path / "none"), str(folder / "prompts.jsonl"), str(tmp_path / "a/out.jsonl")]
    assert main(["partition", *words, "--constraints", "letters"]) == 2
    assert "none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_never_met_has_no_number(folder, features, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    assert run(folder, output, "--constraints", f"{features}:never", samples=4) == 0
    assert {row["log_z"] for row in read(output)} == {None}
    assert "3 prompts have log_z null: none of 4 samples met" in capsys.readouterr().out


def test_messages_of_a_chat_go_through_the_models_template(folder, features, tmp_path, capsys):
    chat = tmp_path / "chat.jsonl"
    _ = chat.write_text(json.dumps({"prompt": [{"role": "user", "content": "ann"}]}) + "\n")
    words = [str(folder / "model"), str(chat), str(tmp_path / "out.jsonl"), "--samples", "4"]
    target = ["--constraints", f"{features}:even", *LENGTH]
    assert main(["partition", *words, *target]) == 2
    assert "the model has no chat template" in capsys.readouterr().err

    # The same model with one.
    model = tmp_path / "chatty"
    _ = shutil.copytree(folder / "model", model)
    template = "{% for m in messages %}{{ '<|turn|>' + m['content'] }}{% endfor %}"
    _ = (model / "chat_template.jinja").write_text(template)
    assert main(["partition", str(model), *words[1:], *target]) == 0
    (row,) = read(tmp_path / "out.jsonl")
    assert row["prompt"] == [{"role": "user", "content": "ann"}]
    assert row["log_z"] <= 0.0


@pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None,
    reason="no datasets: pip install '.[datasets]'",
)
def test_a_data_set_keeps_its_columns(folder, features, tmp_path, capsys):
    datasets = importlib.import_module("datasets")
    rows = {"question": ["ann", "bo"], "level": [1, 2]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "set"))
    output = tmp_path / "out.jsonl"
    words = [str(folder / "model"), str(tmp_path / "set"), str(output), "--column", "question"]
    assert main(["partition", *words, "--constraints", f"{features}:even", *LENGTH]) == 0
    names = ["question", "level", "log_z", "log_z_error"]
    assert [list(row) for row in read(output)] == [names] * 2
    assert [row["level"] for row in read(output)] == [1, 2]

    # What JSON does not hold is refused before anything is written.
    rows = {"question": ["ann"], "day": [datetime.date(2024, 1, 1)]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "dated"))
    words[1:3] = [str(tmp_path / "dated"), str(tmp_path / "dated.jsonl")]
    assert main(["partition", *words, "--constraints", f"{features}:even", *LENGTH]) == 2
    assert "line 1 cannot be written as JSON" in capsys.readouterr().err
    assert not list(tmp_path.glob("dated.jsonl*"))


def test_a_column_that_is_there_already_is_not_written_over(folder, features, tmp_path, capsys):
    prompts = tmp_path / "again.jsonl"
    _ = prompts.write_text('{"prompt": "ann", "log_z": -1.0}\n')
    words = [str(folder / "model"), str(prompts), str(tmp_path / "out.jsonl")]
    assert main(["partition", *words, "--constraints", f"{features}:even", *LENGTH]) == 2
    assert "line 1 has a log_z already: take it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([], "name the target: --reward with --beta, --constraints, or --score"),
        (["--reward", "letters"], "--beta belongs to --reward, and --reward needs it"),
        (["--constraints", "letters", "--beta", "1"], "--beta belongs to --reward"),
        (["--constraints", "letters", "--samples", "1"], "an error needs two samples or more"),
        (["--constraints", "leters"], "leters"),
    ],
)
def test_words_that_do_not_go_together(tmp_path, capsys, target, message):
    files = ["model", "prompts.jsonl", str(tmp_path / "out.jsonl")]
    assert main(["partition", *files, *target]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.json", "prompts.jsonl"])
def test_an_output_of_another_kind_is_refused(capsys, name):
    assert main(["partition", "model", "prompts.jsonl", name, "--constraints", "letters"]) == 2
    assert name in capsys.readouterr().err
