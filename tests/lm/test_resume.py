"""How a run starts, and what it is when it goes on: nothing recomputed differs by a bit."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.lm_runs import SMALL, tiny_config, tiny_model

from lm.config.options import to_plain
from lm.config.run import (
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
from lm.run.folder import read_config
from lm.run.start import differences, how_to_start, partial_folder, resume_command
from lm.train import train


def _config(output: Path, **changes) -> RunConfig:
    return RunConfig(output=str(output), target=TargetConfig(moments={"listed": 0.3}), **changes)


def _leave(folder: Path, config: RunConfig, *, records: bool = True) -> None:
    """Make what an interrupted or a finished run leaves, as far as a start looks at it."""
    folder.mkdir()
    _ = (folder / "config.json").write_text(json.dumps(to_plain(config)))
    if records:
        _ = (folder / "timings.jsonl").write_text("{}\n")


def test_a_run_starts_where_nothing_is(tmp_path):
    assert how_to_start(_config(tmp_path / "run")) == "new"
    # A script that always passes --resume works from the first time on.
    assert how_to_start(_config(tmp_path / "run", resume=True)) == "new"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_is_neither_deleted_nor_continued_unasked(tmp_path):
    config = _config(tmp_path / "run")
    _leave(tmp_path / ".run.partial", config)
    with pytest.raises(RunError, match="add --resume to go on with it, or --overwrite to delete"):
        _ = how_to_start(config)
    assert how_to_start(replace(config, overwrite=True)) == "new"
    assert how_to_start(replace(config, resume=True)) == "resumed"


def test_a_run_that_recorded_nothing_is_begun_again(tmp_path):
    config = _config(tmp_path / "run")
    _leave(tmp_path / ".run.partial", config, records=False)
    assert how_to_start(config) == how_to_start(replace(config, resume=True)) == "new"


def test_a_finished_run_is_complete_and_stays(tmp_path):
    config = _config(tmp_path / "run")
    _leave(tmp_path / "run", config)
    assert how_to_start(replace(config, resume=True)) == "complete"
    assert how_to_start(replace(config, overwrite=True)) == "new"
    with pytest.raises(RunError, match="pass --overwrite to replace it"):
        _ = how_to_start(config)
    with pytest.raises(RunError, match=r"is complete with another configuration.*seed is 1 now"):
        _ = how_to_start(replace(config, resume=True, seed=1))


def test_an_interrupted_replacement_goes_on_and_replaces_in_the_end(tmp_path):
    config = _config(tmp_path / "run")
    _leave(tmp_path / "run", replace(config, seed=7))
    _leave(tmp_path / ".run.partial", replace(config, overwrite=True))
    assert how_to_start(replace(config, resume=True)) == "resumed"


def test_resuming_with_another_configuration_is_refused_and_names_each_key(tmp_path):
    config = _config(tmp_path / "run")
    _leave(tmp_path / ".run.partial", config)
    other = replace(config, resume=True, steps=300, optimizer=OptimizerConfig(lr=1e-4))
    with pytest.raises(RunError) as caught:
        _ = how_to_start(other)
    message = str(caught.value)
    assert "steps is 300 now, but was 200; optimizer.lr is 0.0001 now, but was 0.0003." in message
    assert "drop --resume and pass --overwrite to start again" in message


def test_what_changes_no_number_may_differ(tmp_path):
    config = _config(tmp_path / "run")
    moved = replace(
        config,
        output=str(tmp_path / "moved"),
        resume=True,
        checkpoint=CheckpointConfig(every=7, keep=3),
        tracker="tensorboard",
    )
    assert differences(to_plain(moved), to_plain(config)) == []
    changed = replace(config, batch_size=128, target=TargetConfig(moments={"listed": 0.4}))
    assert differences(to_plain(changed), to_plain(config)) == [
        "target.moments.listed is 0.4 now, but was 0.3",
        "batch_size is 128 now, but was 256",
    ]


def test_a_key_of_another_version_counts_as_a_difference(tmp_path):
    recorded = to_plain(_config(tmp_path / "run"))
    del recorded["batch_size"]
    recorded["batch"] = 256
    assert sorted(differences(to_plain(_config(tmp_path / "run")), recorded)) == [
        "batch is absent now, but was 256",
        "batch_size is 256 now, but was absent",
    ]


def test_a_run_of_the_version_that_could_reuse_the_sampling_forward_goes_on(tmp_path):
    config = _config(tmp_path / "run", resume=True)
    partial = partial_folder(tmp_path / "run")
    _leave(partial, config)
    for used in (False, True):
        recorded = {**to_plain(config), "reuse_sampling_forward": used}
        _ = (partial / "config.json").write_text(json.dumps(recorded))
        # What was measured can be read in any case; the numbers to come would not be the same.
        assert read_config(partial, complete=False) == config
        if not used:
            assert how_to_start(config) == "resumed"
            continue
        with pytest.raises(RunError, match="reuse_sampling_forward was true, and is gone"):
            _ = how_to_start(config)


def test_an_unreadable_record_of_an_interrupted_run_is_refused(tmp_path):
    config = _config(tmp_path / "run", resume=True)
    partial = partial_folder(tmp_path / "run")
    _leave(partial, config)
    _ = (partial / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        _ = how_to_start(config)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("r.yaml --seed 1", "r.yaml --seed 1 --resume"),
        ("r.yaml --overwrite", "r.yaml --resume"),
        ("r.yaml --overwrite true --seed 1", "r.yaml --seed 1 --resume"),
        ("--overwrite --config r.yaml", "--config r.yaml --resume"),
        ("r.yaml --resume=true --steps 3", "r.yaml --steps 3 --resume"),
    ],
)
def test_the_command_that_goes_on_is_the_one_that_began(words, command):
    assert resume_command(words.split()) == f"python -m lm train {command}"


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
    assert "lm: the run goes on after step 4" in capsys.readouterr().err
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
        "lm: the run goes on after step 2",
    ]
    assert _files(folder) == _files(train(quick("unbroken")))


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
    before = _tree(tmp_path / ".run.partial")
    with pytest.raises(RunError, match=r"E\[female\] of the base is .* the model's folder,"):
        _ = train(replace(config, resume=True))
    assert _tree(tmp_path / ".run.partial") == before


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
