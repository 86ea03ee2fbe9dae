"""A divergence is added in one place: the steps of CONTRIBUTING, taken in a copy of the tree.

The tenth is Taneja's arithmetic-geometric divergence in units of its curvature, 4 sum m log(m /
sqrt(pi p)) with the mean m = (pi + p)/2: f(t) = 2 (t + 1) log((t + 1) / (2 sqrt t)). With u = log t
the logarithm is that of cosh(u/2). All commands find it by its name, and print its title.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME, TITLE = "arithmetic_geometric", "arithmetic–geometric"
BASE = {"layers": 1, "width": 16, "heads": 2, "steps": 30, "batch_size": 64}
TRAINING = ["--device", "cpu", "--steps", "2", "--batch_size", "32"]
EVALUATION = ["--evaluation.samples", "64", "--evaluation.group", "32"]


class Addition(NamedTuple):
    """What a contributor writes into a file, and before which text."""

    file: str
    place: str
    text: str


# Step 2 of CONTRIBUTING.
KERNELS = Addition(
    "fdpg_ref/numerics.py",
    "def forward_kl_of_masses(",
    '''def log_cosh(x: Float[Array, "..."]) -> Array:
    """Return log cosh x >= 0: for abs(x) <= 1 as log1p(y^2 / (2 (1 + y))) with y = expm1(abs x)."""
    xp = array_namespace(x)
    a = xp.abs(x)
    near = a <= 1
    y = expm1(xp.where(near, a, xp.zeros_like(a)))
    far = xp.where(near, xp.ones_like(a), a)
    return xp.where(
        near, xp.log1p(y * y / (2 * (1 + y))), far - log(2.0) + xp.log1p(xp.exp(-2 * far))
    )


def arithmetic_geometric_signal(u: Float[Array, "..."]) -> Array:
    """Return 2 log((t + 1) / (2 sqrt t)) + 1 - 1/t."""
    # Further down e^-u has overflowed, and inf - inf would be NaN.
    xp = array_namespace(u)
    return 2 * log_cosh(xp.maximum(u, xp.full_like(u, -1000.0)) / 2) - expm1(-u)


def arithmetic_geometric_density(q: Float[Array, "..."], p: Float[Array, "..."]) -> Array:
    """Return 2 (pi + p) log((pi + p) / (2 sqrt(pi p)))."""
    xp = array_namespace(q, p)
    return 2 * (xp.exp(q) + xp.exp(p)) * log_cosh((q - p) / 2)


''',
)
# Step 3.
RECORD = Addition(
    "fdpg_ref/divergences.py",
    "DIVERGENCES: Mapping",
    f'''ARITHMETIC_GEOMETRIC = build_divergence(
    "{NAME}",  # f(t) = 2 (t + 1) log((t + 1) / (2 sqrt t))
    title="{TITLE}",
    unit="nats",
    signal=numerics.arithmetic_geometric_signal,
    density=numerics.arithmetic_geometric_density,
    value_at_zero=inf,
    slope_at_infinity=inf,
    curvature=1.0,
)

''',
)
LISTED = Addition(
    "fdpg_ref/divergences.py", "            LE_CAM,\n", "            ARITHMETIC_GEOMETRIC,\n"
)
# Step 4.
GENERATOR = Addition(
    "toy/oracle.py",
    '        "le_cam": lambda',
    f'        "{NAME}": lambda t: 2 * (t + 1) * np.log((t + 1) / (2 * np.sqrt(t))),\n',
)
SLOPE = Addition("toy/oracle.py", '        "le_cam": 1.0,', f'        "{NAME}": np.inf,\n')
# Step 5: the judges of the tests.
JUDGES = (
    Addition(
        "tests/support/oracles.py",
        '    "le_cam": Textbook(',
        f"""    "{NAME}": Textbook(
        lambda t: 2 * (t + 1) * mpmath.log((t + 1) / (2 * mpmath.sqrt(t))),
        0, 1.0, INFINITY, INFINITY, "{NAME}",
    ),
""",
    ),
    Addition(
        "tests/support/toy_slow.py",
        '    "le_cam": lambda',
        f'    "{NAME}": lambda t: 2 * math.log((t + 1) / (2 * math.sqrt(t))) + 1 - 1 / t,\n',
    ),
    Addition(
        "benchmarks/accuracy.py",
        '    "le_cam": (lambda',
        f"""    "{NAME}": (
        lambda x: 2 * (x.t + 1) * (x.mixture - x.u / 2),
        lambda x: 2 * (x.mixture - x.u / 2) + 1 - 1 / x.t,
    ),
