"""Who may import whom: read from the source, and proved by running the core without torch."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fdpg_ref", "toy", "lm")
TEST_MODULES = {path.stem for path in (ROOT / "tests").glob("*.py")} | {"tests"}
# Users' losses are torch functions, so the tools that look at them may import torch. A lesson
# measures torch's own divergences where torch is there.
TOY_WITH_TORCH = ("toy/audit/", "toy/museum/", "toy/lesson/nearly_equal.py")


class Import(NamedTuple):
    """One imported module, where, and whether only a type checker sees it."""

    path: str
    line: int
    module: str
    for_typing: bool
    relative: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def imports_of(package: str) -> list[Import]:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for statement in node.body
            for inner in ast.walk(statement)
        }
        where = path.relative_to(ROOT).as_posix()
        for node in ast.walk(tree):
            typing_only = id(node) in guarded
            if isinstance(node, ast.Import):
                found += [
                    Import(where, node.lineno, alias.name, typing_only, relative=False)
                    for alias in node.names
                ]
            elif isinstance(node, ast.ImportFrom):
                modules = {_module_of(node.module or "", alias.name) for alias in node.names}
                found += [
                    Import(where, node.lineno, module, typing_only, relative=node.level > 0)
                    for module in sorted(modules)
                ]
    return found


def _module_of(module: str, name: str) -> str:
    """Return what `from module import name` imports: a module of that name, or of the package's."""
    inner = ROOT / module.replace(".", "/") / name
    is_module = inner.with_suffix(".py").exists() or (inner / "__init__.py").exists()
    return f"{module}.{name}" if is_module or module in PACKAGES else module


IMPORTS = {package: imports_of(package) for package in (*PACKAGES, "study")}

# What a reader may rely on: a package or module knows those that are named before it.
ORDER = {
    "lm": (
        *("errors", "phases", "features", "device", "config", "models", "policy", "target", "run"),
        *("report", "evaluation", "surrogate", "training", "code_models", "train", "sweep", "demo"),
        *("selfcheck", "engines", "conformance", "cli", "__main__"),
    ),
    "toy": (
        *(
            "checks",
            "files",
            "printing",
            "categorical",
            "sequences",
            "families",
            "oracle",
            "problems",
        ),
        *(
            "exact",
            "estimators",
            "measurement",
            "config",
            "train",
            "audit",
            "sweep",
            "verify",
            "museum",
            "lesson",
        ),
        *("cli", "__main__"),
    ),
    "study": ("text", "names", "speaking", "statistics", "tables", "rules", "report", "__main__"),
}
# `python -m lm` reads these before it knows that torch is needed.
EMPTY = ("lm/cli/__init__.py", "lm/device/__init__.py", "lm/run/__init__.py")
MOST_FILES = 13
MOST_CIRCLES_OF_TYPES = 1


