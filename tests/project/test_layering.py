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
# Users' losses are torch functions, so the tools that look at them may import torch.
TOY_WITH_TORCH = ("toy/audit/", "toy/museum/")


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
                modules = [node.module or ""]
                if node.module in PACKAGES:  # `from fdpg_ref import numerics` may name a module
                    modules = [f"{node.module}.{alias.name}" for alias in node.names]
                found += [
                    Import(where, node.lineno, module, typing_only, relative=node.level > 0)
                    for module in modules
                ]
    return found


IMPORTS = {package: imports_of(package) for package in PACKAGES}


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
        source, target = Path(found.path).parts[1], found.module.split(".")[1:]
        inside = found.top == "fdpg_ref" and source != "__init__.py" and not found.for_typing
        if inside and source.removesuffix(".py") != target[0]:
            graph.setdefault(source.removesuffix(".py"), set()).add(target[0])
    assert not any("related" in modules for modules in graph.values())
    assert "estimators" in graph["related"]
    assert tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert all(module.startswith("_") for module in graph["numerics"])
    for module in ("divergences", "baselines", "partition", "diagnostics", "targets"):
        assert "estimators" not in graph[module], module
    for module in ("baselines", "partition", "diagnostics", "targets"):
        below = {m for m in graph[module] if not m.startswith("_")}
        assert below <= {"numerics"}, module


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
