"""Engines that are not installed: imports go well, and the first use says what to install."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lm.engines.extras import Missing, engine

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = """
import builtins, sys
from importlib import abc

class Hide(abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("trl", "verl"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
import lm.cli.commands
assert not any(name.startswith("lm.engines") for name in sys.modules)
from lm.engines.trl import FDPGConfig, FDPGTrainer
for use in (lambda: FDPGConfig("runs"), lambda: FDPGTrainer("model", None, None)):
    try:
        use()
    except ImportError as error:
        print(error)
"""


def test_a_missing_engine_is_named_with_its_command():
    missing = engine("no_engine")
    assert isinstance(missing, Missing)

    class Trainer(missing.Trainer):
        """As one of ours stands on one of theirs."""

    with pytest.raises(ImportError, match=r"no_engine is not installed: .*'\.\[no_engine\]'"):
        _ = Trainer("model")


def test_a_fault_inside_an_engine_is_not_hidden(tmp_path, monkeypatch):
    _ = (tmp_path / "half_an_engine.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        _ = engine("half_an_engine")


def test_the_entry_point_of_verl_names_a_module():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (name,) = project["entry-points"]["verl.plugins"].values()
    assert importlib.util.find_spec(name) is not None


@pytest.mark.slow
def test_lm_never_imports_an_engine_and_ours_says_what_to_install():
    command = [sys.executable, "-c", WITHOUT]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    line = "trl is not installed: python -m pip install '.[trl]' in a clone"
    assert found.stdout.splitlines() == [line, line]
