"""The folder of a run: complete or not there.

A run writes to ``.NAME.partial`` beside its folder and renames it when everything is in it. A
file of a finished run is::

    config.yaml, config.json        the resolved configuration
    environment.json                versions and machine
    status.json                     what is proven about the gradient (verdict, factor, reason)
    target.json                     features, moments, multipliers, fit certificate, log Z
    metrics.jsonl                   one step or evaluation a line; the scheme is in lm/records.py
    timings.jsonl                   clock values, kept apart: metrics.jsonl is reproducible
    samples_before.txt, samples_after.txt, figures/*.png, summary.json, report.html, README.md
    policy/                         the trained model, a plain Hugging Face folder
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lm.config import RunConfig
from lm.environment import environment
from lm.errors import RunError
from lm.files import require_new_folder, write_atomic
from lm.options import from_plain, to_plain
from lm.partition import proven_status
from lm.policy import CausalPolicy
from lm.problem import Problem
from lm.targets import describe_target


class RunFolder:
    """Where a run in progress writes.

    Parameters
    ----------
    final
        The folder's name once the run is complete.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.partial = final.with_name(f".{final.name}.partial")

    def write_text(self, name: str, text: str) -> None:
        """Write a file at once or not at all."""
        write_atomic(self.partial / name, text.encode("utf-8"))

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file at once or not at all; NaN is refused."""
        self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Append one line of JSON."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with (self.partial / name).open("a", encoding="utf-8") as file:
            file.write(line)

    def write_problem(self, config: RunConfig, problem: Problem) -> None:
        """Record what the run is about before it starts."""
        target, offline = problem.target, problem.offline
        fit = target.fit
        self.write_json(
            "target.json",
            {
                "kind": config.target.kind,
                "beta": config.target.beta,
                "features": describe_target(target),
                "log_z": problem.log_z,
                "log_z_source": "exact" if target.log_z is not None else "offline",
                "offline": None if offline is None else offline._asdict(),
                "fit": None
                if fit is None
                else {
                    "multipliers": fit.multipliers.tolist(),
                    "gradient_norm": float(fit.gradient_norm),
                    "iterations": int(fit.iterations),
                    "dual_values": [float(value) for value in fit.dual_values],
                    "moment_errors": [float(value) for value in fit.moment_errors],
                },
            },
        )

    def write_policy(self, policy: CausalPolicy) -> None:
        """Save the policy as a plain Hugging Face folder."""
        folder = self.partial / "policy"
        folder.mkdir()
        policy.save(folder)


@contextmanager
def open_run(config: RunConfig) -> Iterator[RunFolder]:
    """Create the run's partial folder, and give it its name when the run is complete.

    A run that fails before its first step leaves nothing. One that fails later leaves its partial
    folder, for the records in it may explain why; the error says where it is.

    Parameters
    ----------
    config
        A resolved configuration.

    Yields
    ------
    RunFolder
        With configuration, environment and status already written.

    Raises
    ------
    RunError
        The folder exists and may not be replaced, or cannot be created.
    """
    run = RunFolder(Path(config.output or ""))
    require_new_folder(run.final, overwrite=config.overwrite)
    try:
        if run.partial.exists():
            shutil.rmtree(run.partial)
        (run.partial / "figures").mkdir(parents=True)
    except OSError as error:
        raise RunError(
            f"the run folder {run.final} cannot be created ({error.strerror}): choose another "
            "--output"
        ) from error
    try:
        _write_config(run, config)
        yield run
    except BaseException as error:
        if not (run.partial / "timings.jsonl").exists():
            shutil.rmtree(run.partial)
        else:
            error.add_note(f"what was recorded until then is in {run.partial}")
        raise
    _replace(run.partial, run.final)


def read_config(folder: Path) -> RunConfig:
    """Read the configuration of a finished run.

    Raises
    ------
    RunError
        The folder is not a run.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(f"{folder} is not a run folder: it has no config.json. Runs are in runs/")
    return from_plain(RunConfig, json.loads(path.read_text(encoding="utf-8")))


def _write_config(run: RunFolder, config: RunConfig) -> None:
    plain = to_plain(config)
    run.write_json("config.json", plain)
    run.write_text("config.yaml", yaml.safe_dump(plain, sort_keys=False))
    run.write_json("environment.json", environment())
    status = proven_status(config.divergence, config.partition.policy, config.baseline.kind)
    run.write_json("status.json", status._asdict())


def _replace(partial: Path, final: Path) -> None:
    if final.exists():
        old = final.with_name(f".{final.name}.old")
        final.replace(old)
        partial.replace(final)
        shutil.rmtree(old)
    else:
        os.replace(partial, final)
