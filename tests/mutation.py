"""Machinery of ``python tests/mutants.py``: copy the tree, break one line, and watch a test fail.

A mutant counts as killed only if it imports and collects and then dies by an assertion, or by an
error that the project names, in a test that passes on the unmutated tree. The working tree is never
edited: every mutant lives in its own temporary copy.

Importing torch and its friends takes longer than most tests. The workers of `worker_pool` have done
it, and every run of pytest is forked from one of them. Nothing of the project is imported before.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fdpg_ref", "toy", "lm", "study")
TIMEOUT = 600.0  # seconds; a mutant that hangs has not been killed by an assertion
OUT_OF_TIME = "not reached"

# Imported before the fork: what takes long.
PRELOADED = (
    *("accelerate", "array_api_strict", "hypothesis.strategies", "jsonargparse", "mpmath"),
    *("matplotlib.figure", "numpy", "pandas", "peft", "pyarrow.parquet", "pytest", "rich.table"),
    *("safetensors.torch", "scipy.optimize", "scipy.stats", "torch", "transformers", "yaml"),
    *("transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama"),
)
# What may kill: an assertion, pytest's own failure (an error that was not raised), torch's check of
# derivatives, and the errors that the project itself names.
_DEATHS = re.compile(
    r"(assert\b|AssertionError|Failed:|hypothesis\.errors\.|"
    r"torch\.autograd\.gradcheck\.GradcheckError|"
    r"(fdpg_ref\._internal\.checks|lm\.errors|lm\.models\.vocabulary|lm\.models\.token_ids|lm\.policy\.causal\.saved)\.\w+)"
)
_LEFT_OUT = shutil.ignore_patterns(".*", "notebooks", "docs", "runs", "build", "dist", "*.egg-info")
_OUTPUT = "pytest-output.txt"
_NO_PYTEST = 70  # exit code of a process that did not get as far as pytest's own


class Mutant(NamedTuple):
    """One deliberate mistake: in ``file``, ``before`` becomes ``after``; ``tests`` must notice."""

    file: str
    before: str
    after: str
    why: str
    tests: tuple[str, ...]


class Result(NamedTuple):
    """What became of a mutant: killed, survived, broken or not reached, by what, in what time."""

    mutant: Mutant
    verdict: str
    detail: str
    seconds: float


def occurrences(mutant: Mutant) -> int:
    """Return how often the text to be replaced stands in the file; it must be once."""
    return (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.before)


def worker_pool(jobs: int) -> ProcessPoolExecutor:
    """Return a pool of workers that have imported torch and nothing of the project."""
    # Where CI is set, pytest compares two long texts in full, which can take it hours.
    _ = os.environ.pop("CI", None)
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HYPOTHESIS_PROFILE": "mutants",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_NUM_THREADS": "1",
    }
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return ProcessPoolExecutor(jobs, context)


def check_unmutated(tests: Sequence[str], end: float = float("inf")) -> str:
    """Run tests on an unmutated copy; return an empty string, or what is wrong.

    Past `end`, of `time.monotonic`, it is `OUT_OF_TIME`.
    """
    with tempfile.TemporaryDirectory(prefix="fdpg-unmutated-") as folder:
        copy = _copy_tree(Path(folder))
        try:
            code = _pytest(copy, tests, end)
        except TimeoutError:
            return OUT_OF_TIME if time.monotonic() >= end else f"still running after {TIMEOUT} s"
        return "" if code == 0 else f"exit code {code}\n{_output(copy)[-4000:]}"


def try_mutant(mutant: Mutant, end: float = float("inf")) -> Result:
    """Apply one mutant to a fresh copy and run its tests, until `end` of `time.monotonic`."""
    started = time.monotonic()
    if started >= end:
        return Result(mutant, OUT_OF_TIME, "", 0.0)
    with tempfile.TemporaryDirectory(prefix="fdpg-mutant-") as folder:
        copy = _copy_tree(Path(folder))
        path = copy / mutant.file
        source = path.read_text(encoding="utf-8")
        if source.count(mutant.before) != 1:
            return Result(mutant, "broken", "the file changed during the run", 0.0)
        _ = path.write_text(source.replace(mutant.before, mutant.after), encoding="utf-8")
        try:
            verdict, detail = _judge(_pytest(copy, mutant.tests, end), copy)
        except TimeoutError:
            verdict, detail = "broken", f"still running after {TIMEOUT} s"
            if time.monotonic() >= end:
                verdict, detail = OUT_OF_TIME, ""
    return Result(mutant, verdict, detail, time.monotonic() - started)


def _copy_tree(folder: Path) -> Path:
    copy = folder.resolve() / "project"
    _ = shutil.copytree(ROOT, copy, ignore=_LEFT_OUT)
    return copy


def _pytest(copy: Path, tests: Sequence[str], end: float) -> int:
    """Run tests in a forked process and return pytest's exit code."""
    ids = [f"tests/{test}" for test in tests]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--junitxml=report.xml"]
    options += ["-m", "slow or not slow"]  # whatever tier a named test is in
    # Libraries that came before the fork bring plugins, whose assertions are none of ours.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    end = min(end, time.monotonic() + TIMEOUT)
    process = os.fork()
    if process == 0:
        _become_pytest(copy, [*options, *ids])
    status = None
    try:
        while (status := _ended(process)) is None:
            if time.monotonic() >= end:
                raise TimeoutError
            time.sleep(0.02)
        return os.waitstatus_to_exitcode(status)
    finally:
        if status is None:
            _kill(process)


def _ended(process: int) -> int | None:
    ended, status = os.waitpid(process, os.WNOHANG)
    return status if ended else None


def _kill(process: int) -> None:
    # With it goes whatever it started: it leads a group, unless it is too young for that.
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    os.kill(process, signal.SIGKILL)
    _ = os.waitpid(process, 0)


def _become_pytest(copy: Path, arguments: list[str]) -> NoReturn:
    """Do what `python -m pytest` does in the copy, and exit."""
    code = _NO_PYTEST
    try:
        os.setsid()
        output = os.open(copy / _OUTPUT, os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            _ = os.dup2(output, stream)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)
        outside = (ROOT, ROOT / "tests")
        kept = [path for path in sys.path if path and Path(path).resolve() not in outside]
        sys.path[:] = [str(copy), *kept]
        sys.argv = ["pytest", *arguments]
        for name in PACKAGES:
            found = importlib.util.find_spec(name)
            if found is None or not Path(found.origin or "").is_relative_to(copy):
                raise ImportError(f"the copy is not what gets imported: {found}")
        import pytest

        code = int(pytest.main(arguments))
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            _ = stream.flush()
        os._exit(code)


def _output(copy: Path) -> str:
    return (copy / _OUTPUT).read_text(encoding="utf-8", errors="replace")


def _judge(code: int, copy: Path) -> tuple[str, str]:
    if code == 0:
        return "survived", "all its tests pass"
    report = copy / "report.xml"
    if code != 1 or not report.exists():
        return "broken", f"pytest exit {code}: {_output(copy)[-300:]}"
    for case in ElementTree.parse(report).iter("testcase"):
        failure = case.find("failure")
        if failure is None:
            continue
        message = failure.get("message", "")
        verdict = "killed" if _DEATHS.match(message) else "broken"
        return verdict, f"{case.get('name')}: {' '.join(message.split())[:90]}"
    return "broken", "an error outside of a test's body"
