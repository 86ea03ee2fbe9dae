"""A tiny base and a tiny finished run, made once for all tests that look at them."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from lm.config import EvaluationConfig, OptimizerConfig, RunConfig, TargetConfig
from lm.config.base import BaseConfig
from lm.config.options import to_plain
from lm.training.base import train_base

# Enough training that some samples are listed names, and no more.
BASE = BaseConfig(layers=1, width=32, heads=4, steps=250, batch_size=256)
MILD = TargetConfig(moments={"female": 0.06, "listed": "base"})
SMALL = EvaluationConfig(every=2, samples=256, group=64, texts=8)


@functools.cache
def scratch() -> Path:
    """Return a folder that lives as long as the test session."""
    folder = Path(tempfile.mkdtemp(prefix="fdpg-ref-tests-"))
    _ = atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def tiny_model() -> Path:
    """Return the folder of a 1x32 model of first names, trained for a few seconds."""
    return train_base(BASE, cache=scratch())


def tiny_config(output: Path, **changes: Any) -> RunConfig:
    """Return the configuration of a run of four small steps."""
    config = RunConfig(
        name="tiny",
        output=str(output),
        model=str(tiny_model()),
        divergence="forward_kl",
        target=MILD,
        steps=4,
        batch_size=32,
        optimizer=OptimizerConfig(lr=1e-3),
        evaluation=SMALL,
        device="cpu",
    )
    return replace(config, **changes)


@functools.cache
def finished_run() -> Path:
    """Return a run folder. Tests read it; one that writes copies it first."""
    import lm.train
    from lm.report.build import finish_run

    # Whole, even if the first test that asks for it has switched reports off for its own runs.
    with mock.patch.object(lm.train, "finish_run", finish_run):
        return lm.train.train(tiny_config(scratch() / "finished"))


def lines(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl, of one kind or all."""
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    return [record for record in records if kind in {None, record["kind"]}]


def plain_config(output: Path, **changes: Any) -> RunConfig:
    """Return the configuration of a run of the default base, which is not there."""
    return RunConfig(output=str(output), target=TargetConfig(moments={"listed": 0.3}), **changes)


def leave_run(folder: Path, config: RunConfig, *, records: bool = True) -> None:
    """Make what an interrupted or a finished run leaves, as far as a start looks at it."""
    folder.mkdir()
    _ = (folder / "config.json").write_text(json.dumps(to_plain(config)))
    if records:
        _ = (folder / "timings.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