""",
    ),
)
SWEEP = f"""
name: tenth
output: cells
table: tenth.parquet
workers: 1
run: {{steps: 2, batch_size: 32, evaluation: {{every: 2, samples: 64, group: 32}}}}
sizes: {{1x16: {{layers: 1, width: 16, heads: 2, steps: 30, batch_size: 64}}}}
tasks: {{listed: {{title: listed names, group: soft, target: {{moments: {{listed: 0.2}}}}}}}}
methods: {{{NAME}: {{divergence: {NAME}}}}}
rates: {{only: {{value: 1.0e-3}}}}
blocks: [{{tasks: [listed], methods: [{NAME}], sizes: [1x16], rates: [only], seeds: [0]}}]
"""
LOSS = f'''
from fdpg_ref import DIVERGENCES

def penalty(log_policy, log_reference):
    return DIVERGENCES["{NAME}"].signal(log_policy - log_reference)
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tree in which the steps of CONTRIBUTING were taken."""
    copy = tmp_path_factory.mktemp("tenth") / "project"
    for part in ("fdpg_ref", "toy", "lm", "tests", "benchmarks"):
        _ = shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    _ = shutil.copy(ROOT / "pyproject.toml", copy)
    for addition in (KERNELS, RECORD, LISTED, GENERATOR, SLOPE, *JUDGES):
        path = copy / addition.file
        source = path.read_text(encoding="utf-8")
        assert source.count(addition.place) == 1, addition
        changed = source.replace(addition.place, addition.text + addition.place)
        _ = path.write_text(changed, encoding="utf-8")
    return copy


def run(tree: Path, *words: str) -> str:
    """Return what a command prints in the copy; it must succeed."""
    environment = os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_toy_verify_judges_the_tenth(tree: Path):
    _ = run(tree, "toy", "verify", "--json", "verify.json")
    records = json.loads((tree / "verify.json").read_text(encoding="utf-8"))
    mine = [record for record in records if record["divergence"] == NAME]
    others = [record for record in records if record["divergence"] == "jeffreys"]
    assert len(mine) == len(others)
    assert all(record["holds"] for record in records)


@pytest.mark.slow
def test_toy_audit_recognises_the_tenth(tree: Path):
    _ = (tree / "mine.py").write_text(LOSS, encoding="utf-8")
    printed = run(tree, "toy", "audit", "mine.py:penalty", "--placement", "reward")
    assert f"descends {TITLE}" in printed


def test_toy_train_descends_the_tenth(tree: Path):
    words = ["--divergence", NAME, "--steps", "3", "--output", "picture.png"]
    printed = run(tree, "toy", "train", *words)
    assert "arithmetic–" in printed
    assert (tree / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_tests_hold_the_tenth_to_the_contract(tree: Path):
    files = ["core/test_divergences.py", "toy/test_theorem.py", "toy/test_penalties.py"]
    paths = [f"tests/{file}" for file in (*files, "toy/test_control.py")]
    printed = run(tree, "pytest", "-q", "-p", "no:cacheprovider", *paths, "-k", NAME)
    assert " passed" in printed


@pytest.mark.slow
def test_the_accuracy_of_the_tenth_is_measured(tree: Path):
    assert NAME in run(tree, "benchmarks.accuracy")


@pytest.mark.slow
def test_lm_trains_reports_and_sweeps_the_tenth(tree: Path):
    """One cell of a sweep, and then a run of its own on the model that the sweep made."""
    _ = (tree / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    _ = run(tree, "lm", "sweep", "sweep.yaml")
    table = pq.read_table(tree / "tenth.parquet").to_pandas()
    assert set(table["method"]) == {NAME}
    assert NAME in set(table["quantity"])

    words = [f"--base.{key}={value}" for key, value in BASE.items()]
    words += ["--divergence", NAME, "--target.moments", "{listed: 0.2}"]
    _ = run(tree, "lm", "train", *words, *TRAINING, *EVALUATION, "--output", "run")
    page = (tree / "run" / "report.html").read_text(encoding="utf-8")
    assert TITLE in page
