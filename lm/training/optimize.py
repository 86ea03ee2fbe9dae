"""What a step leans on beside the gradient: Adam with its schedule, and baselines of the past."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fdpg_ref import RunningBaseline, init_running_baseline, update_running_baseline
from lm.config.run import BaselineConfig, OptimizerConfig


class PastBaseline:
    """A baseline that knows nothing of the batch it is used on: running, constant or none."""

    def __init__(self, config: BaselineConfig) -> None:
        self.config = config
        self._state: RunningBaseline | None = None

    @property
    def value(self) -> float:
        """The number to subtract: the mean of past batches' signals, the constant, or 0."""
        return self.config.value if self._state is None else float(self._state.mean)

    def observe(self, signal: Tensor) -> None:
        """Learn from a batch, of any shape, after it was used.

        Contexts share the mean: a step's prompts are others than the last one's.
        """
        if self.config.kind != "running":
            return
        # On the CPU, where the mean of a checkpoint is as well.
        signal = signal.detach().flatten().cpu()
        self._state = (
            init_running_baseline(signal)
            if self._state is None
            else update_running_baseline(self._state, signal, forgetting=self.config.forgetting)
        )

    def state_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs: mean and weight, or nothing before the first batch."""
        if self._state is None:
            return {}
        weight = torch.tensor(self._state.weight, dtype=torch.float64)
        return {"mean": self._state.mean, "weight": weight}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state_tensors` returned."""
        self._state = (
            RunningBaseline(tensors["mean"], float(tensors["weight"])) if tensors else None
        )


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
