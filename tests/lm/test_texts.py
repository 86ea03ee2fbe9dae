"""Sample texts along a run: the same each time but for the policy, and harmless wherever shown."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.lm_models import make_llama_folder
from support.lm_runs import SMALL, finished_run, tiny_config

from lm.cli import commands
from lm.cli.main import main
from lm.config import (
    EvaluationConfig,
    PartitionConfig,
    PromptsConfig,
    RunConfig,
    TargetConfig,
    resolve,
)
from lm.errors import RunError
from lm.policy.load import load_policy
from lm.report.build import finish_run
from lm.report.texts import Shown, read_texts, texts_section
from lm.run.records import LONGEST, shortened
from lm.target.problem import build_problem
from lm.train import StepRecord, train
from lm.training.texts import Texts, draw_texts

SEEN = replace(SMALL, texts_every=3, texts_shown=2)
HOSTILE = "a\x1b[2J</td><script>alert(1)</script>\n\u202eb\\c"


def test_steps_at_which_texts_are_shown():
    assert not any(SMALL.shows(step, 7) for step in range(8))
    assert [step for step in range(8) if SEEN.shows(step, 7)] == [0, 3, 6, 7]
    with pytest.raises(ValueError, match=r"evaluation\.texts_every is 0: it must be at least 1"):
        _ = EvaluationConfig(texts_every=0)
    with pytest.raises(ValueError, match=r"evaluation\.texts_shown is 0"):
        _ = EvaluationConfig(texts_shown=0)


def test_prompts_and_random_numbers_are_the_same_each_time(tmp_path):
    folder = make_llama_folder(tmp_path / "model")
    file = tmp_path / "prompts.txt"
    _ = file.write_text("the cat\nthe co\na\n")
    config = resolve(
        RunConfig(
            model=str(folder),
            prompts=PromptsConfig(file=str(file)),
            target=TargetConfig(kind="reward_tilted", reward={"characters": 1.0}, beta=1.0),
            max_new_tokens=4,
            partition=PartitionConfig(samples=12),
            evaluation=EvaluationConfig(texts_every=1, texts_shown=2),
        )
    )
    base = load_policy(folder, max_new_tokens=4)
    problem = build_problem(config, base)
    first = draw_texts(config, problem, base)
    assert (first.prompts, len(first.completions)) == (["the cat", "the co"], 2)
    assert draw_texts(config, problem, base) == first
    other = load_policy(make_llama_folder(tmp_path / "other", seed=1), max_new_tokens=4)
    assert draw_texts(config, problem, other).completions != first.completions

    # Fewer prompts than samples: several of each.
    more = replace(config, evaluation=replace(config.evaluation, texts_shown=7))
    assert [*map(len, draw_texts(more, problem, base))] == [6, 6]


def test_what_a_model_writes_cannot_steer_the_terminal(capsys):
    texts = Texts(["", HOSTILE], ["x" * 500, HOSTILE])
    commands._tell(StepRecord(2, 4, None, None, texts))
    err = capsys.readouterr().err
    assert err.splitlines()[0] == "lm: samples after step 2 of 4"
    assert err.replace("\n", "").isprintable()
    assert len(err.splitlines()) == 3
    assert f"    {'x' * LONGEST}…" in err
    assert shortened("a" * LONGEST + "b", keep="end") == "…" + "a" * (LONGEST - 1) + "b"


def test_what_a_model_writes_is_no_markup_of_the_page():
    shown = [Shown(step, [HOSTILE], [HOSTILE]) for step in range(40)]
    (page,) = texts_section(shown)
    assert "<script>" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "\\x1b[2J&lt;/td&gt;&lt;script&gt;" in page
    steps = [int(cell.split("<")[0]) for cell in page.split("<tr><td>")[1:]]
    assert (steps[0], steps[-1], len(steps)) == (0, 39, 9)
    assert texts_section([]) == []


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[]",
        '{"step": true, "prompts": [""], "completions": ["a"]}',
        '{"step": "1", "prompts": [""], "completions": ["a"]}',
        '{"step": 1, "prompts": [""], "completions": []}',
        '{"step": 1, "prompts": [""], "completions": [1]}',
    ],
)
def test_a_file_that_was_changed_is_named_with_its_line(tmp_path, line):
    good = '{"step": 0, "prompts": [""], "completions": ["a"]}'
    _ = (tmp_path / "texts.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(RunError, match=r"texts\.jsonl, line 2 holds no sample texts"):
        _ = read_texts(tmp_path)
    other = good.replace('""', '"b"')
    _ = (tmp_path / "texts.jsonl").write_text(f"{good}\n{other}\n")
    with pytest.raises(RunError, match="holds samples of other prompts"):
        _ = read_texts(tmp_path)


@pytest.mark.slow
def test_lm_report_names_the_line_and_writes_nothing(tmp_path, capsys):
    run = shutil.copytree(finished_run(), tmp_path / "run")
    before = (run / "report.html").read_bytes()
    _ = (run / "texts.jsonl").write_text("x\n")
    assert main(["report", str(run)]) == 2
    assert "texts.jsonl, line 1 holds no sample texts" in capsys.readouterr().err
    assert (run / "report.html").read_bytes() == before
    _ = (run / "texts.jsonl").write_text('{"step": 0, "prompts": [""], "completions": ["<b>"]}\n')
    page = finish_run(run).read_text(encoding="utf-8")
    assert "The same samples along the run" in page
    assert "&lt;b&gt;" in page


@pytest.mark.slow
def test_texts_change_no_record_and_go_on_with_a_run(tmp_path):
    seen: list[StepRecord] = []
    with_texts = tiny_config(tmp_path / "with", evaluation=SEEN)
    folder = train(with_texts, on_step=seen.append)
    plain = finished_run()
    assert (folder / "metrics.jsonl").read_bytes() == (plain / "metrics.jsonl").read_bytes()
    assert not (plain / "texts.jsonl").exists()
    whole = (folder / "texts.jsonl").read_bytes()
    records = [json.loads(line) for line in whole.splitlines()]
    assert [record["step"] for record in records] == [0, 3, 4]
    told = [done.texts.completions for done in seen if done.texts is not None]
    assert told == [record["completions"] for record in records]
    assert told[0] != told[-1]

    # Interrupted after the third step, whose texts are written; killed before the fourth's.
    class Stop(Exception):
        pass

    def stop(done: StepRecord) -> None:
        if done.step == 3:
            raise Stop

    again = replace(with_texts, output=str(tmp_path / "again"))
    again = replace(again, checkpoint=replace(again.checkpoint, every=2))
    with pytest.raises(Stop):
        _ = train(again, on_step=stop)
    assert len(_partial(tmp_path / "again").read_bytes().splitlines()) == 2
    resumed = train(replace(again, resume=True))
    assert (resumed / "texts.jsonl").read_bytes() == whole


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial") / "texts.jsonl"
