"""Sweeps: which runs there are, that each is made once, and what a kill costs."""

from __future__ import annotations

import hashlib
import io
import json
import math
import operator
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from support.lm_runs import scratch
from support.lm_sweeps import plain_sweep, tiny_block, tiny_sweep

from lm.cli.main import main
from lm.config.code_model import CodeConfig
from lm.config.options import to_plain
from lm.errors import RunBusy, RunError, UsageError
from lm.run.files import FOLDER_LOCK, held
from lm.run.records import read_records
from lm.sweep.cells import LATER, NOT_THE_RUN, expand
from lm.sweep.command import cost, require_outputs, run_sweep
from lm.sweep.config import SweepConfig
from lm.sweep.records import cell_job, read_record, record_path
from lm.sweep.table import METADATA_KEY
from lm.sweep.workers import Job, Workers
from lm.train import train

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _models(monkeypatch):
    """Keep the tiny models in a folder of the tests, where workers find them as well."""
    monkeypatch.chdir(scratch())


def test_a_sweep_is_every_combination_of_its_blocks_once(tmp_path):
    blocks = [
        tiny_block(methods=["forward_kl", "rl_kl"], seeds=[0, 1]),
        tiny_block(rates=["fast", "slow"]),
    ]
    cells = expand(tiny_sweep(tmp_path, blocks=blocks))
    assert [(c.labels.method, c.labels.rate, c.labels.seed) for c in cells] == [
        ("forward_kl", "fast", 0),
        ("rl_kl", "fast", 0),
        ("forward_kl", "fast", 1),
        ("rl_kl", "fast", 1),
        ("forward_kl", "slow", 0),
    ]
    assert len({cell.run for cell in cells}) == 5


def test_a_part_of_a_sweep_is_run_without_what_the_others_need(tmp_path):
    blocks = [
        tiny_block(part="first"),
        tiny_block(part="second", rates=["tuned"]),
        tiny_block(part="third", seeds=[1]),
    ]
    rates = {"tuned": {"file": "not/chosen/yet.yaml"}}
    sweep = tiny_sweep(tmp_path, blocks=blocks, rates=rates, parts=["third", "first"])
    assert [cell.labels.seed for cell in expand(sweep)] == [0, 1]
    with pytest.raises(UsageError, match="not/chosen/yet"):
        _ = expand(tiny_sweep(tmp_path, blocks=blocks, rates=rates))


def test_cells_with_the_same_configuration_are_one_run(tmp_path):
    blocks = [
        tiny_block(rates=["fast", "same"], seeds=[0]),
        tiny_block(variants=["default", "small"]),
    ]
    sweep = tiny_sweep(
        tmp_path,
        blocks=blocks,
        rates={"same": {"value": 1e-3}},
        variants={"small": {"batch_size": 8}},
    )
    by_labels = {(c.labels.rate, c.labels.variant): c.run for c in expand(sweep)}
    assert by_labels["fast", "default"] == by_labels["same", "default"]
    assert by_labels["fast", "small"] != by_labels["fast", "default"]
    assert len(by_labels) == 3


def test_methods_descend_the_target_the_penalised_reward_or_the_reward(tmp_path):
    methods = ["forward_kl", "rl_kl", "reward"]
    target, penalised, alone = (
        c.config for c in expand(tiny_sweep(tmp_path, blocks=[tiny_block(methods=methods)]))
    )
    assert target.measure is None
    assert target.target.moments == {"listed": 0.2}
    assert (penalised.target.kind, penalised.target.beta) == ("reward_tilted", 0.5)
    assert alone.target.kind == "reward"
    for config in (penalised, alone):
        assert config.target.reward == {"listed": 1.0}
        assert config.measure == target.target


def test_a_teacher_is_fine_tuned_from_the_base_of_the_cells_size(tmp_path):
    task = {"title": "t", "group": "g", "teacher": {"female_share": 0.9, "steps": 5}}
    sweep = tiny_sweep(tmp_path, tasks={"taught": task}, blocks=[tiny_block(tasks=["taught"])])
    (cell,) = expand(sweep)
    base, teacher = cell.bases
    assert teacher.initial == str(base.folder())
    assert (teacher.layers, teacher.width, teacher.female_share) == (1, 16, 0.9)
    assert cell.config.target.teacher == str(teacher.folder())


