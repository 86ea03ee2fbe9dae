"""FDPGTrainer on two gloo processes: groups on one of them, or spread over both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="TRL is an extra: make engines")

from support import trl_runs as runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_two_processes_find_the_exact_gradient(tmp_path: Path, family: str):
    _ = runs.save_model(tmp_path / "model", family)
    script = ROOT / "tests" / "support" / "trl_two_processes.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    found = subprocess.run(
        [*launch, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    errors = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert errors.pop("processes") == 2
    assert set(errors) == {"a group each", "a group on both", "micro-batches"}
    # The bounds of one process: float32 log-probabilities; sums of two halves round no worse.
    assert max(errors.values()) < (2e-6 if family == "llama" else 5e-6), errors
