"""What a run is when it goes on: nothing recomputed differs by a bit."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.lm_runs import SMALL, leave_run, plain_config, tiny_config, tiny_model

import lm.run.files
import lm.run.folder
from lm.cli.main import main
from lm.config import (
    BaselineConfig,
    CheckpointConfig,
    LoraConfig,
    OptimizerConfig,
    PartitionConfig,
    ProposalConfig,
    RunConfig,
    TargetConfig,
)
from lm.errors import RunError, RunInterrupted
from lm.run.checkpoint import checkpoint_steps
from lm.run.start import how_to_start, partial_folder
from lm.train import StepRecord, train

# Each trains a run, breaks it and goes on. `make test-slow` runs them.
pytestmark = pytest.mark.slow


class Broken(Exception):
    """Stands for whatever ends a process in the middle of a run."""


def _break_at(step: int):
    def on_step(record):
        if record.step == step:
            raise Broken

    return on_step


def _files(folder: Path) -> dict[str, bytes]:
    """Return what must be equal: all but clock values, and what says where the run is."""
    names = ["metrics.jsonl", "target.json", "samples_before.txt", "samples_after.txt"]
    return {name: (folder / name).read_bytes() for name in [*names, "policy/model.safetensors"]}


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Return a function that makes a configuration of six steps; no pictures are drawn."""
    monkeypatch.setattr("lm.train.finish_run", lambda _: None)
    monkeypatch.chdir(tmp_path)  # samples of the target are kept below it

    def make(name: str, **changes) -> RunConfig:
        options = {
            "steps": 6,
            "checkpoint": CheckpointConfig(every=2),
            "evaluation": replace(SMALL, every=4, samples=128),
        }
        return tiny_config(tmp_path / name, **(options | changes))

    return make


VARIANTS = {
    "plain": {},
    "past": {
        "partition": PartitionConfig(policy="past_only", samples=256, forgetting=0.9),
        "baseline": BaselineConfig(kind="running"),
        "optimizer": OptimizerConfig(lr=1e-3, schedule="cosine", warmup_steps=2),
    },
    "off_policy": {
        "precision": "float16",
        "updates_per_batch": 2,
        "proposal": ProposalConfig(kind="kl_adaptive", every=3),
    },
    "adapter": {"lora": LoraConfig(rank=2), "micro_batch_size": 8},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_was_broken_twice_is_the_unbroken_one(quick, variant, capsys):
    changes = VARIANTS[variant]
    unbroken = train(quick("unbroken", **changes))
    config = quick("run", **changes)
    with pytest.raises(Broken):
        _ = train(config, on_step=_break_at(3))
    with pytest.raises(Broken):
        _ = train(replace(config, resume=True), on_step=_break_at(5))
    steps = []
    folder = train(replace(config, resume=True), on_step=lambda record: steps.append(record.step))
    assert steps == [5, 6]
    assert _files(folder) == _files(unbroken)
    assert "lm: the run continues after step 4" in capsys.readouterr().err
    resumed = [json.loads(line) for line in (folder / "resumed.jsonl").read_text().splitlines()]
    assert [(line["step"], line["notes"]) for line in resumed] == [(2, []), (4, [])]
    assert checkpoint_steps(folder / "checkpoints") == [6]


def test_a_run_without_a_checkpoint_starts_over_and_says_so(quick, capsys):
    config = quick("run", checkpoint=CheckpointConfig(every=100))
    with pytest.raises(Broken):
        _ = train(config, on_step=_break_at(3))
    folder = train(replace(config, resume=True))
    assert _files(folder) == _files(train(quick("unbroken")))
    assert "lm: the run starts over: no checkpoint can be used" in capsys.readouterr().err


def test_a_corrupt_newest_checkpoint_is_skipped_for_the_one_before(quick, capsys):
    config = quick("run")
    with pytest.raises(Broken):
        _ = train(config, on_step=_break_at(5))
    partial = partial_folder(Path(config.output or ""))
    weights = partial / "checkpoints" / "step-00000004" / "state.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    _ = weights.write_bytes(content)
    folder = train(replace(config, resume=True))
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        "lm: the checkpoint of step 4 is skipped: the bytes of state.safetensors have changed "
        "since they were written",
        "lm: the run continues after step 2",
    ]
    assert _files(folder) == _files(train(quick("unbroken")))


def _broken_run(quick) -> tuple[RunConfig, Path]:
    config = quick("run")
    with pytest.raises(Broken):
        _ = train(config, on_step=_break_at(5))
    return config, partial_folder(Path(config.output or ""))


def test_a_lost_log_of_clock_values_costs_no_checkpoint(quick):
    config, partial = _broken_run(quick)
    (partial / "timings.jsonl").unlink()
    steps = []
    folder = train(replace(config, resume=True), on_step=lambda record: steps.append(record.step))
    assert steps == [5, 6]
    assert _files(folder) == _files(train(quick("unbroken")))
    assert b"\0" not in (folder / "timings.jsonl").read_bytes()


