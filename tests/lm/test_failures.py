"""What goes wrong, and what a person then reads: the reason, what to do, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import SafetensorError
from support.launch import TIMEOUT_SECONDS
from support.lm_runs import SMALL, tiny_config, tiny_model

import lm.run.checkpoint
from lm.cli.main import main
from lm.config import CheckpointConfig, EvaluationConfig, RunConfig
from lm.config.options import to_plain
from lm.errors import RunError
from lm.features.registry import FEATURES, Feature
from lm.policy.causal import CausalPolicy
from lm.run.checkpoint import checkpoint_steps
from lm.run.files import append_line
from lm.train import train

ROOT = Path(__file__).parents[2]


class Broken(Exception):
    """Stands for whatever ends a process in the middle of a run."""


@pytest.fixture
def config(tmp_path, monkeypatch) -> RunConfig:
    monkeypatch.setattr("lm.train.finish_run", lambda _: None)
    return tiny_config(
        tmp_path / "run",
        steps=6,
        checkpoint=CheckpointConfig(every=2),
        evaluation=replace(SMALL, every=6, samples=128),
    )


@pytest.fixture
def partial(tmp_path) -> Path:
    return tmp_path / ".run.partial"


@pytest.fixture
def recipe(tmp_path) -> Path:
    """Return a recipe of a small run on the tiny model, without its output."""
    plain = to_plain(tiny_config(tmp_path / "unused", steps=2))
    del plain["output"]
    path = tmp_path / "recipe.yaml"
    _ = path.write_text(yaml.safe_dump(plain))
    return path


def _refused(capsys, *words: str) -> str:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("lm: ")
    assert "Traceback" not in error
    return error


def _whole_lines(partial: Path) -> list[int | None]:
    """Return the steps of metrics.jsonl, every line of which is whole."""
    text = (partial / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    records = [json.loads(line) for line in text.splitlines()]
    return [record["step"] for record in records if record["kind"] == "step"]


@pytest.mark.parametrize(
    ("misbehave", "message"),
    [
        (lambda values: values * np.nan, r"feature 'female' is nan for the text '\w+' \(sample 0"),
        (lambda _: 1 / 0, r"feature 'female' raised ZeroDivisionError: division by zero \(sample"),
    ],
)
def test_a_feature_that_breaks_in_mid_run_stops_it_with_the_reason(
    config, partial, monkeypatch, misbehave, message
):
    reached = []

    def female(texts):
        values = original.values(texts)
        return misbehave(values) if reached else values

    original = FEATURES["female"]
    broken = Feature(original.description, female, lives_on_list=True)
    monkeypatch.setattr("lm.features.registry.FEATURES", {**FEATURES, "female": broken})
    with pytest.raises(RunError, match=message) as caught:
        _ = train(config, on_step=lambda record: reached.extend([1] * (record.step == 3)))
    assert caught.value.__notes__ == [
        f"what was recorded until then is in {partial}",
        "the newest checkpoint is of step 2: --resume continues from there",
    ]
    assert _whole_lines(partial) == [1, 2, 3]


def _full_at_third_line(monkeypatch):
    lines = []

    def append(path, line):
        lines.append(path.name)
        if lines.count("metrics.jsonl") == 4:
            # The kernel takes a part of the line, as it does when the disk becomes full.
            with path.open("ab") as file:
                _ = file.write(line[:20].encode())
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        append_line(path, line)

    monkeypatch.setattr("lm.run.folder.append_line", append)


def _full_at_checkpoint(monkeypatch):
    original = lm.run.checkpoint.save_file

    def save(tensors, path):
        if "00000004" in str(path):
            _ = path.write_bytes(b"half of the tensors")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        original(tensors, path)

    monkeypatch.setattr("lm.run.checkpoint.save_file", save)


def _full_at_policy(monkeypatch):
    def save(self, folder):
        _ = (Path(folder) / "config.json").write_text("{}")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(CausalPolicy, "save", save)


@pytest.mark.parametrize(
    ("fill", "checkpoints"),
    [(_full_at_third_line, [2]), (_full_at_checkpoint, [2]), (_full_at_policy, [6, 4])],
)
def test_a_full_disk_stops_the_run_says_what_to_do_and_loses_nothing(
    config, partial, monkeypatch, fill, checkpoints
):
    with monkeypatch.context() as patch:
        fill(patch)
        with pytest.raises(RunError) as caught:
            _ = train(config)
    assert str(caught.value) == (
        "the disk is full, so the run stops: free some space, then run the same command with "
        "--resume"
    )
    newest = f"the newest checkpoint is of step {checkpoints[0]}: --resume continues from there"
    assert caught.value.__notes__[-1] == newest
    assert checkpoint_steps(partial / "checkpoints") == checkpoints
    assert [path.name for path in (partial / "checkpoints").glob(".*")] == []
    assert not (partial / "policy").exists()
    folder = train(replace(config, resume=True))
    unbroken = train(replace(config, output=f"{config.output}-unbroken"))
    logs = [(run / "metrics.jsonl").read_bytes() for run in (folder, unbroken)]
    assert logs[0] == logs[1]


def test_a_disk_that_is_full_from_the_start_leaves_nothing(config, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lm.run.folder.append_line", full)
    with pytest.raises(RunError, match="free some space, then run the same command again"):
        _ = train(config)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_is_named_with_the_advice(recipe, tmp_path, capsys):
    words = ["train", str(recipe), "--output", str(tmp_path / "run"), "--model", "no/such/model"]
    error = _refused(capsys, *words)
    assert "there is no model folder no/such/model" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("\n \n", "holds no prompt: give it one per line"), (None, "cannot be read")],
)
def test_an_empty_or_missing_prompts_file_is_refused(recipe, tmp_path, capsys, content, reason):
    prompts = tmp_path / "prompts.txt"
    if content is not None:
        _ = prompts.write_text(content)
    plain = yaml.safe_load(recipe.read_text())
    plain["target"] = {"kind": "reward_tilted", "reward": {"letters": 1.0}}
    plain["partition"]["policy"] = "frozen"
    plain["prompts"] = {"file": str(prompts), "per_step": 4}
    _ = recipe.write_text(yaml.safe_dump(plain))
    error = _refused(capsys, "train", str(recipe), "--output", str(tmp_path / "run"))
    assert f"prompts.file {prompts} {reason}" in error
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / ".run.partial").exists()


def test_a_model_folder_with_code_of_its_own_is_refused(recipe, tmp_path, capsys):
    model = tmp_path / "model"
    model.mkdir()
    _ = (model / "modeling.py").write_text("raise SystemExit('this code was run')\n")
    stored = {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}
    _ = (model / "config.json").write_text(json.dumps(stored))
    _ = (model / "model.safetensors").write_bytes(b"")
    words = ["train", str(recipe), "--model", str(model), "--output", str(tmp_path / "run")]
    error = _refused(capsys, *words)
    assert "model_type 'mine' runs code of its own" in error
    assert "trust_remote_code is off" in error
    assert not (tmp_path / ".run.partial").exists()


def test_an_unknown_key_is_answered_with_the_nearest(recipe, capsys):
    error = _refused(capsys, "train", str(recipe), "--checkpoint.evry", "5")
    assert (
        "unknown key 'checkpoint.evry' on the command line; did you mean 'checkpoint.every'?"
        in error
    )


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_read(
    recipe, tmp_path, capsys
):
    (tmp_path / "file").touch()
    output = str(tmp_path / "file" / "run")
    words = ["train", str(recipe), "--output", output, "--model", "no/such/model"]
    assert "is not a folder that may be written to. Choose another --output" in _refused(
        capsys, *words
    )


@pytest.fixture
def interrupted(config, partial) -> Path:
    """Return the name of a run that broke after step 5."""

    def on_step(record):
        if record.step == 5:
            raise Broken

    with pytest.raises(Broken):
        _ = train(config, on_step=on_step)
    assert partial.is_dir()
    return Path(config.output or "")


def test_where_only_a_finished_run_will_do_an_interrupted_one_is_refused(interrupted, capsys):
    for folder in (interrupted, interrupted.with_name(".run.partial")):
        for command in ("report", "evaluate", "sample"):
            error = _refused(capsys, command, str(folder))
            assert f"the run {folder} is not complete: continue it by the command" in error
            assert f"python -m lm export {folder} FOLDER" in error


def test_the_newest_checkpoint_of_an_interrupted_run_can_be_exported_and_sampled(
    interrupted, tmp_path, capsys
):
    drawn = []
    for source in (interrupted, interrupted.with_name(".run.partial")):
        folder = tmp_path / f"exported-{source.name}"
        assert main(["export", str(source), str(folder)]) == 0
        _ = capsys.readouterr()
        assert main(["sample", str(folder), "--n", "3"]) == 0
        drawn.append(capsys.readouterr().out)
    assert main(["sample", str(tiny_model()), "--n", "3"]) == 0
    assert drawn[0] == drawn[1] != capsys.readouterr().out


def test_on_an_interrupted_run_the_command_says_what_can_be_done(
    interrupted, config, tmp_path, capsys
):
    recipe = tmp_path / "recipe.yaml"
    _ = recipe.write_text(yaml.safe_dump(to_plain(config)))
    error = _refused(capsys, "train", str(recipe))
    assert "add --resume to continue it, or --overwrite to delete it" in error
    error = _refused(capsys, "train", str(recipe), "--resume", "--steps", "8")
    assert "steps is 8 now, but was 6" in error
    assert main(["train", str(recipe), "--resume"]) == 0
    assert "lm: the run continues after step 4" in capsys.readouterr().err
    assert main(["train", str(recipe), "--resume"]) == 0
    assert f"{interrupted} is complete: nothing is left to do" in capsys.readouterr().out


@pytest.mark.slow
def test_sigterm_from_outside_ends_the_command_with_0_and_the_way_to_go_on(tmp_path):
    config = tiny_config(
        tmp_path / "run",
        steps=10_000,
        evaluation=EvaluationConfig(every=10_000, samples=128, group=32),
    )
    recipe = tmp_path / "recipe.yaml"
    _ = recipe.write_text(yaml.safe_dump(to_plain(config)))
    process = subprocess.Popen(
        [sys.executable, "-m", "lm", "train", str(recipe)],
        cwd=tmp_path,  # samples of the target are kept below it
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    timings = tmp_path / ".run.partial" / "timings.jsonl"
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (timings.exists() and timings.read_text().count("\n") > 3):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, err
    said = [line for line in err.splitlines() if " ... (" not in line]
    assert said == ["", "lm: SIGTERM: finishing this step and saving (Ctrl-C: stop at once)"]
    stopped, advice = out.splitlines()[-2:]
    (step,) = checkpoint_steps(tmp_path / ".run.partial" / "checkpoints")
    assert stopped.startswith(f"stopped by SIGTERM after step {step} of 10000; everything is saved")
    assert advice == f"continue with: python -m lm train {shlex.quote(str(recipe))} --resume"
    assert _whole_lines(tmp_path / ".run.partial") == list(range(1, step + 1))
