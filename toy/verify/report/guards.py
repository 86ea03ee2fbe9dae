"""The tests that guard the claims: found in the repository, and run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from xml.etree import ElementTree

PASSED, FAILED, MISSING = "passed", "failed", "missing"
_ROOT = Path(__file__).resolve().parents[3]


def find_guards(test_ids: Collection[str], *, root: Path = _ROOT) -> frozenset[str]:
    """Return which pytest nodes ``file.py::function`` exist, by reading the files.

    Parameters
    ----------
    test_ids : collection of str
        Node ids, relative to the root of the repository.
    root : pathlib.Path
        That root.

    Returns
    -------
    frozenset of str
        Those whose file defines such a function.
    """
    files = {identifier.partition("::")[0] for identifier in test_ids}
    defined = {
        f"{file}::{node.name}"
        for file in files
        if (root / file).is_file()
        for node in ast.parse((root / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    return frozenset(test_ids) & defined


def run_guards(test_ids: Collection[str], *, root: Path = _ROOT) -> Mapping[str, str]:
    """Run the guarding tests with pytest and return the outcome of each.

    Parameters
    ----------
    test_ids : collection of str
        Node ids ``file.py::function``, relative to the root of the repository.
    root : pathlib.Path
        That root. An installed package without its tests has none, and every guard is missing.

    Returns
    -------
    mapping of str
        "passed" if the test ran at least once and never failed, "missing" if there is no such
        test, else "failed".
    """
    found = sorted(find_guards(test_ids, root=root))
    outcomes = dict.fromkeys(test_ids, MISSING) | dict.fromkeys(found, FAILED)
    if not found:
        return outcomes
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        options = ["-q", "-p", "no:cacheprovider", "-m", "not slow", f"--junitxml={results}"]
        # Guards of small arrays gain nothing from threads, and share the machine.
        subprocess.run(
            [sys.executable, "-m", "pytest", *options, *found],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=False,
        )
        # Without pytest there is no file, and no guard has passed.
        return outcomes | (_outcomes(results) if results.is_file() else {})


def _outcomes(results: Path) -> dict[str, str]:
    """Return the outcome of each node of a JUnit file, all parameters together."""
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(results).iter("testcase"):
        file = case.get("classname", "").replace(".", "/") + ".py"
        node = f"{file}::{case.get('name', '').partition('[')[0]}"
        if case.find("skipped") is not None:
            continue
        passed = case.find("failure") is None and case.find("error") is None
        if outcomes.get(node) != FAILED:
            outcomes[node] = PASSED if passed else FAILED
    return outcomes
