"""Sweeps on tiny models, which take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm.config.options import build_config
from lm.sweep.cells import merged
from lm.sweep.config import SweepConfig


def plain_sweep(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return a sweep of two methods and two seeds on tiny models, which takes seconds."""
    sweep = {
        "name": "tiny",
        "output": str(folder / "cells"),
        "table": str(folder / "tiny.parquet"),
        "workers": 1,
        "run": {
            "steps": 3, "batch_size": 16,
            "evaluation": {"every": 2, "samples": 64, "group": 32, "texts": 4},
        },
        "sizes": {"1x16": {"layers": 1, "width": 16, "heads": 2, "steps": 30, "batch_size": 64}},
        "tasks": {
            "listed": {
                "title": "listed names", "group": "soft",
                "target": {"moments": {"listed": 0.2}}, "reward": {"listed": 1.0}, "beta": 0.5,
            }
        },
        "methods": {
            "forward_kl": {"divergence": "forward_kl"},
            "jensen_shannon": {"divergence": "jensen_shannon"},
            "rl_kl": {"divergence": "reverse_kl", "descends": "penalised_reward"},
            "reward": {"divergence": "reverse_kl", "descends": "reward"},
        },
        "rates": {"fast": {"value": 1e-3}, "slow": {"value": 1e-4}},
        "blocks": [
            {
                "tasks": ["listed"], "methods": ["forward_kl", "jensen_shannon"],
                "sizes": ["1x16"], "rates": ["fast"], "seeds": [0, 1],
            }
        ],
    }  # fmt: skip
    return merged(sweep, changes)


def tiny_sweep(folder: Path, **changes: Any) -> SweepConfig:
    return build_config(SweepConfig, plain_sweep(folder, **changes))


def tiny_block(**changes: Any) -> dict[str, Any]:
    block = {"tasks": ["listed"], "methods": ["forward_kl"], "sizes": ["1x16"], "rates": ["fast"]}
    return {**block, "seeds": [0], **changes}
