"""``python -m lm demo``: the demonstration's sweep, with options, from a fresh start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lm.config.options import build_config
from lm.config.typed import check_types
from lm.errors import RunError, UsageError
from lm.run.files import FOLDER_LOCK, held, require_new_folder
from lm.run.owned import Kind, remove_owned, require_owned
from lm.sweep.cells import expand, merged
from lm.sweep.config import SweepConfig

# A sweep writes all other files of a demonstration as well, and they are not started over.
MARKER = "DEMONSTRATION.txt"
MARK = "This folder is a demonstration, which `python -m lm demo` starts over.\n"
UNFINISHED = (
    f"{MARK}It has not come to its end: it is running, or it was stopped. Its runs may be of "
    "different times. Run the same command again; it starts over.\n"
)
FINISHED = f"{MARK}It has come to its end.\n"
# What is deleted when one starts over: the code may have changed since.
RESULTS = {
    "cells": Kind("a folder of results", Path.is_dir, ("[0-9a-f]" * 16 + ".json",)),
    "figures": Kind(
        "a folder of figures",
        Path.is_dir,
        tuple(f"{name}-*.png" for name in ("trajectory", "divergences", "multipliers")),
    ),
}
# Without a terminal: seconds between two lines. A first command should never seem dead.
SAY_EVERY = 2.0


@dataclass(frozen=True)
class DemoConfig:
    """The demonstration, small or full. What is not given is as demo.yaml or demo_full.yaml say."""

    full: bool = False
    """three targets, two of them with two seeds, some minutes; else one of each, about a minute"""
    output: str | None = None
    """folder of all runs, figures and the page"""
    store: str | None = None
    """also write tables, checks and this machine's name to a Markdown file"""
    seeds: tuple[int, ...] | None = None
    """each divergence is run once for each"""
    steps: int | None = None
    """optimiser steps of each run"""
    batch_size: int | None = None
    """samples of each step"""
    warmup_steps: int | None = None
    """steps over which the learning rate rises; it then falls along a cosine"""
    betas: tuple[float, float] | None = None
    """of Adam"""
    workers: int | None = None
    """processes, one thread each; the numbers do not depend on it"""
    base: dict[str, Any] = field(default_factory=dict)
    """options of the base model, as in --base.steps 600 (see python -m lm base --help)"""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """when and how to measure, as in --evaluation.every 10 (see python -m lm train --help)"""

    def __post_init__(self) -> None:
        check_types(self)


def demo_sweep(config: DemoConfig) -> SweepConfig:
    """Return the sweep that a demonstration is.

    Parameters
    ----------
    config
        Which one, and what to change of it.

    Returns
    -------
    SweepConfig
        A valid sweep.

    Raises
    ------
    ValueError
        An option or a combination means nothing.
    """
    name = "demo_full.yaml" if config.full else "demo.yaml"
    plain = yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))

    # What is not given stays as it is.
    run = plain["run"]
    for key in ("steps", "batch_size"):
        run[key] = _given(getattr(config, key), run[key])
    optimizer = run["optimizer"]
    optimizer["betas"] = list(_given(config.betas, optimizer["betas"]))
    warmup = min(optimizer["warmup_steps"], run["steps"])
    optimizer["warmup_steps"] = _given(config.warmup_steps, warmup)
    run["evaluation"] |= config.evaluation

    # The one size, the blocks and the place are the demonstration's own.
    (size,) = plain["sizes"]
    plain["sizes"][size] |= config.base
    for block in plain["blocks"]:
        block["seeds"] = list(_given(config.seeds, block["seeds"]))
    output = _given(config.output, plain["output"])
    place = {"output": output, "page": str(Path(output) / "index.html"), "store": config.store}
    workers = {} if config.workers is None else {"workers": config.workers}
    return build_config(SweepConfig, merged(plain, place, workers))


def run_demo(
    config: DemoConfig, *, command: str = "python -m lm demo", console: Console | None = None
) -> int:
    """Make the demonstration.

    Parameters
    ----------
    config
        Its version, size and place.
    command
        As it was called, for the record.
    console
        Where tables and progress go; the standard output by default.

    Returns
    -------
    int
        0, or 1 if a statement that must hold does not; the path of the page is printed last.

    Raises
    ------
    UsageError, RunError
        An option means nothing, the folder cannot be used, or every run failed.
    """
    from lm.sweep.command import (  # noqa: PLC0415  # matplotlib is slow to import
        require_outputs,
        run_held_sweep,
    )

    # What means nothing is refused before the folder is touched.
    try:
        sweep = demo_sweep(config)
        _ = expand(sweep)
    except ValueError as error:
        raise UsageError(str(error)) from error
    folder = Path(sweep.output)
    _require_startable(folder)
    require_outputs(sweep)
    with held(folder):
        _start_over(folder)
        code = run_held_sweep(sweep, command=command, console=console, every=SAY_EVERY)
        _ = (folder / MARKER).write_text(FINISHED, encoding="utf-8")
    return code


def is_demonstration(folder: Path) -> bool:
    """Return whether a folder is that of a demonstration, finished or not."""
    marker = folder / MARKER
    return marker.is_file() and marker.read_bytes().startswith(MARK.encode())


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _require_startable(folder: Path) -> None:
    """Raise a RunError unless a folder is new, empty, or an earlier demonstration's."""
    require_new_folder(folder, overwrite=True)
    others = [] if not folder.is_dir() else [p for p in folder.iterdir() if p.name != FOLDER_LOCK]
    if others and not is_demonstration(folder):
        raise RunError(
            f"the folder {folder} exists and is not empty, and no demonstration made it: choose "
            "another --output, or move it away yourself"
        )
    for name, kind in RESULTS.items():
        require_owned(folder / name, kind)


def _start_over(folder: Path) -> None:
    """Take the folder: empty, or an earlier demonstration's, whose conclusions are removed."""
    _require_startable(folder)  # another process may have used it since
    try:
        _ = (folder / MARKER).write_text(UNFINISHED, encoding="utf-8")
        for name in ("index.html", "summary.json"):
            (folder / name).unlink(missing_ok=True)
        for name, kind in RESULTS.items():
            remove_owned(folder / name, kind)
    except OSError as error:
        raise RunError(f"the folder {folder} cannot be written to ({error.strerror})") from error
