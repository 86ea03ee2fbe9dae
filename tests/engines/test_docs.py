"""docs/engines.md says what is so: its blocks run, in one folder and in their order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL is an extra: make engines")

from support import trl_runs as runs

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_blocks_run(tmp_path, monkeypatch):
    _ = runs.save_model(tmp_path / "my-model", "llama")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "engines"}
    for block in BLOCKS:
        exec(compile(block, "docs/engines.md", "exec"), names)
    assert names["trainer"].state.global_step == 3
    assert len(BLOCKS) == 2
