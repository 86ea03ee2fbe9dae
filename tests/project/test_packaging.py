"""What the wheel and the source distribution hold, and what a fresh environment can do with it."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
# Not study: it judges the hypotheses of docs/ on tables stored here, and a wheel has neither.
# What a checkout in use also holds.
MADE = {"__pycache__", ".ipynb_checkpoints", ".cache", "runs"}
PACKAGES = ("fdpg_ref", "toy", "lm")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_are_those_of_this_repository(package):
    """Short names such as ``toy`` and ``lm`` exist elsewhere: these must be ours."""
    module = importlib.import_module(package)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT / package / "__init__.py"


def test_the_project_cannot_be_uploaded_by_accident():
    assert "Private :: Do Not Upload" in PROJECT["classifiers"]


# ---------------------------------------------------------------- what each part needs

# Some commands need more than the extra of their package, and say so where it is missing.
LAZY = {"toy": {"torch", "pandas", "pyarrow", "mpmath"}, "lm": {"pyarrow"}, "study": set()}


def names_of(requirements: list[str]) -> set[str]:
    found = {re.split(r"[<>=\[ ]", requirement, maxsplit=1)[0] for requirement in requirements}
    return {name.replace("-", "_") for name in found}


def test_the_core_needs_array_api_compat_alone():
    assert names_of(PROJECT["dependencies"]) == {"array_api_compat"}


@pytest.mark.parametrize("package", LAZY)
def test_an_extra_declares_what_its_package_imports(package):
    extra = names_of(PROJECT["optional-dependencies"][package]) | {"array_api_compat"}
    declared = extra - {"pyyaml"} | ({"yaml"} if "pyyaml" in extra else set())
    # jaxtyping is imported for a type checker only.
    known = {"fdpg_ref", package, "jaxtyping", *sys.stdlib_module_names}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {module.partition(".")[0] for module in modules}
            assert tops <= known | declared | LAZY[package], path


# ---------------------------------------------------------------- the distributions


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and the wheel from it, in a copy: setuptools leaves files."""
    source = tmp_path_factory.mktemp("source") / "project"
    hidden = shutil.ignore_patterns(
        ".git",
        ".venv",
        ".*cache",
        ".hypothesis",
        "__pycache__",
        "*.egg-info",
        "build",
        "dist",
        "runs",
    )
    _ = shutil.copytree(ROOT, source, ignore=hidden)
    built = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(built), str(source)]
    # A path to the working copy would shadow the copy that is built.
    result = run(command, cwd=built)
    assert result.returncode == 0, result.stderr
    return built


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> zipfile.ZipFile:
    (path,) = distributions.glob("fdpg_ref-*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def run(command: list[str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_wheel_holds_data_recipes_and_typing_markers(wheel):
    names = set(wheel.namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    for pattern in ("lm/features/data/*.csv", "lm/recipes/*.yaml", "lm/recipes/*.txt"):
        files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
        assert files, pattern
        assert files <= names


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel, metadata):
    assert metadata["Name"] == "fdpg-ref"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Private :: Do Not Upload" in (metadata.get_all("Classifier") or [])
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
    needed = metadata.get_all("Requires-Dist") or []
    assert names_of([line for line in needed if "extra ==" not in line]) == {"array_api_compat"}
    assert set(metadata.get_all("Provides-Extra") or []) == set(PROJECT["optional-dependencies"])


@pytest.mark.slow
def test_the_long_description_is_the_readme_and_renders(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert text.strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert MarkdownIt().render(text).startswith("<h1>fdpg-ref</h1>")


@pytest.mark.slow
def test_the_source_distribution_holds_what_the_tests_need(distributions):
    (path,) = distributions.glob("fdpg_ref-*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("tests", "docs", "examples", "benchmarks", "notebooks", "study", "tools", ".ci")
    needed = {
        file.relative_to(ROOT).as_posix()
        for folder in (*folders, *PACKAGES)
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and not MADE & set(file.relative_to(ROOT).parts)
    }
    assert [name for name in held if MADE & set(name.split("/"))] == []
    needed |= {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"}
    needed |= {"constraints.txt", "pyproject.toml", ".pre-commit-config.yaml"}
    assert needed - held == set()


# ---------------------------------------------------------------- a fresh environment


@pytest.fixture(scope="module")
def python(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the Python of a new environment with the wheel and array-api-compat in it alone."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    executable = str(folder / "bin" / "python")
    (site,) = folder.glob("lib/python*/site-packages")
    # What pip would fetch is copied from the environment at hand, so that no network is needed.
    compat = distribution("array-api-compat")
    for file in compat.files or []:
        if file.suffix == ".pyc":
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        _ = shutil.copyfile(str(compat.locate_file(file)), target)
    (built,) = distributions.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", executable]
    # Without --no-deps: pip itself must find that nothing is missing.
    installed = run([*pip, "install", "--no-index", "--quiet", str(built)], cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return executable


@pytest.mark.slow
def test_the_core_works_where_only_array_api_compat_is_installed(python, tmp_path):
    program = (
        "import importlib, pathlib, fdpg_ref, fdpg_ref.related\n"
        "root = pathlib.Path(fdpg_ref.__path__[0])\n"
        "for path in sorted(root.rglob('[!_]*.py')):\n"
        "    name = '.'.join(path.relative_to(root.parent).with_suffix('').parts)\n"
        "    importlib.import_module(name)\n"
        "print(root.parent, fdpg_ref.find_divergence('jensen_shannon').curvature, sep='\\n')\n"
    )
    result = run([python, "-I", "-c", program], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    where, curvature = result.stdout.splitlines()
    assert Path(where).is_relative_to(Path(python).parents[1])
    assert float(curvature) == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("package", ["toy", "lm", "study"])
@pytest.mark.parametrize("words", [[], ["train"]], ids=["no command", "a command"])
def test_a_command_line_without_its_extra_says_which_one_to_install(python, package, words):
    # study is run from the working copy, the only place where it is.
    result = run(
        [python, "-m", package, *words], cwd=ROOT if package == "study" else Path(python).parent
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert f"is not installed: python -m pip install '.[{package}]' in a clone" in result.stderr
