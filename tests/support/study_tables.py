"""Stored tables made up for tests of the study: every column, effects put in on purpose."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from study.names import ALPHAS, FIVE, MEASURES
from study.tables.stored import METADATA_KEYS

STEPS = (0, 20, 40, 60, 80, 100)
BATCH = 256
TASKS = {
    "ends_in_i": ("rare_soft", "Soft: ends in i", 0.95),
    "contains_x": ("rare_soft", "Soft: contains x", 0.95),
    "only_i": ("rare_hard", "Hard: ends in i", 1.0),
    "female": ("distributional", "Half are female", 0.5),
    "reward": ("rlhf", "Reward for length", 0.6),
    "teacher": ("teacher", "A teacher", 0.3),
}
# Log of the measure at the end less that of the base: what tests of orders rely on.
DROPS = {
    "forward_kl": -1.5,
    "reverse_kl": -1.7,
    "total_variation": -1.0,
    "jensen_shannon": -2.0,
    "alpha_0.25": -1.6,
    "alpha_0.5": -1.9,
    "alpha_0.75": -1.8,
    "rl_kl": -1.65,
    "reward": -0.2,
}


class Run(NamedTuple):
    """What distinguishes one run from another."""

    task: str
    method: str
    seed: int
    size: str = "2x64"
    rate: str = "tuned"
    variant: str = "default"
    learning_rate: float = 3e-4


def lm_rows(runs: Iterable[Run], drops: Mapping[str, float] = DROPS) -> pd.DataFrame:
    """Return a long table of runs whose measures fall along a straight line of logarithms."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        rows += _rows_of(run, drops)
    return pd.DataFrame(rows)


def main_runs(
    tasks: Sequence[str] = tuple(TASKS),
    methods: Sequence[str] = (*FIVE, "rl_kl", "reward"),
    seeds: Sequence[int] = (1, 2, 3),
    **options: Any,
) -> list[Run]:
    """Return the runs of a main study, without what a hard target refuses."""
    return [
        Run(task, method, seed, **options)
        for task in tasks
        for method in methods
        for seed in seeds
        if not (TASKS[task][0] == "rare_hard" and method in ("reverse_kl", "rl_kl"))
    ]


def write_lm(path: Path, frame: pd.DataFrame, **metadata: Any) -> None:
    """Write a long table as `python -m lm sweep` does."""
    tasks = {
        name: {
            "title": title,
            "group": group,
            "target_moments": {f"{name} feature": moment},
        }
        for name, (group, title, moment) in TASKS.items()
    }
    write(path, frame, {"tasks": tasks, "sweep": path.stem, **PROVENANCE, **metadata})


