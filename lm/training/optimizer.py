"""Adam and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lm.config import OptimizerConfig


def build_optimizer(
    config: OptimizerConfig, parameters: Sequence[torch.nn.Parameter], steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return Adam and its schedule: a linear warm-up, then constant, linear or cosine to zero."""
    optimizer = torch.optim.Adam(
        parameters, lr=config.lr, betas=config.betas, eps=config.eps, fused=True
    )

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        done = max(0, step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        decay = {
            "constant": 1.0,
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        }
        return warm * decay[config.schedule]

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
