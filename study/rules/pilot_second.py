"""Rates and beta2 of the second edition: ``python -m study rates``, from lm_pilot2.parquet.

As `study.rules.rates` for each batch size by itself. A rate at an edge of its grid is refused: the
grid is to be extended there, before any run that is to confirm something.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from fdpg_ref.display import number
from study.names import DEFAULT
from study.rules.rates import (
    Choice,
    choose,
    failed_rates,
    nested_rates,
    rates_markdown,
    rates_yaml,
    tried_rates,
)
from study.tables.cubes import Runs, runs_of
from study.tables.stored import StudyError, Table

# The variants of the pilot, and the files of their rates.
FILES = {
    DEFAULT: "rates2.yaml",
    "batch_64": "rates2_64.yaml",
    "batch_1024": "rates2_1024.yaml",
}
OTHER_BETA2 = "beta2_0.999"
BETA2 = {DEFAULT: 0.95, OTHER_BETA2: 0.999}
BASES = (0, 1, 2)
SEEDS = 2


def write_second_rates(
    pilot: Table, folder: Path, markdown_path: Path
) -> tuple[int, float, list[Path]]:
    """Choose the rates of every batch size, and write them for the sweeps and for readers.

    Parameters
    ----------
    pilot
        The pilot's table.
    folder
        Of the YAML files, one for each batch size.
    markdown_path
        Where all rates tried are shown, at an edge or not.

    Returns
    -------
    int, float, list of Path
        How many rates were chosen, the better beta2, and the files of the batch sizes that were
        tried.

    Raises
    ------
    StudyError
        A chosen rate lies at an edge of its grid, or has fewer than two seeds: no YAML is written.
    """
    runs = runs_of(pilot)
    choices, pages = {}, []
    # Parts of the pilot may be run one after the other: what was not tried has no rate yet.
    for variant in FILES:
        tried = tried_rates(runs.ends, failed_rates(pilot, runs.ends, variant), variant)
        if not tried:
            continue
        choices[variant] = choose(tried)
        page = rates_markdown(pilot, tried, choices[variant])
        pages.append(page.replace("# Learning rates", f"# {variant}: learning rates", 1))
    beta2, words = better_beta2(runs)
    markdown_path.write_text("\n".join([*pages, f"\n{words}\n"]), encoding="utf-8")

    _require_inside(choices, runs)
    written = []
    for variant, chosen in choices.items():
        text = rates_yaml(pilot, chosen)
        header = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("#"))
        rates = with_bases(nested_rates(chosen))
        written.append(folder / FILES[variant])
        written[-1].write_text(header + yaml.safe_dump(rates, sort_keys=False), "utf-8")
    return sum(map(len, choices.values())), beta2, written


def better_beta2(runs: Runs) -> tuple[float, str]:
    """Return the beta2 with the lower own measures, each objective at its best rate, and why.

    Parameters
    ----------
    runs
        The pilot's: both values on the same tasks, sizes and seeds count.

    Returns
    -------
    float, str
        One for all objectives, by the geometric mean over kinds of task and objectives.
    """
    ends = runs.ends
    other = ends[ends["variant"] == OTHER_BETA2]
    if other.empty:
        raise StudyError(f"the pilot has no run of the variant {OTHER_BETA2}")
    both = ends["task"].isin(other["task"]) & ends["size"].isin(other["size"])
    best = {
        variant: {
            one.best[:3]: one.best.score for one in choose(tried_rates(ends[both], (), variant))
        }
        for variant in BETA2
    }
    ratios = [np.log(best[OTHER_BETA2][key] / best[DEFAULT][key]) for key in best[OTHER_BETA2]]
    ratio = float(np.exp(np.mean(ratios)))
    beta2 = BETA2[OTHER_BETA2 if ratio < 1.0 else DEFAULT]
    return beta2, (
        f"Own measures with beta2 = {BETA2[OTHER_BETA2]} over those with {BETA2[DEFAULT]}, each "
        f"objective at its best rate, geometric mean over {len(ratios)}: {number(ratio)}. "
        f"Taken for everybody: {beta2}."
    )


def with_bases(
    rates: dict[str, dict[str, dict[str, float]]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the rates of a size for each of its bases: a sweep calls them 2x64b0, 2x64b1, ..."""
    return {
        group: {
            method: {f"{size}b{base}": rate for size, rate in sizes.items() for base in BASES}
            for method, sizes in methods.items()
        }
        for group, methods in rates.items()
    }


def _require_inside(choices: dict[str, list[Choice]], runs: Runs) -> None:
    faults: Sequence[str] = [
        f"{variant} {one.best.group} {one.best.method} {one.best.size} at {one.best.rate:g}"
        for variant, some in choices.items()
        for one in some
        if one.at_edge
    ]
    if faults:
        raise StudyError(
            f"{len(faults)} chosen rates lie at an edge of what was tried: {'; '.join(faults)}. "
            "Add a rate beyond each to study/sweeps/pilot2.yaml and run it again"
        )
    ends = runs.ends
    keys = ["variant", "task", "method", "size", "rate"]
    seeds = ends.groupby(keys)["seed"].nunique()
    if (seeds < SEEDS).any():
        place = " ".join(map(str, seeds.idxmin()))
        raise StudyError(f"the pilot has fewer than {SEEDS} seeds of {place}: run it to its end")
