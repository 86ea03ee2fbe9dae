"""Every public name is documented, and the equation map leads from each to a test that exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import fdpg_ref
from fdpg_ref import related

ROOT = Path(__file__).resolve().parents[2]
MAP = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
TOP = {
    name: value
    for name in fdpg_ref.__all__
    if not isinstance(value := getattr(fdpg_ref, name), ModuleType)
}
# The map writes names that are not imported from the top with their package.
PUBLIC = TOP | {f"related.{name}": getattr(related, name) for name in related.__all__}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
SOURCES = [
    path
    for package in ("fdpg_ref", "toy", "lm")
    for path in sorted((ROOT / package).rglob("*.py"))
    if not path.name.startswith("_") and path.stat().st_size > 0
]

# The contract: these names are what notebooks and users build on.
CONTRACT = set(
    """
    batch_mean constrained divergence_terms DIVERGENCES dual effective_sample_size Estimate
    estimate_divergence exact_divergence exact_divergence_from_probabilities exact_log_partition
    exponential_family FDivergence fit_multipliers FORWARD_KL importance_log_partition
    InfiniteDivergence init_partition init_running_baseline JEFFREYS JENSEN_SHANNON largest_share
    LE_CAM leave_one_out leave_one_out_log_partition log_mean_exp log_ratio log_softmax logsumexp
    mean_and_standard_error MultiplierFit NEYMAN_CHI2 PartitionState PEARSON_CHI2
    relative_standard_error REVERSE_KL reward_tilted RunningBaseline score_coefficients
    score_signal SQUARED_HELLINGER TOTAL_VARIATION UnattainableMoments update_partition
    update_running_baseline
    """.split()  # noqa: SIM905 - a wall of quotes reads worse
)


def test_the_contract_is_importable_from_the_top():
    assert set(TOP) >= CONTRACT


def public_definitions(tree: ast.Module) -> list[tuple[str, Definition]]:
    """Return top-level public functions and classes, and the public methods of the latter."""
    found: list[tuple[str, Definition]] = []
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            found.append((node.name, node))
            if isinstance(node, ast.ClassDef):
                found += [
                    (f"{node.name}.{inner.name}", inner)
                    for inner in node.body
                    if isinstance(inner, Definition) and not inner.name.startswith("_")
                ]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_public_name_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    bare = [name for name, node in public_definitions(tree) if not ast.get_docstring(node)]
    assert bare == []


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_docstrings_of_the_core_name_parameters_and_returns(name):
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    assert text.splitlines()[0].endswith("."), "one sentence first"
    assert "\nReturns\n-------\n" in text
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    if parameters:
        section = text.partition("Parameters\n----------\n")[2].partition("\nReturns\n")[0]
        listed = re.findall(r"^(\w[\w, ]*) :", section, flags=re.MULTILINE)
        assert {p.strip() for line in listed for p in line.split(",")} == set(parameters)


def test_every_public_name_of_the_core_is_in_the_equation_map():
    quoted = set(re.findall(r"`((?:related\.)?\w+)[`(]", MAP))
    assert set(PUBLIC) - quoted == set()


@pytest.mark.parametrize(("document", "least"), [("equations", 40), ("security", 15)])
def test_the_tests_that_a_document_names_exist(document, least):
    text = (ROOT / "docs" / f"{document}.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert len(named) >= least
    for file in {file for file, _ in named}:
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        present = {name for name, _ in public_definitions(tree)}
        assert {function for where, function in named if where == file} <= present, file


def what_users_run() -> Iterator[str]:
    """Yield the code of the notebooks, their solutions and the documents."""
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield from ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for path in sorted((ROOT / "notebooks").rglob("*.py")):
        yield path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        yield from re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def imported_by_users() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for code in what_users_run():
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {alias.name for alias in node.names}
                found.setdefault(node.module, set()).update(names)
    return found


def defined_by(module):
    """Return what a module defines itself and does not call private."""
    names = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return {name for name in names if not name.startswith("_")}


USED = imported_by_users()
OURS = ("fdpg_ref", "toy", "lm", "study")


@pytest.mark.parametrize("name", [name for name in USED if name.partition(".")[0] in OURS])
def test_what_users_import_is_declared_public(name):
    module = importlib.import_module(name)
    declared = set(getattr(module, "__all__", None) or defined_by(module))
    modules = {info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))}
    assert USED[name] - declared - modules == set()
