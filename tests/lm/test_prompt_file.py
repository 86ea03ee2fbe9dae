"""Prompt files: what is in them is what the model is given, or the line that is wrong is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.lm_models import make_llama_folder

from lm.config import EvaluationConfig, PartitionConfig, PromptsConfig, RunConfig, TargetConfig
from lm.errors import RunError
from lm.policy.load import load_policy
from lm.target.problem import build_problem
from lm.target.prompt_file import PromptLine, read_prompt_lines, refuse_same_tokens

RECORD = b'{"prompt": "the cat"}\n'


def _write(tmp_path, name: str, content: bytes) -> str:
    path = tmp_path / name
    _ = path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", RECORD),
        ("a.ndjson", RECORD),
        ("a.JSONL", RECORD),
        ("a.Ndjson", RECORD),
        ("a.jsonl", b"\xef\xbb\xbf" + RECORD),
        ("a.txt", b"the cat\n"),
        ("a.TXT", b"the cat\r\n"),
        ("prompts", b"\nthe cat"),
        ("a.txt", b"\xef\xbb\xbfthe cat\n"),
    ],
)
def test_a_prompt_is_its_text_and_nothing_else(tmp_path, name, content):
    (line,) = read_prompt_lines(_write(tmp_path, name, content))
    assert line.text == "the cat"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", b'[{"prompt": "the cat"}]', r"is a \.json file, which is not read: name a text"),
        ("a.csv", b"prompt,answer\nthe cat,3\n", r"is a \.csv file"),
        ("a.CSV", b"prompt\nthe cat\n", r"is a \.csv file"),
        ("a.parquet", b"PAR1", r"is a \.parquet file"),
        ("a.txt", RECORD, r"holds JSON, .* a name that ends in \.jsonl"),
        ("prompts", b'[\n"the cat"\n]\n', "holds JSON"),
        ("a.txt", "the cat\n".encode("utf-16"), "it is not UTF-8 text"),
        ("a.txt", "the cat\n".encode("utf-16-le"), "holds zero bytes"),
        ("a.txt", b"\xff\xfe\xfa", "it is not UTF-8 text"),
        ("a.txt", b"one\rtwo\r", "line 1 holds a carriage return"),
        ("a.txt", b"a\n\nb\na\n", r"holds 'a' twice, in the lines 1 and 4"),
        ("a.jsonl", RECORD + b"\n{\n", "line 3 is not valid JSON"),
        ("a.jsonl", b'{"prompt": " "}\n', 'line 1 has no text under the key "prompt"'),
        ("a.jsonl", b'{"text": "x"}\n', 'line 1 has no text under the key "prompt"'),
        ("a.jsonl", b"3\n", "line 1 has no text"),
        ("a.jsonl", b'{"prompt": "bad \\ud83d here"}\n', "line 1 holds half of a character"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not valid JSON"),
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.txt", b"\xef\xbb\xbf\n", "holds no prompt"),
    ],
)
def test_what_would_become_another_prompt_is_refused(tmp_path, name, content, reason):
    with pytest.raises(RunError, match=reason):
        _ = read_prompt_lines(_write(tmp_path, name, content))


def test_a_prompt_may_hold_every_kind_of_line_break_but_the_files_own(tmp_path):
    path = _write(tmp_path, "a.txt", "one\u2028two\x0bthree\u0085four\nfive".encode())
    assert read_prompt_lines(path) == [
        PromptLine(1, "one\u2028two\x0bthree\u0085four"),
        PromptLine(2, "five"),
    ]


def test_prompts_that_are_the_same_to_the_model_are_named_with_their_lines():
    lines = [PromptLine(1, "a"), PromptLine(4, "A"), PromptLine(5, "b")]
    with pytest.raises(RunError, match=r"the lines 1 and 4 have the same tokens \('a' and 'A'\)"):
        refuse_same_tokens("p.txt", lines, [[7], [7], [8]])
    with pytest.raises(RunError, match=r"line 5 has no token: 'b'"):
        refuse_same_tokens("p.txt", lines, [[7], [6], []])
    refuse_same_tokens("p.txt", lines, [[7], [7, 7], [8]])


def test_a_prompt_that_leaves_no_room_is_named_with_its_line_before_anything_is_drawn(tmp_path):
    base = load_policy(make_llama_folder(tmp_path / "m", tokenizer=False), max_new_tokens=4)
    config = RunConfig(
        target=TargetConfig(kind="reward_tilted", reward={"tokens": 1.0}),
        prompts=PromptsConfig(file=_write(tmp_path, "p.txt", b"1 2\n\n" + b"3 " * 40), per_step=2),
        partition=PartitionConfig(policy="leave_one_out"),
        evaluation=EvaluationConfig(samples=64, group=16, texts=2),
    )
    with pytest.raises(RunError, match=r"line 3: prompt 1 has .* the model has 32: shorten the"):
        _ = build_problem(config, base)
    # Ids are texts here, and two spellings of a number are one token.
    same = _write(tmp_path, "q.txt", b"1 2\n1  2\n")
    with pytest.raises(RunError, match="the lines 1 and 2 have the same tokens"):
        _ = build_problem(replace(config, prompts=PromptsConfig(file=same, per_step=2)), base)