@pytest.mark.parametrize("damage", ["lost", "a digit"])
def test_a_changed_record_is_refused_and_nothing_is_deleted(quick, damage):
    config, partial = _broken_run(quick)
    log = partial / "metrics.jsonl"
    if damage == "lost":
        log.unlink()
    else:
        text = log.read_text()
        place = text.index('"gradient_norm": ') + len('"gradient_norm": 0.')
        _ = log.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
    before = _tree(partial / "checkpoints")
    with pytest.raises(RunError, match=r"no checkpoint of the run can be used.*Nothing was change"):
        _ = train(replace(config, resume=True))
    assert _tree(partial / "checkpoints") == before
    # Without --resume or --overwrite it is not deleted either.
    with pytest.raises(RunError, match="add --resume to continue it"):
        _ = train(config)


def test_damaged_records_of_what_a_run_is_about(quick, capsys):
    config, partial = _broken_run(quick)
    target = (partial / "target.json").read_text()
    for damaged in (
        "{",
        "[]",
        '{"features": [3]}',
        target.replace('"log_z": ', '"log_z": null, "_": ', 1),
    ):
        _ = (partial / "target.json").write_text(damaged)
        with pytest.raises(RunError, match=r"target\.json cannot be read"):
            _ = train(replace(config, resume=True))
    # Valid, and edited.
    about = json.loads(target)
    edits = ({"log_z": 1.5}, {"log_z": math.nan}, {"features": about["features"][1:]})
    for edit in edits:
        _ = (partial / "target.json").write_text(json.dumps(about | edit))
        with pytest.raises(RunError, match=r"target\.json says .* have changed since"):
            _ = train(replace(config, resume=True))
    _ = (partial / "target.json").write_text(target)
    # What says on which machine the run began changes no number.
    (partial / "environment.json").unlink()
    folder = train(replace(config, resume=True))
    assert "environment.json cannot be read, and this may be another" in capsys.readouterr().err
    assert (folder / "metrics.jsonl").is_file()


def test_a_state_that_is_json_but_no_state_gives_way_to_the_one_before(quick, capsys):
    config, partial = _broken_run(quick)
    folder = partial / "checkpoints" / "step-00000004"
    content = json.loads((folder / "state.json").read_text())
    content["numbers"] = {"optimizer": []}
    _ = (folder / "state.json").write_text(json.dumps(content))
    manifest = json.loads((folder / "manifest.json").read_text())
    written = (folder / "state.json").read_bytes()
    manifest["files"]["state.json"] = {
        "bytes": len(written),
        "sha256": hashlib.sha256(written).hexdigest(),
    }
    _ = (folder / "manifest.json").write_text(json.dumps(manifest))
    run = train(replace(config, resume=True))
    assert "lm: the run continues after step 2" in capsys.readouterr().err
    assert _files(run) == _files(train(quick("unbroken")))


def test_what_a_run_needs_to_go_on_is_on_the_disk_before_its_first_step(quick, monkeypatch):
    flushed, at_first_step = [], []
    original = lm.run.files.flush_to_disk

    def spied(path):
        flushed.append(path)
        original(path)

    monkeypatch.setattr("lm.run.files.flush_to_disk", spied)
    monkeypatch.setattr("lm.run.folder.flush_to_disk", spied)
    config = quick("run", steps=1)

    def on_step(_: StepRecord) -> None:
        if not at_first_step:
            at_first_step.extend(flushed)

    _ = train(config, on_step=on_step)
    final = Path(config.output or "")
    partial = partial_folder(final)
    for name in ("config.json", "config.yaml", "environment.json", "status.json", "target.json"):
        assert partial / f".{name}.partial" in at_first_step
    assert {partial, partial.parent} <= set(at_first_step)


def test_what_fails_before_the_first_step_does_not_block_the_corrected_command(quick, tmp_path):
    def fail(_):
        raise RunError("a bad combination, found out after the base was evaluated")

    config = quick("run")
    with pytest.raises(RunError, match="bad combination"):
        _ = train(config, on_step=fail)
    assert [path.name for path in tmp_path.iterdir()] == [".cache"]
    # The same where the process died: only the base's evaluation is there.
    partial = partial_folder(tmp_path / "run")
    leave_run(partial, config, records=False)
    _ = (partial / "metrics.jsonl").write_text('{"kind": "evaluation", "step": 0}\n')
    assert how_to_start(replace(config, steps=2)) == "new"


def test_a_run_that_appears_while_another_trains_is_not_replaced(quick, tmp_path):
    config = quick("run", steps=1)

    def meddle(_):
        if not (tmp_path / "run").exists():
            leave_run(tmp_path / "run", plain_config(tmp_path / "run"))

    with pytest.raises(RunError, match="exists and is not empty") as caught:
        _ = train(config, on_step=meddle)
    assert (tmp_path / "run" / "timings.jsonl").exists()
    assert "the newest checkpoint is of step 1" in caught.value.__notes__[-1]
    shutil.rmtree(tmp_path / "run")
    assert (train(replace(config, resume=True)) / "policy").is_dir()