@pytest.mark.parametrize("where", ["run", "sizes", "variants"])
def test_nothing_is_trained_for_a_run_that_starts_from_a_model(where, tmp_path):
    named = {"run": {"model": "there"}, "sizes": {"1x16": {"model": "there"}}}
    changes = {where: named[where]} if where in named else {"variants": {"own": {"model": "there"}}}
    variants = ["own"] if where == "variants" else ["default"]
    sweep = tiny_sweep(tmp_path, **changes, blocks=[tiny_block(variants=variants)])
    (cell,) = expand(sweep)
    assert (cell.config.model, cell.bases) == ("there", ())
    taught = {"taught": {"title": "t", "group": "g", "teacher": {"female_share": 0.9}}}
    block = tiny_block(tasks=["taught"], variants=variants)
    sweep = tiny_sweep(tmp_path, **changes, tasks=taught, blocks=[block])
    with pytest.raises(UsageError, match="fine-tuned from a base of names, but the run starts fro"):
        _ = expand(sweep)


def test_rates_are_numbers_or_those_chosen_for_group_method_and_size(tmp_path):
    chosen = tmp_path / "rates.yaml"
    _ = chosen.write_text(
        yaml.safe_dump({"soft": {"forward_kl": {"1x16": 0.01}, "jensen_shannon": {"1x16": 0.02}}})
    )
    rates = {
        "tuned": {"file": str(chosen)},
        "common": {"file": str(chosen), "method": "forward_kl"},
    }
    block = tiny_block(methods=["jensen_shannon"], rates=["tuned", "common", "slow"])
    cells = expand(tiny_sweep(tmp_path, rates=rates, blocks=[block]))
    assert [cell.config.optimizer.lr for cell in cells] == [0.02, 0.01, 1e-4]
    block = tiny_block(methods=["rl_kl"], rates=["tuned"])
    with pytest.raises(ValueError, match="has no rate for soft / rl_kl / 1x16: choose it first"):
        _ = expand(tiny_sweep(tmp_path, rates=rates, blocks=[block]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"blocks": [tiny_block(tasks=["lost"])]},
            "a block names 'lost', but tasks has only: listed",
        ),
        ({"blocks": []}, "blocks is empty"),
        ({"parts": ["one"]}, "parts names 'one', but the blocks belong to: no part"),
        ({"run": {"step": 3}}, "unknown key 'step' among the options; did you mean 'steps'"),
        ({"run": {"steps": "many"}}, "steps"),
        ({"sizes": {"1x16": {"width": 15}}}, "heads must divide width"),
        ({"workers": 0}, "workers"),
        ({"store": "."}, ". is a folder: name a file"),
        ({"blocks": [tiny_block(seeds=[1, 1])]}, "none twice"),
        ({"rates": {"fast": {"file": "no/such/file.yaml", "value": None}}}, "no/such/file"),
        ({"tasks": {"listed": {"target": None}}}, "needs either a target or a teacher"),
        (
            {"tasks": {"listed": {"target": {"constraintz": ["listed"]}}}},
            'lm: option "tasks": option "target": unknown key \'constraintz\'\n',
        ),
        (
            {"tasks": {"listed": {"target": {"kind": "constrained", "constraints": ["lost"]}}}},
            "lm: unknown feature 'lost'; ",
        ),
        (
            {"tasks": {"listed": {"reward": {}}}, "blocks": [tiny_block(methods=["reward"])]},
            "the task has no reward",
        ),
    ],
)
def test_a_sweep_that_means_nothing_is_refused_before_anything_is_run(
    changes, message, tmp_path, capsys
):
    plain = plain_sweep(tmp_path, **{k: v for k, v in changes.items() if k != "tasks"})
    for task, options in changes.get("tasks", {}).items():
        plain["tasks"][task] |= options
    path = tmp_path / "sweep.yaml"
    _ = path.write_text(yaml.safe_dump(plain))
    assert main(["sweep", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cells").exists()


def test_the_command_needs_a_file(capsys):
    assert main(["sweep"]) == 2
    assert "no sweep is given" in capsys.readouterr().err


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> SweepConfig:
    """A finished sweep of four runs."""
    sweep = tiny_sweep(tmp_path_factory.mktemp("sweep"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(scratch())
        _ = run_sweep(sweep, command="a test")
    return sweep


def test_the_table_holds_what_the_runs_wrote(done, tmp_path):
    rows = pq.read_table(done.table).to_pylist()
    cell = expand(done)[0]
    folder = train(replace(cell.config, output=str(tmp_path / "run")))
    own = [row for row in rows if row["cell"] == cell.name]
    found = {(r["step"], r["quantity"], r["estimator"]): r for r in own}
    for evaluation in read_records(folder, "evaluation"):
        for quantity, estimates in evaluation["estimates"].items():
            for estimator, entry in estimates.items():
                row = found.pop((evaluation["step"], quantity, estimator))
                assert row["value"] == pytest.approx(float(entry["value"]), rel=1e-6)
                assert (row["z"] is None) == ("z" not in entry)
                assert (row["seed"], row["method"]) == (0, "forward_kl")
    steps = read_records(folder, "step")
    norms = {2: steps[:2], 3: steps[2:]}
    for step, some in norms.items():
        mean = sum(record["gradient_norm"] for record in some) / len(some)
        row = found.pop((step, "gradient_norm", "record"))
        assert row["value"] == pytest.approx(mean, rel=1e-6)
        above = found.pop((step, "gradient_norm_above_1", "record"))["value"]
        assert above == sum(record["gradient_norm"] > 1 for record in some) / len(some)
    target = found.pop((0, "feature/listed", "target"))
    assert target["value"] == pytest.approx(0.2, abs=1e-6)
    assert {key[1] for key in found} == {"clipped", "gradient_signal_to_noise"}


def test_its_metadata_says_where_the_numbers_come_from(done):
    stored = pq.read_schema(done.table).metadata[METADATA_KEY]
    facts = json.loads(stored)
    assert (facts["sweep"], facts["command"], facts["runs"]) == ("tiny", "a test", 4)
    assert facts["tasks"]["listed"]["title"] == "listed names"
    assert facts["failed"] == {}
    assert set(facts["commits"]) == set(pq.read_table(done.table)["commit"].to_pylist())


def test_texts_before_and_after_are_stored_if_they_are_asked_for(done, tmp_path):
    table = tmp_path / "with_texts.parquet"
    _ = run_sweep(replace(done, table=str(table), texts=2), command="a test")
    texts = json.loads(pq.read_schema(table).metadata[METADATA_KEY])["texts"]
    assert set(texts) == set(pq.read_table(table)["run"].to_pylist())
    for run, own in texts.items():
        before, after = read_record(Path(done.output), run)["texts"]
        assert (own["before"], own["after"]) == (before[:2], after[:2])
    assert "texts" not in json.loads(pq.read_schema(done.table).metadata[METADATA_KEY])


def test_a_finished_run_is_never_made_again(done, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in Path(done.output).rglob("*.json")}
    table = pq.read_table(done.table)

    def never(*_: object) -> None:
        raise AssertionError("a worker was asked for")

    monkeypatch.setattr("lm.sweep.command.Workers", never)
    _ = run_sweep(done, command="again")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert pq.read_table(done.table).equals(table)


def test_only_records_are_left_of_a_run(done):
    files = {path for path in Path(done.output).rglob("*") if path.is_file()}
    assert {path.suffix for path in files if path.name != FOLDER_LOCK} == {".json"}
    assert len(list(Path(done.output).rglob("*.json"))) == 4


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    sweep = tiny_sweep(tmp_path)
    with held(Path(sweep.output)), pytest.raises(RunBusy, match="another process is at work in"):
        _ = run_sweep(sweep, command="a test")
    assert [path.name for path in Path(sweep.output).iterdir()] == [FOLDER_LOCK]


@pytest.mark.parametrize("option", ["store", "table", "page"])
def test_a_sweep_replaces_no_file_of_somebody_else(tmp_path, option):
    mine = tmp_path / "mine"
    _ = mine.write_text("# precious")
    sweep = tiny_sweep(tmp_path, **{option: str(mine)})
    with pytest.raises(UsageError, match=r"mine exists and is not a sweep's .*choose another name"):
        _ = run_sweep(sweep, command="a test")
    assert mine.read_text() == "# precious"
    assert not Path(sweep.output).exists()


def test_the_summary_beside_a_page_is_not_that_of_a_run(tmp_path):
    summary = tmp_path / "summary.json"
    _ = summary.write_text('{"steps": 4}')
    sweep = tiny_sweep(tmp_path, page=str(tmp_path / "index.html"))
    with pytest.raises(UsageError, match=r"summary\.json exists and is not a sweep's summary"):
        _ = run_sweep(sweep, command="a test")
    assert summary.read_text() == '{"steps": 4}'


@pytest.mark.slow
def test_a_sweep_replaces_its_own_files_and_writes_to_a_device(done, tmp_path):
    page, store, pipe = tmp_path / "index.html", tmp_path / "tables.md", tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    sweep = replace(done, table=str(pipe), page=str(page), store=str(store))
    for _ in range(2):
        _ = run_sweep(sweep, command="a test")
        assert os.read(reader, 4) == b"PAR1"
        while os.read(reader, 2**16)[-4:] != b"PAR1":
            pass
    os.close(reader)
    assert pipe.is_fifo()
    _ = run_sweep(done, command="once more")
    assert page.stat().st_size
    assert store.stat().st_size


@pytest.mark.slow
def test_a_run_that_fails_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    block = tiny_block(methods=["forward_kl", "jensen_shannon"])
    sweep = tiny_sweep(tmp_path, blocks=[block])
    first, second = expand(sweep)

    def fail(config):
        raise RunError("the gradient norm is nan")

    folder = Path(sweep.output)
    with monkeypatch.context() as patch:
        patch.setattr("lm.sweep.records.train_job", fail)
        _ = cell_job(first.config, record_path(folder, first.run), "commit")
    assert read_record(folder, first.run)["failed"] == "the gradient norm is nan"
    out = io.StringIO()
    assert run_sweep(sweep, command="a test", console=Console(file=out, width=200)) == 1
    assert "1 of 2 runs failed; to try one again, delete its file" in out.getvalue()
    facts = json.loads(pq.read_schema(sweep.table).metadata[METADATA_KEY])
    assert facts["failed"] == {first.name: "the gradient norm is nan"}
    cells = set(pq.read_table(sweep.table)["cell"].to_pylist())
    assert first.name not in cells
    assert second.name in cells


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("soft: [", "is not a file of chosen rates"),
        ("just words", "has no rate for soft / forward_kl / 1x16"),
        ("soft: {forward_kl: {1x16: '1e-3'}}", "has '1e-3' for soft / forward_kl / 1x16"),
        ("soft: {forward_kl: {1x16: " + 400 * "9" + "}}", "has 999.* for soft / forward_kl / 1x16"),
        ("soft: {forward_kl: {1x16: 0.1, 1x16: 0.2}}", "the key '1x16' stands here a second time"),
        (3000 * "[", "is not a file of chosen rates"),
        ("soft: {forward_kl: {1x16: [1]}}", r"has \[1\] for soft"),
        ("soft: {forward_kl: {1x16: -0.1}}", "has -0.1 for soft"),
        ("soft: {forward_kl: {1x16: .inf}}", "has inf for soft"),
        ("soft: {forward_kl: {1x16: true}}", "has True for soft"),
        ("\0", "is not a file of chosen rates"),
    ],
)
def test_a_file_of_rates_that_means_nothing_is_a_usage_error(tmp_path, content, words):
    chosen = tmp_path / "rates.yaml"
    _ = chosen.write_text(content)
    sweep = tiny_sweep(
        tmp_path, rates={"t": {"file": str(chosen)}}, blocks=[tiny_block(rates=["t"])]
    )
    with pytest.raises(UsageError, match=words):
        _ = expand(sweep)


def test_the_warnings_of_the_runs_are_told(done, tmp_path):
    first, *_ = expand(done)
    output = shutil.copytree(done.output, tmp_path / "cells")
    record = read_record(output, first.run)
    for evaluation in record["evaluations"]:
        evaluation["warnings"] = []
    record["evaluations"][0]["warnings"] = ["<few> samples count"]
    record["evaluations"][1]["warnings"] = ["one sample is half of Zhat"]
    _ = record_path(output, first.run).write_text(json.dumps(record))
    out = io.StringIO()
    page, store = tmp_path / "index.html", tmp_path / "tables.md"
    sweep = replace(done, output=str(output), page=str(page), store=str(store))
    _ = run_sweep(sweep, command="a test", console=Console(file=out, width=200))
    step = record["evaluations"][1]["step"]
    line = f"{first.name}, step {step}: one sample is half of Zhat (and 1 earlier)"
    assert f"warning: {line}" in out.getvalue()
    assert f"<li>{line}</li>" in page.read_text()
    _, _, told = store.read_text().partition("## Warnings")
    assert f"\n- {line}" in told
    assert line in json.loads(page.with_name("summary.json").read_text())["warnings"]


def test_what_is_in_a_file_is_part_of_the_run_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rewards, prompts, model = Path("rewards.py"), Path("prompts.txt"), Path("model")
    _ = rewards.write_text("def short(texts):\n    return [-len(text) for text in texts]\n")
    _ = rewards.write_text(
        f"import helper, pack.inner\nfrom other import part\n{rewards.read_text()}"
    )
    helper = Path("helper.py")
    _ = helper.write_text("one = 1\n")
    # Packages beside it: what they run when they are imported, and what they import in turn.
    for name in ("pack", "other", "other/part"):
        Path(name).mkdir()
        _ = Path(name, "__init__.py").write_text("")
    _ = Path("pack", "inner.py").write_text("from . import near\nfrom ..pack.far import x\n")
    beside = [Path("pack", "__init__.py"), Path("pack", "near.py"), Path("pack", "far.py")]
    beside += [Path("pack", "inner.py"), Path("other", "part", "__init__.py")]
    _ = prompts.write_text("a\nb\n")
    model.mkdir()
    _ = (model / "weights").write_bytes(b"\0")
    run = {"model": "model", "prompts": {"file": "prompts.txt"}}
    target = {"kind": "reward_tilted", "reward": {"rewards.py:short": 1.0}}
    task = {"title": "t", "group": "g", "target": target, "run": run}

    def key() -> str:
        (cell,) = expand(tiny_sweep(tmp_path, tasks={"t": task}, blocks=[tiny_block(tasks=["t"])]))
        return cell.run

    keys = {key()}
    assert keys == {key()}
    for path, content in (
        *((path, "y = 1\n") for path in beside),
        (helper, "one = 2\n"),
        (rewards, "def short(texts):\n    return [-2 * len(text) for text in texts]\n"),
        (prompts, "a\nc\n"),
        (model / "weights", "1"),
        (model / "another", ""),
    ):
        _ = path.write_text(content)
        keys.add(key())
    assert len(keys) == 11
    task["target"] = {"kind": "teacher", "teacher": "model"}
    keys.add(key())
    _ = (model / "another").write_text("more")
    keys.add(key())
    assert len(keys) == 13


def test_a_model_of_the_cache_is_part_of_the_run_that_starts_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = CodeConfig(size="1x16").folder()

    def key() -> str:
        (cell,) = expand(
            tiny_sweep(tmp_path, sizes={"1x16": {"model": "code-1x16"}}, blocks=[tiny_block()])
        )
        return cell.run

    absent = key()
    folder.mkdir(parents=True)
    _ = (folder / "code.json").write_text("one list of functions")
    first = key()
    _ = (folder / "code.json").write_text("another list of functions")
    assert len({absent, first, key()}) == 3


def test_it_is_said_when_what_runs_read_takes_long_to_hash(tmp_path, monkeypatch, capsys):
    model = tmp_path / "model"
    model.mkdir()
    _ = (model / "weights").write_bytes(b"\0")
    digest = hashlib.file_digest

    def slow(*words: Any) -> Any:
        time.sleep(0.5)
        return digest(*words)

    monkeypatch.setattr("lm.run.inputs.hashlib.file_digest", slow)
    monkeypatch.setattr("lm.phases.SILENCE", 0.1)
    task = {"title": "t", "group": "g", "target": {"moments": {"listed": 0.2}}}
    task["run"] = {"model": str(model)}
    require_outputs(tiny_sweep(tmp_path, tasks={"t": task}, blocks=[tiny_block(tasks=["t"])]))
    assert f"hashing {model / 'weights'}, which a run reads ..." in capsys.readouterr().err


def test_a_run_that_reads_no_file_keeps_its_key(tmp_path):
    (cell, *_) = expand(tiny_sweep(tmp_path))
    assert cell.inputs == {}
    content = {k: v for k, v in to_plain(cell.config).items() if k not in NOT_THE_RUN}
    # Without the options that came later, where they leave a run what it was.
    for key, usual in LATER.items():
        group, name = key.split(".")
        if content[group][name] == usual:
            del content[group][name]
    text = json.dumps(content, sort_keys=True).encode()
    assert cell.run == hashlib.sha256(text).hexdigest()[:16]


@pytest.mark.slow
def test_no_failing_run_stops_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _ = Path("leaves.py").write_text("raise SystemExit(0)\n\n\ndef f(texts):\n    return texts\n")
    _ = Path("raises.py").write_text("def f(texts):\n    return {}['lost']\n")
    rewards = {name: f"{name}.py:f" for name in ("leaves", "raises")}
    plain = plain_sweep(tmp_path)
    listed = {**plain["tasks"]["listed"], "reward": {}}
    plain["tasks"] |= {
        name: {**listed, "target": {"kind": "reward_tilted", "reward": {reward: 1.0}}}
        for name, reward in rewards.items()
    }
    plain["tasks"]["far"] = {**listed, "target": {"moments": {"listed": 0.2, "female": 0.5}}}
    plain["tasks"]["gone"] = {**listed, "run": {"model": "no/such/model"}}
    plain["blocks"] = [tiny_block(tasks=list(plain["tasks"]))]
    plain["sizes"]["1x16"]["steps"] = 1
    path = tmp_path / "sweep.yaml"
    _ = path.write_text(yaml.safe_dump(plain))
    assert main(["sweep", str(path)]) == 1
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'leaves.py'} raised SystemExit" in printed
    for name in ("leaves", "raises", "far", "gone"):
        assert f"failed: {name} forward_kl 1x16 fast default 0: " in printed
    assert "4 of 5 runs failed; to try one again, delete its file in" in printed
    assert set(pq.read_table(plain["table"])["task"].to_pylist()) == {"listed"}


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_ends_with_the_same_table(done, tmp_path, capsys):
    plain = plain_sweep(tmp_path)
    path = tmp_path / "sweep.yaml"
    _ = path.write_text(yaml.safe_dump(plain))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lm", "sweep", str(path)]
    running = subprocess.Popen(command, cwd=scratch(), env=environment, stdout=subprocess.DEVNULL)
    folder, patience = Path(plain["output"]), time.monotonic() + 120
    while not list(folder.glob("cells/*.json")) and time.monotonic() < patience:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    kept = {p: p.stat().st_mtime_ns for p in folder.glob("cells/*.json")}
    assert 1 <= len(kept) < 4
    assert main(["sweep", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"4 cells, 4 different runs, {len(kept)} of them done" in out
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert pq.read_table(plain["table"]).equals(pq.read_table(done.table))


def test_the_cost_of_a_cell_grows_with_its_model_and_its_steps(tmp_path):
    sizes = {"2x16": {"layers": 2, "width": 16, "heads": 2}}
    variants = {"long": {"steps": 30}}
    block = tiny_block(sizes=["1x16", "2x16"], variants=["default", "long"])
    sweep = tiny_sweep(tmp_path, sizes=sizes, variants=variants, blocks=[block])
    costs = {(c.labels.size, c.labels.variant): cost(c) for c in expand(sweep)}
    assert costs["1x16", "default"] < costs["2x16", "default"] < costs["2x16", "long"]
    assert record_path(Path("a"), "b") == Path("a/cells/b.json")


def test_workers_return_in_the_order_of_the_jobs_and_pass_errors_on():
    with Workers(2, lambda _: None) as workers:
        jobs = [Job(str(n), math.sqrt, (n * n,)) for n in range(5)]
        assert workers.run(jobs) == [0, 1, 2, 3, 4]
        with pytest.raises(ZeroDivisionError):
            _ = workers.run([Job("ratio", operator.truediv, (1, 0))])


def test_a_killed_worker_is_an_error_for_people():
    with (
        Workers(1, lambda _: None) as workers,
        pytest.raises(RunError, match="a worker process was killed"),
    ):
        _ = workers.run([Job("gone", os._exit, (9,))])


def test_workers_have_one_thread_and_this_process_keeps_its_settings(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with Workers(1, lambda _: None) as workers:
        assert workers.run([Job("threads", os.getenv, ("OMP_NUM_THREADS",))]) == ["1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"