def write(path: Path, frame: pd.DataFrame, metadata: Mapping[str, Any]) -> None:
    """Write a frame as Parquet with metadata in its schema."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    known = table.schema.metadata or {}
    table = table.replace_schema_metadata(
        {**known, METADATA_KEYS[0]: json.dumps(metadata).encode()}
    )
    pq.write_table(table, path)


PROVENANCE = {
    "command": "python -m lm sweep made_up.yaml",
    "commits": ["0123456789abcdef"],
    "versions": {"python": "3.11", "torch": "2.7"},
    "wall_seconds": 100.0,
    "cpu_seconds": 180.0,
    "started": "2024-01-01T00:00:00",
    "cells": 10,
}


def toy_rows(problems: int = 40, objectives: Sequence[str] = FIVE) -> pd.DataFrame:
    """Return a wide table in which less noise leaves less regret, and JS is best."""
    generator = np.random.default_rng(5)
    rows = []
    kinds = ("soft_rare", "hard_rare", "distributional", "reward")
    for problem in range(problems):
        hardness = generator.normal()
        noise = {name: generator.normal() for name in objectives}
        for name in objectives:
            for phase, rate in (
                ("optimum", "tuned"),
                ("exact", "tuned"),
                ("sampled", "tuned"),
                ("sampled", "common"),
            ):
                shift = {"optimum": -4.0, "exact": -2.0, "sampled": 0.0}[phase]
                log_measure = hardness + DROPS[name] + shift + 0.3 * noise[name]
                row = dict.fromkeys(MEASURES, float(np.exp(log_measure)))
                if kinds[problem % 4] == "hard_rare":
                    row["reverse_kl"] = np.inf
                alignment = 0.9 - 0.02 * log_measure
                rows.append(
                    {
                        "problem": problem,
                        "world": "categorical",
                        "inside": problem % 8 < 4,
                        "kind": kinds[problem % 4],
                        "base_rate": 0.005,
                        "outcomes": 12,
                        "parameters": 6,
                        "objective": name,
                        "phase": phase,
                        "rate": rate,
                        "converged": True,
                        **row,
                        "own": row["forward_kl"],
                        "alignment": alignment,
                        "alignment_target": 0.95,
                        "entropy": 2.0 - 4.0 * alignment + (0.5 if name == "forward_kl" else 0.0),
                        "entropy_target": 1.0,
                        "kl_policy_base": 2.0,
                        "snr_start": float(np.exp(-log_measure)),
                        "snr_path": float(np.exp(-log_measure)),
                        "gradient_norm_start": 0.3,
                        "min_entropy": 0.5,
                    }
                )
    return pd.DataFrame(rows)


def write_all(folder: Path, *, tasks: Sequence[str], seeds: Sequence[int] = (1, 2, 3)) -> None:
    """Write a full set of tables: every sweep, the toy and the unification."""
    folder.mkdir(parents=True, exist_ok=True)
    rates = (1e-4, 3e-4, 1e-3)
    pilot = [
        run
        for rate in rates
        for run in main_runs(
            tasks, methods=FIVE, seeds=(101, 102), rate=f"lr={rate:g}", learning_rate=rate
        )
    ]
    common = main_runs(tasks, seeds=seeds, rate="common", learning_rate=1e-4)
    write_lm(folder / "lm_pilot.parquet", lm_rows(pilot))
    write_lm(folder / "lm_main.parquet", lm_rows(main_runs(tasks, seeds=seeds) + common))
    scale = [
        run
        for size in ("1x32", "4x128")
        for run in main_runs(("ends_in_i",), FIVE, seeds, size=size)
    ]
    write_lm(folder / "lm_scale.parquet", lm_rows(scale))
    variants = [
        Run("ends_in_i", "forward_kl", seed, variant=variant)
        for variant in ("batch_1024", "batch_64")
        for seed in seeds
    ]
    variants += [
        Run("ends_in_i", method, seed, variant="no_baseline") for method in FIVE for seed in seeds
    ]
    variants += [
        Run("ends_in_i", method, seed, variant=variant)
        for method in ("jensen_shannon", "total_variation")
        for variant in ("frozen_z", "leave_one_out_z")
        for seed in seeds
    ]
    variants += [
        Run("ends_in_i", method, seed, rate="tuned" if method in FIVE else "middle")
        for method in ALPHAS
        for seed in seeds
    ]
    write_lm(folder / "lm_ablations.parquet", lm_rows(variants))
    write(folder / "toy_study.parquet", toy_rows(), {**PROVENANCE, "sweep": "toy"})
    unification = {
        "float32": {"rl_kl": 2e-7, "dpg": 3e-7},
        "float64": {"rl_kl": 1e-15, "dpg": 2e-15},
        "command": "python -m lm unification",
        "commit": "0123456789abcdef",
    }
    _ = (folder / "unification.json").write_text(json.dumps(unification), encoding="utf-8")


# The second edition: eight seeds over three bases, and what the policy's side makes of JS.
BASES = {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 2, 7: 2}
POLICY_SIDE_BIAS = -1.5


def write_second(folder: Path, *, tasks: Sequence[str] = tuple(TASKS)) -> None:
    """Write the tables of the second edition: three bases, batch sizes, and both sides."""
    folder.mkdir(parents=True, exist_ok=True)

    def spread(size: str = "2x64", seeds: Iterable[int] = BASES, **options: Any) -> list[Run]:
        options = {"tasks": tasks, "methods": FIVE, **options}
        return [
            run
            for seed in seeds
            for run in main_runs(seeds=(seed,), size=f"{size}b{BASES[seed]}", **options)
        ]

    rare = [task for task in tasks if TASKS[task][0].startswith("rare")]
    main = spread() + spread(rate="common", learning_rate=1e-4)
    for batch in (64, 1024):
        main += spread(tasks=rare, rate=f"tuned_{batch}", variant=f"batch_{batch}")
    write_lm(folder / "lm_main2.parquet", lm_rows(main))

    seeds = (0, 1, 3, 4, 6, 7)
    sizes = [run for size in ("1x32", "2x64", "4x128") for run in spread(size, seeds)]
    write_lm(folder / "lm_scale2.parquet", lm_rows(sizes))

    soft = [task for task in tasks if TASKS[task][0] == "rare_soft"]
    ablations = spread(tasks=soft) + spread(tasks=soft, variant="no_baseline")
    ablations += spread(tasks=soft, methods=("alpha_0.25", "alpha_0.75"), rate="middle")
    write_lm(folder / "lm_ablations2.parquet", lm_rows(ablations))


def _rows_of(run: Run, drops: Mapping[str, float]) -> list[dict[str, Any]]:
    group, _, moment = TASKS[run.task]
    hard = group == "rare_hard"
    divergence = {"rl_kl": "reverse_kl", "reward": "none"}.get(run.method, run.method)
    # Drawn by task and seed, so that what two objectives share cancels in their difference.
    shared = np.random.default_rng([run.seed, *run.task.encode()]).normal(0.0, 0.3)
    own = np.random.default_rng([run.seed, *run.method.encode(), *run.size.encode()])
    noise = own.normal(0.0, 0.03)
    rate = -0.1 * abs(np.log(run.learning_rate / 3e-4))
    variant = {"no_baseline": 0.3, "batch_1024": -0.1}.get(run.variant, 0.0)
    if run.variant == "no_baseline" and run.method == "reverse_kl":
        variant = 0.6
    alpha = ALPHAS.get(run.method, 0.4)
    fixed = {
        "sweep": "made up",
        "cell": f"{run.task}-{run.method}-{run.size}-{run.rate}-{run.variant}-{run.seed}",
        "run": f"{run.task}-{run.method}-{run.size}-{run.learning_rate}-{run.variant}-{run.seed}",
        "divergence": divergence,
        "group": group,
        "commit": "0123456789abcdef",
        **run._asdict(),
    }
    rows = [
        {
            **fixed,
            "step": 0,
            "samples": 0,
            "quantity": f"feature/{run.task} feature",
            "estimator": "target",
            "value": moment,
            "standard_error": np.nan,
            "z": np.nan,
        }
    ]
    for step in STEPS:
        part = step / STEPS[-1]
        change = part * (drops[run.method] - rate + variant + noise + shared)
        aligned = moment * (0.05 + part * (0.8 + 0.1 * alpha + noise))
        entropy = 7.0 - part * (3.0 + 1.0 * alpha + 2 * noise)
        if group == "teacher":
            entropy = 3.0 + (part - 0.5) ** 2 * 4.0 - 0.6
        values: dict[tuple[str, str], tuple[float, float, float]] = {}
        for place, measure in enumerate(MEASURES):
            value = float(np.exp(1.0 - 0.5 * place + change))
            exact = (value, 0.0, np.nan)
            values[measure, "list_and_remainder"] = (value, 0.01, np.nan)
            if hard:
                exact = (np.inf if measure == "reverse_kl" else value, 0.0, np.nan)
                values[measure, "exact"] = exact
            values[measure, "sampled"] = (value * 1.01, 0.02, own.normal())
        if divergence.startswith("alpha_"):
            values[divergence, "exact"] = (float(np.exp(change)), 0.0, np.nan)
        feature = f"feature/{run.task} feature"
        values |= {
            (feature, "exact"): (aligned, 0.0, np.nan),
            (feature, "sampled"): (aligned + 0.01, 0.01, own.normal()),
            ("kl_policy_base", "list_and_remainder"): (part * (2.0 + alpha), 0.01, np.nan),
            ("kl_target_base", "exact"): (3.0, 0.0, np.nan),
            ("entropy", "rao_blackwell"): (entropy, 0.01, np.nan),
            ("entropy", "sampled"): (entropy + 0.1, 0.05, 0.3),
            ("entropy_target", "exact"): (3.0, 0.0, np.nan),
            ("distinct_share", "sampled"): (0.9 - 0.3 * part * alpha, 0.01, np.nan),
            ("self_bleu", "sampled"): (0.4 + 0.2 * part * alpha, 0.01, np.nan),
            ("coverage/1", "exact"): (aligned / 187.0, 0.0, np.nan),
            ("coverage/16", "exact"): (aligned * 16 / 187.0, 0.0, np.nan),
            ("coverage/256", "exact"): (0.6 - 0.2 * alpha * part, 0.0, np.nan),
        }
        if "b" in run.size:
            # The second edition's: from samples of p, and of the policy alone.
            bias = POLICY_SIDE_BIAS * part * (run.method == "jensen_shannon")
            for measure in MEASURES:
                value = values[measure, "list_and_remainder"][0]
                values[measure, "target_samples"] = (value * 1.01, 0.02, own.normal())
                values[measure, "policy_samples"] = (value * float(np.exp(bias)), 0.02, np.nan)
        if step:
            values |= {
                ("gradient_norm", "record"): (0.4 + alpha, np.nan, np.nan),
                ("gradient_norm_above_1", "record"): (0.1, np.nan, np.nan),
                ("clipped", "record"): (0.0, np.nan, np.nan),
                ("gradient_signal_to_noise", "record"): (0.8 - 0.3 * alpha, np.nan, np.nan),
            }
        rows += [
            {
                **fixed,
                "step": step,
                "samples": step * BATCH,
                "quantity": quantity,
                "estimator": estimator,
                "value": value,
                "standard_error": error,
                "z": z,
            }
            for (quantity, estimator), (value, error, z) in values.items()
        ]
    return rows
