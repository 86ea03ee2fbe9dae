"""The sweeps of the second edition are what docs/hypotheses.md says: counts, seeds and bases."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from lm.config.options import build_config
from lm.sweep.cells import Cell, expand
from lm.sweep.config import SweepConfig
from study.names import FIVE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BASES = {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 2, 7: 2, 201: 0, 202: 1}
GROUPS = ("rare_soft", "rare_hard", "distributional", "rlhf", "teacher")
SIZES = tuple(f"{size}b{base}" for size in ("1x32", "2x64", "4x128") for base in range(3))


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> dict[str, list[Cell]]:
    """The cells of each sweep; chosen rates differ by objective and by file."""
    folder = tmp_path_factory.mktemp("rates")
    found = {}
    for name in ("pilot2", "main2", "scale2", "ablations2"):
        plain = _plain(name)
        for rate in plain["rates"].values():
            if "file" in rate:
                rate["file"] = str(_made_up_rates(folder, Path(rate["file"]).name))
        found[name] = expand(build_config(SweepConfig, plain))
    return found


def test_the_runs_are_as_many_as_the_text_says(cells):
    text = (ROOT / "docs" / "hypotheses.md").read_text("utf-8")
    runs = {name: {cell.run for cell in some} for name, some in cells.items()}
    assert f"`study/sweeps/pilot2.yaml` | {len(runs['pilot2'])} |" in text
    assert f"`study/sweeps/main2.yaml` | at most {len(runs['main2']):,} |" in text
    shared = runs["scale2"] & runs["main2"]
    assert f"`study/sweeps/scale2.yaml` | {len(runs['scale2'] - shared)}, and {len(shared)}" in text
    new = runs["ablations2"] - runs["main2"]
    assert f"`study/sweeps/ablations2.yaml` | {len(new)}, and those of main2 |" in text


def test_every_seed_starts_from_its_base(cells):
    for name, some in cells.items():
        for cell in some:
            assert cell.bases[0].seed == BASES[cell.labels.seed]
            assert cell.labels.size.endswith(f"b{cell.bases[0].seed}")
            assert (cell.labels.seed > 200) == (name == "pilot2")


def test_main_has_eight_seeds_of_everything(cells):
    runs = Counter(
        (place.task, place.method, place.rate, place.variant)
        for place in (cell.labels for cell in cells["main2"])
    )
    assert set(runs.values()) == {8}
    rare = [f"{kind}_{key}" for kind in ("soft", "hard") for key in "iyu"]
    for task in rare:
        for variant, rate in (("batch_64", "tuned_64"), ("batch_1024", "tuned_1024")):
            assert (task, "jensen_shannon", rate, variant) in runs
            assert (task, "forward_kl", rate, variant) in runs
    tuned = {task: {m for t, m, rate, _ in runs if (t, rate) == (task, "tuned")} for task in rare}
    assert all(
        tuned[task] == set(FIVE) - ({"reverse_kl"} if task[0] == "h" else set()) for task in rare
    )


def test_a_part_needs_the_rates_of_its_batch_size_alone():
    """So it begins as soon as the part of the pilot that chooses them is through."""
    file_of = {
        "batch_256": {"tuned"},
        "common": {"common"},
        "batch_64": {"tuned_64"},
        "batch_1024": {"tuned_1024"},
    }
    parts: dict[str, set[str]] = {}
    for block in _plain("main2")["blocks"]:
        parts.setdefault(block["part"], set()).update(block["rates"])
    assert parts == file_of
    assert {block["part"] for block in _plain("pilot2")["blocks"]} == {
        *("batch_256", "batch_64", "batch_1024", "sizes")
    }


def test_variants_change_what_they_are_called_by(cells):
    sizes = {"batch_64": 64, "batch_1024": 1024}
    for cell in (*cells["main2"], *cells["pilot2"]):
        variant = cell.labels.variant
        assert cell.config.batch_size == sizes.get(variant, 256)
        assert cell.config.optimizer.betas[1] == (0.999 if variant == "beta2_0.999" else 0.95)
    long = {cell.labels.task for cell in cells["main2"] if cell.config.steps == 400}
    assert long == {"soft_y", "soft_u", "hard_y", "hard_u"}


def test_the_pilot_has_two_seeds_and_grids_with_an_inside(cells):
    seeds, grids = {}, {}
    for cell in cells["pilot2"]:
        place = cell.labels
        key = place.task, place.method, place.size[:-2], place.variant
        seeds.setdefault((*key, place.rate), set()).add(place.seed)
        grids.setdefault(key, set()).add(cell.config.optimizer.lr)
    assert all(found == {201, 202} for found in seeds.values())
    assert all(len(grid) >= 3 for grid in grids.values())


def _plain(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "study" / "sweeps" / f"{name}.yaml").read_text("utf-8"))


def _made_up_rates(folder: Path, name: str) -> Path:
    shift = {"rates2.yaml": 1.0, "rates2_64.yaml": 2.0, "rates2_1024.yaml": 3.0}[name]
    rates = {
        method: dict.fromkeys(SIZES, 1e-4 * shift * (1 + place))
        for place, method in enumerate(FIVE)
    }
    path = folder / name
    _ = path.write_text(yaml.safe_dump(dict.fromkeys(GROUPS, rates)), encoding="utf-8")
    return path