def test_the_reader_sees_the_imports():
    """Guards the guard: an empty list would satisfy every test below."""
    assert any(i.module.startswith("array_api_compat") for i in IMPORTS["fdpg_ref"])
    for package in ("toy", "lm"):
        assert any(i.top == "fdpg_ref" for i in IMPORTS[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_absolute_and_never_of_tests(package):
    assert [i for i in IMPORTS[package] if i.relative] == []
    outside = TEST_MODULES | {"benchmarks", "tools", "notebooks"}
    assert [i for i in IMPORTS[package] if i.top in outside and i.top not in PACKAGES] == []


def test_the_core_imports_nothing_but_array_api_compat():
    allowed = {"fdpg_ref", "array_api_compat", *sys.stdlib_module_names}
    for found in IMPORTS["fdpg_ref"]:
        assert found.top in allowed | ({"jaxtyping"} if found.for_typing else set()), found


def test_toy_and_lm_do_not_know_each_other():
    assert [i for i in IMPORTS["toy"] if i.top == "lm"] == []
    assert [i for i in IMPORTS["lm"] if i.top == "toy"] == []


def test_toy_knows_no_deep_learning_library():
    heavy = {"torch", "transformers", "accelerate", "peft", "safetensors"}
    assert [
        i for i in IMPORTS["toy"] if i.top in heavy and not i.path.startswith(TOY_WITH_TORCH)
    ] == []


def test_the_modules_of_the_core_form_layers():
    """No cycles; numerics knows no divergence, and nothing below the estimators knows them.

    `related`, with the methods of other papers, stands on top: no other module imports it.
    """
    graph: dict[str, set[str]] = {}
    for found in IMPORTS["fdpg_ref"]:
        if found.top == "fdpg_ref" and not found.for_typing:
            source, target = _core_unit(found.path), _core_unit(found.module.replace(".", "/"))
            if source not in ("__init__", target):
                graph.setdefault(source, set()).add(target)
    assert not any("related" in modules for modules in graph.values())
    assert "estimators" in graph["related"]
    assert tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert all(module.startswith("_") for module in graph["numerics"])
    for module in ("divergences", "baselines", "partition", "diagnostics", "targets"):
        assert "estimators" not in graph[module], module
    for module in ("baselines", "partition", "diagnostics", "targets"):
        below = {m for m in graph[module] if not m.startswith("_")}
        assert below <= {"numerics"}, module


def _core_unit(path: str) -> str:
    """Return the package or module of the core that a path lies in; of `_internal`, the file."""
    top, *parts = path.removesuffix(".py").split("/")[1:]
    return "/".join((top, *parts)) if top == "_internal" else top


@pytest.mark.parametrize("package", ORDER)
def test_packages_know_only_those_below_them(package):
    place = {unit: number for number, unit in enumerate(ORDER[package])}
    paths = [*(ROOT / package).glob("*.py"), *(ROOT / package).glob("*/__init__.py")]
    units = {_unit(path.relative_to(ROOT).as_posix()) for path in paths} - {"__init__"}
    assert units == set(place)
    upward = [
        found
        for found in IMPORTS[package]
        if found.top == package
        and (own := _unit(found.path)) != "__init__"
        and (other := _unit(found.module.replace(".", "/"))) != own
        and place[other] > place[own]
    ]
    assert upward == []


def _unit(path: str) -> str:
    """Return the package or the module, directly below the top one, that a path lies in."""
    return path.split("/")[1].removesuffix(".py")


@pytest.mark.parametrize("package", ORDER)
def test_modules_import_one_another_in_no_circle(package):
    graph: dict[str, set[str]] = {}
    for_typing = []
    for found in IMPORTS[package]:
        module = found.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if found.top == package and found.for_typing:
            for_typing.append((module, found.module))
        elif found.top == package:
            graph.setdefault(module, set()).add(found.module)
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError

    # A type checker's imports may close a circle, but few do.
    below: dict[str, set[str]] = {}
    for module in order:
        known = graph.get(module, set())
        below[module] = known.union(*(below[other] for other in known))
    circles = [(one, other) for one, other in for_typing if one in below[other]]
    assert len(circles) <= MOST_CIRCLES_OF_TYPES, circles


@pytest.mark.parametrize("package", [*ORDER, "fdpg_ref"])
def test_a_reader_can_overlook_each_package(package):
    folders = [path.parent for path in (ROOT / package).rglob("__init__.py")]
    sizes = {str(folder.relative_to(ROOT)): len([*folder.glob("*.py")]) for folder in folders}
    assert {folder: size for folder, size in sizes.items() if size > MOST_FILES} == {}


def test_engines_are_asked_for_by_their_own_package_alone():
    """Nothing else imports `lm.engines`, and it names an engine to `extras.engine` only."""
    outside = [i for i in IMPORTS["lm"] if not i.path.startswith("lm/engines/")]
    assert [i for i in outside if i.module.startswith("lm.engines")] == []
    assert [i for i in IMPORTS["lm"] if i.top in ("trl", "verl", "datasets")] == []
    named = [p.name for p in (ROOT / "lm").rglob("*.py") if 'engine("' in p.read_text("utf-8")]
    assert named == ["trl_private.py"]


@pytest.mark.parametrize("path", EMPTY)
def test_what_the_command_line_reads_first_imports_nothing(path):
    assert (ROOT / path).read_text(encoding="utf-8") == ""


USE_THE_CORE = """
import sys
import numpy as np
import fdpg_ref as f

policy, target = np.log([0.2, 0.8]), np.log([0.5, 0.5])
for divergence in f.DIVERGENCES.values():
    signal = f.score_signal(policy, target, divergence=divergence)
    f.score_coefficients(signal, baseline=f.leave_one_out(signal), log_weights=policy - target)
    f.exact_divergence(policy, target, divergence=f.dual(divergence))
    f.estimate_divergence(policy, target, policy, divergence=divergence)
f.update_partition(f.init_partition(policy, target), policy, target)
f.leave_one_out_log_partition(policy, target)
f.fit_multipliers(policy, np.array([[1.0], [0.0]]), np.array([0.3]))
f.effective_sample_size(policy)
"""
IMPORT_TOY = """
import importlib, pathlib, sys
import toy
root = pathlib.Path(toy.__path__[0])
for path in sorted(root.rglob("*.py")):
    name = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
    if not name.startswith(("toy.audit", "toy.museum", "toy.__main__")):
        importlib.import_module(name)
"""
REPORT = """
heavy = {"torch", "transformers", "accelerate", "jax", "lm"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("program", [USE_THE_CORE, IMPORT_TOY], ids=["the core", "toy"])
def test_numpy_users_never_import_torch(program):
    command = [sys.executable, "-c", program + REPORT]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
