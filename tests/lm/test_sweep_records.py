"""What a sweep keeps of runs that fail, and what it makes again."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.lm_sweeps import plain_sweep, tiny_block, tiny_sweep

from lm.cli.main import main
from lm.config.options import build_config
from lm.errors import RunBusy, RunError, RunInterrupted
from lm.sweep.cells import expand
from lm.sweep.command import run_sweep
from lm.sweep.config import SweepConfig
from lm.sweep.records import cell_job, read_record, record_path
from lm.sweep.workers import Job


def _raise(error: BaseException, then: BaseException | None = None) -> Any:
    """Return a job that fails, with a cause if there are two errors."""

    def fail(_config: object) -> None:
        raise error from then

    return fail


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RunBusy("another process is writing there"), None),
        (MemoryError("of this machine"), None),
        (torch.OutOfMemoryError("of the GPU"), None),
        (RunError("while scoring"), RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        (PermissionError(13, "Permission denied"), None),
        (RunError("the run cannot be written"), OSError(5, "Input/output error")),
        (PackageNotFoundError("numpy"), None),
        (RunError("the reward cannot be read"), ModuleNotFoundError("No module named 'vader'")),
    ],
)
def test_what_only_this_moment_forbids_is_not_recorded(tmp_path, monkeypatch, error, cause):
    (first, *_) = expand(tiny_sweep(tmp_path))
    path = record_path(tmp_path, first.run)
    config = replace(first.config, output=str(tmp_path / "run"))
    monkeypatch.setattr("lm.sweep.records.train_job", _raise(error, cause))
    assert cell_job(config, path, "commit") is not None
    assert not path.exists()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RunError("the gradient norm is nan"), None),
        (KeyError("lost"), None),
        (FileNotFoundError(2, "No such file or directory", "prompts.txt"), None),
        (RunError("while scoring"), RuntimeError("shapes differ")),
    ],
)
def test_what_the_run_is_at_fault_for_is_recorded(tmp_path, monkeypatch, error, cause):
    (first, *_) = expand(tiny_sweep(tmp_path))
    config = replace(first.config, output=str(tmp_path / "run"))
    monkeypatch.setattr("lm.sweep.records.train_job", _raise(error, cause))
    assert cell_job(config, record_path(tmp_path, first.run), "commit") is None
    assert read_record(tmp_path, first.run)["failed"]


def test_a_run_that_was_interrupted_ends_the_sweep_and_is_not_recorded(tmp_path, monkeypatch):
    (first, *_) = expand(tiny_sweep(tmp_path))
    path = record_path(tmp_path, first.run)
    config = replace(first.config, output=str(tmp_path / "run"))
    interrupted = RunInterrupted("SIGTERM", 1, 3, "run")
    monkeypatch.setattr("lm.sweep.records.train_job", _raise(interrupted))
    with pytest.raises(RunInterrupted):
        _ = cell_job(config, path, "commit")
    assert not path.exists()


class _Here:
    """Workers that are this process."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, jobs: list[Job]) -> list[Any]:
        return [job.function(*job.arguments) for job in jobs]


def test_a_sweep_makes_the_others_and_tries_again_what_could_not_be_made(tmp_path, monkeypatch):
    sweep = tiny_sweep(tmp_path, blocks=[tiny_block(seeds=[0, 1])])
    first, second = expand(sweep)
    made = []

    def train_one(config: Any) -> Any:
        made.append(config.seed)
        if made == [0]:
            raise MemoryError("12 GiB")
        raise RunError("the gradient norm is nan")

    monkeypatch.setattr("lm.sweep.command.Workers", _Here)
    monkeypatch.setattr("lm.sweep.command.base_job", lambda _: None)
    monkeypatch.setattr("lm.sweep.records.train_job", train_one)
    words = r"1 of 2 runs could not be made now, the first one, .*seed0: MemoryError: 12 GiB\. All"
    with pytest.raises(RunError, match=words):
        _ = run_sweep(sweep, command="a test")
    folder = Path(sweep.output)
    kept = [record_path(folder, cell.run).exists() for cell in (first, second)]
    assert kept == [False, True]
    with pytest.raises(RunError, match="every run failed"):
        _ = run_sweep(sweep, command="a test")
    assert made == [0, 1, 0]


def test_the_folders_that_are_kept_are_never_those_of_other_runs(tmp_path, monkeypatch):
    places = []

    def train_one(config: Any) -> Any:
        places.append(config.output)
        raise RunError("the gradient norm is nan")

    monkeypatch.setattr("lm.sweep.command.Workers", _Here)
    monkeypatch.setattr("lm.sweep.command.base_job", lambda _: None)
    monkeypatch.setattr("lm.sweep.records.train_job", train_one)
    # Two rates, one after the other, then both, and then a name that means something else.
    for rates, value in ((["fast"], 1e-4), (["slow"], 1e-4), (["fast", "slow"], 2e-4)):
        changes = {"slow": {"value": value}}
        sweep = tiny_sweep(tmp_path, keep=True, blocks=[tiny_block(rates=rates)], rates=changes)
        with pytest.raises(RunError, match="every run failed"):
            _ = run_sweep(sweep, command="a test")
    assert len(set(places)) == len(places) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not the record of a run"),
        ('{"evaluations": [', "is not the record of a run"),
        ("[1, 2]", r"it holds a list"),
        ('{"config": {}}', "it has no commit, cpu_seconds"),
        ("\0", "is not the record of a run"),
    ],
)
def test_a_damaged_record_is_named_before_anything_is_made(
    tmp_path, monkeypatch, capsys, content, words
):
    plain = plain_sweep(tmp_path)
    first, *_ = expand(build_config(SweepConfig, plain))
    record = record_path(Path(plain["output"]), first.run)
    record.parent.mkdir(parents=True)
    _ = record.write_text(content)
    path = tmp_path / "sweep.yaml"
    _ = path.write_text(yaml.safe_dump(plain))

    def never(*_: object) -> None:
        raise AssertionError("a worker was asked for")

    monkeypatch.setattr("lm.sweep.command.Workers", never)
    assert main(["sweep", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert f"{record} is not the record of a run" in error
    assert "delete it, and the run is made again" in error
    assert record.read_text() == content
