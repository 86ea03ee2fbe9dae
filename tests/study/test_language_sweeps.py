"""The sweeps of language are what docs/hypotheses-language.md says of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lm.code_models.functions import is_held_out
from lm.config.options import build_config
from lm.config.recipes import read_yaml
from lm.sweep.cells import Cell, expand
from lm.sweep.config import SweepConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "hypotheses-language.md").read_text("utf-8")
SIGNATURES = (ROOT / "study" / "sweeps" / "signatures.txt").read_text("utf-8").splitlines()


@pytest.fixture
def cells(monkeypatch):
    """Expand a sweep, whether or not the packages of its features are installed."""
    monkeypatch.chdir(ROOT)
    for module in ("formats", "sentiment"):
        monkeypatch.setattr(f"lm.features.{module}.require_library", lambda *_words: None)

    def of(name: str) -> list[Cell]:
        text = (ROOT / "study" / "sweeps" / f"{name}.yaml").read_text("utf-8")
        return expand(build_config(SweepConfig, read_yaml(text)))

    return of


def test_code_has_three_bases_and_a_seed_for_each(cells):
    some = cells("language_code")
    assert f"`study/sweeps/language_code.yaml` | {len(some)} |" in TEXT
    for cell in some:
        seed = cell.labels.seed
        suffix = f"-seed{seed}" if seed else ""
        assert cell.config.model == f"code-{cell.labels.size[:-2]}{suffix}"
        assert cell.labels.size.endswith(f"b{seed}")
        assert cell.bases == ()
    places = Counter((c.labels.task, c.labels.method, c.labels.size[:-2]) for c in some)
    # Three rates and three seeds of each.
    assert set(places.values()) == {9}
    assert {task for task, _, size in places if size == "4x128"} == {"compiles", "docstring"}
    assert {task for task, method, _ in places if method == "reverse_kl"} == {"docstring"}


def test_smollm2_has_two_seeds_of_everything(cells):
    some = cells("language_smollm2")
    assert f"`study/sweeps/language_smollm2.yaml` | {len(some)} |" in TEXT
    assert {cell.config.model for cell in some} == {"smollm2"}
    assert all(cell.config.lora.rank == 8 and cell.bases == () for cell in some)
    assert set(Counter((c.labels.task, c.labels.method) for c in some).values()) == {2}


def test_held_out_signatures_were_learnt_by_no_model():
    assert len(SIGNATURES) == len(set(SIGNATURES)) == 80
    assert all(map(is_held_out, SIGNATURES[-32:]))
    assert not any(map(is_held_out, SIGNATURES[:-32]))