def test_a_second_process_cannot_take_a_run_that_is_about_to_get_its_name(quick, monkeypatch):
    config = quick("run", steps=1)
    again = replace(config, overwrite=True)
    refused = []
    original = lm.run.folder.flush_to_disk

    def meddle(path):
        # The last files are brought to the disk: the run is complete, and has not its name yet.
        if path.name == "policy":
            with pytest.raises(RunError, match="another process is writing"):
                _ = train(again)
            refused.append(path)
        original(path)

    monkeypatch.setattr("lm.run.folder.flush_to_disk", meddle)
    folder = train(config)
    assert refused
    assert (folder / "policy" / "model.safetensors").is_file()
    assert not (folder / "run.lock").exists()


def test_a_reward_that_was_edited_meanwhile_does_not_go_on(quick, capsys):
    rewards = Path("rewards.py")
    letter = "def has(texts):\n    return [float('{}' in text) for text in texts]\n"
    _ = rewards.write_text(letter.format("i"))
    target = TargetConfig(kind="reward_tilted", reward={"rewards.py:has": 1.0}, beta=2.0)
    config = quick("run", steps=3, target=target)
    with pytest.raises(Broken):
        _ = train(config, on_step=_break_at(3))
    _ = rewards.write_text(letter.format("n"))
    with pytest.raises(RunError, match=r"rewards\.py has changed"):
        _ = train(replace(config, resume=True))

    # It is put back, and edited after the end.
    _ = rewards.write_text(letter.format("i"))
    _ = train(replace(config, resume=True))
    assert main(["evaluate", "run", "--samples", "128", "--trust_code"]) == 0
    assert "warning" not in capsys.readouterr().err
    _ = rewards.write_text(letter.format("n"))
    assert main(["evaluate", "run", "--samples", "128", "--trust_code"]) == 0
    assert "lm: warning: what the run reads is not what it was" in capsys.readouterr().err


def test_nothing_is_unpickled_while_a_run_goes_on(quick, monkeypatch):
    config = quick("run", steps=3)
    with pytest.raises(Broken):
        _ = train(config, on_step=_break_at(3))

    def refuse(*_, **__):
        raise AssertionError("something is unpickled")

    for function in ("load", "loads", "Unpickler", "_Unpickler", "_loads", "_load"):
        monkeypatch.setattr(pickle, function, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert (train(replace(config, resume=True)) / "policy" / "model.safetensors").is_file()


def test_a_signal_ends_the_run_after_its_step_and_nothing_is_lost(quick, capfd):
    def on_step(record):
        if record.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    config = quick("run")
    with pytest.raises(RunInterrupted, match=r"stopped by SIGTERM after step 3 of 6; everything"):
        _ = train(config, on_step=on_step)
    assert "finishing this step and saving" in capfd.readouterr().err
    partial = partial_folder(Path(config.output or ""))
    assert checkpoint_steps(partial / "checkpoints") == [3, 2]
    steps = []
    folder = train(replace(config, resume=True), on_step=lambda record: steps.append(record.step))
    assert steps == [4, 5, 6]
    assert _files(folder) == _files(train(quick("unbroken")))


def test_a_run_killed_after_its_last_step_is_finished_without_a_step(quick, monkeypatch):
    config = quick("run")

    def broken(_):
        raise Broken

    with monkeypatch.context() as patch:
        patch.setattr("lm.train.finish_run", broken)
        with pytest.raises(Broken):
            _ = train(config)
    # Half a policy folder, as a kill may leave it: it is written anew.
    partial = partial_folder(Path(config.output or ""))
    (partial / "policy" / "model.safetensors").unlink()
    steps = []
    folder = train(replace(config, resume=True), on_step=lambda record: steps.append(record.step))
    assert steps == []
    assert _files(folder) == _files(train(quick("unbroken")))


def test_resuming_a_finished_run_changes_nothing(quick):
    config = quick("run", steps=2)
    folder = train(config)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert train(replace(config, resume=True)) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_run_whose_base_was_replaced_does_not_go_on(quick, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model(), model)
    config = quick("run", model=str(model))
    with pytest.raises(Broken):
        _ = train(config, on_step=_break_at(3))
    weights = load_file(model / "model.safetensors")
    scaled = {name: tensor * 1.05 for name, tensor in weights.items()}
    save_file(scaled, model / "model.safetensors", metadata={"format": "pt"})
    partial = tmp_path / ".run.partial"
    before = _tree(partial)
    with pytest.raises(RunError, match=r"reads is not what it was .*model has changed\."):
        _ = train(replace(config, resume=True))
    assert _tree(partial) == before

    # A run of an earlier version does not know what it read, but what its target was.
    (partial / "inputs.json").unlink()
    before = _tree(partial)
    with pytest.raises(RunError, match=r"E\[female\] of the base is .* the model's folder,"):
        _ = train(replace(config, resume=True))
    assert _tree(partial) == before


def test_two_processes_do_not_write_one_run(quick):
    config = quick("run", steps=2)

    def meddle(record):
        for again in (replace(config, resume=True), replace(config, overwrite=True)):
            with pytest.raises(RunError, match=r"another process is writing .*\.run\.partial"):
                _ = train(again)

    _ = train(config, on_step=meddle)


def _tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
