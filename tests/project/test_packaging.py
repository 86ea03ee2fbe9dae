"""What a wheel of this repository holds, and that the working copy is what gets imported."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fdpg_ref", "toy", "lm")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_are_those_of_this_repository(package):
    """Short names such as ``toy`` and ``lm`` exist elsewhere: these must be ours."""
    module = importlib.import_module(package)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT / package / "__init__.py"


def test_the_project_cannot_be_uploaded_by_accident():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "Private :: Do Not Upload" in project["classifiers"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build from a copy: setuptools writes build/ and egg-info beside what it builds."""
    source = tmp_path_factory.mktemp("source") / "project"
    hidden = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "notebooks"
    )
    _ = shutil.copytree(ROOT, source, ignore=hidden)
    built = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", str(built)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (path,) = built.glob("fdpg_ref-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel):
    names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    shipped = {name for name in names if name.endswith(".py")}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert shipped == expected


def test_the_wheel_holds_data_recipes_and_the_typing_marker(wheel):
    names = set(wheel.namelist())
    assert "fdpg_ref/py.typed" in names
    for pattern in ("lm/features/data/*.csv", "lm/recipes/*.yaml", "lm/recipes/*.txt"):
        files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
        assert files, pattern
        assert files <= names


def test_the_wheel_says_what_it_is(wheel):
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    fields = Parser().parsestr(wheel.read(metadata).decode())
    assert fields["Name"] == "fdpg-ref"
    assert fields["License-Expression"] == "Apache-2.0"
    assert "Private :: Do Not Upload" in (fields.get_all("Classifier") or [])
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
