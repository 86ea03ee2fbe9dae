"""Machinery of ``python tests/mutants.py``: copy the tree, break one line, and watch a test fail.

A mutant counts as killed only if it imports and collects and then dies by an assertion, or by an
error that the project names, in a test that passes on the unmutated tree. The working tree is never
edited: every mutant lives in its own temporary copy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fdpg_ref", "toy", "lm")
TIMEOUT = 600  # seconds; a mutant that hangs has not been killed by an assertion

# What may kill: an assertion, pytest's own failure (an error that was not raised), torch's check of
# derivatives, and the errors that the project itself names.
_DEATHS = re.compile(
    r"(assert\b|AssertionError|Failed:|hypothesis\.errors\.|"
    r"torch\.autograd\.gradcheck\.GradcheckError|"
    r"(fdpg_ref\._checks|lm\.errors|lm\.models\.vocabulary|lm\.models\.token_ids)\.\w+)"
)
_LEFT_OUT = shutil.ignore_patterns(".*", "notebooks", "docs", "runs", "build", "dist", "*.egg-info")


class Mutant(NamedTuple):
    """One deliberate mistake: in ``file``, ``before`` becomes ``after``; ``tests`` must notice."""

    file: str
    before: str
    after: str
    why: str
    tests: tuple[str, ...]


class Result(NamedTuple):
    """What became of a mutant: killed or survived or broken, by what, and in how many seconds."""

    mutant: Mutant
    verdict: str
    detail: str
    seconds: float


def occurrences(mutant: Mutant) -> int:
    """Return how often the text to be replaced stands in the file; it must be once."""
    return (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.before)


def check_unmutated(tests: Sequence[str]) -> str:
    """Run the selection on an unmutated copy; return an empty string, or what is wrong."""
    with tempfile.TemporaryDirectory(prefix="fdpg-unmutated-") as folder:
        copy = _copy_tree(Path(folder))
        program = "".join(f"import {name}; print({name}.__file__);" for name in PACKAGES)
        probe = _run(copy, [sys.executable, "-c", program])
        for line in probe.stdout.splitlines():
            if not Path(line).is_relative_to(copy):
                return f"the copy is not what gets imported: {line}"
        outcome = _pytest(copy, tests)
        return "" if outcome.returncode == 0 else outcome.stdout[-3000:] + outcome.stderr[-1000:]


def try_mutant(mutant: Mutant) -> Result:
    """Apply one mutant to a fresh copy and run its tests."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fdpg-mutant-") as folder:
        copy = _copy_tree(Path(folder))
        path = copy / mutant.file
        source = path.read_text(encoding="utf-8")
        if source.count(mutant.before) != 1:
            return Result(mutant, "broken", "the file changed during the run", 0.0)
        _ = path.write_text(source.replace(mutant.before, mutant.after), encoding="utf-8")
        try:
            verdict, detail = _judge(_pytest(copy, mutant.tests), copy)
        except subprocess.TimeoutExpired:
            verdict, detail = "broken", f"still running after {TIMEOUT} s"
    return Result(mutant, verdict, detail, time.perf_counter() - started)


def _copy_tree(folder: Path) -> Path:
    copy = folder.resolve() / "project"
    _ = shutil.copytree(ROOT, copy, ignore=_LEFT_OUT)
    return copy


def _pytest(copy: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    ids = [f"tests/{test}" for test in tests]
    options = ["-x", "-q", "-p", "no:cacheprovider", "--durations=0", "--junitxml=report.xml"]
    return _run(copy, [sys.executable, "-m", "pytest", *options, *ids])


def _run(copy: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    # Where CI is set, pytest compares two long texts in full, which can take it hours.
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    environment = {
        **inherited,
        **threads,
        "PYTHONPATH": str(copy),
        "HYPOTHESIS_PROFILE": "mutants",
    }
    return subprocess.run(
        command,
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


def _judge(outcome: subprocess.CompletedProcess[str], copy: Path) -> tuple[str, str]:
    if outcome.returncode == 0:
        return "survived", "all its tests pass"
    report = copy / "report.xml"
    if outcome.returncode != 1 or not report.exists():
        return "broken", f"pytest exit {outcome.returncode}: {outcome.stdout[-300:]}"
    for case in ElementTree.parse(report).iter("testcase"):
        failure = case.find("failure")
        if failure is None:
            continue
        message = failure.get("message", "")
        verdict = "killed" if _DEATHS.match(message) else "broken"
        return verdict, f"{case.get('name')}: {' '.join(message.split())[:90]}"
    return "broken", "an error outside of a test's body"
