"""The baseline: what is subtracted from the signal, which lowers the variance and moves no mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fdpg_ref import (
    RunningBaseline,
    init_running_baseline,
    leave_one_out,
    update_running_baseline,
)
from lm.config import BaselineConfig


class Baseline:
    """What the configuration asks for: of the batch's other samples, of past batches, or fixed.

    Parameters
    ----------
    config
        leave_one_out, running, constant or none.
    """

    def __init__(self, config: BaselineConfig) -> None:
        self.config = config
        self._past: RunningBaseline | None = None

    def of(self, signal: Tensor) -> Tensor | float:
        """Return what to subtract from a batch's signal: nothing that knows the sample itself.

        Parameters
        ----------
        signal
            Shape (contexts, n).

        Returns
        -------
        Tensor or float
            For leave_one_out shape (contexts, n): the mean of the context's other samples. Else one
            number: the mean of past batches' signals, the constant, or 0.
        """
        if self.config.kind == "leave_one_out":
            return leave_one_out(signal)
        return self.config.value if self._past is None else float(self._past.mean)

    def observe(self, signal: Tensor) -> None:
        """Learn from a batch, of any shape, after it was used.

        Contexts share the mean: a step's prompts are others than the last one's.
        """
        if self.config.kind != "running":
            return
        # On the CPU, where the mean of a checkpoint is as well.
        signal = signal.detach().flatten().cpu()
        self._past = (
            init_running_baseline(signal)
            if self._past is None
            else update_running_baseline(self._past, signal, forgetting=self.config.forgetting)
        )

    def state_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs: mean and weight, or nothing before the first batch."""
        if self._past is None:
            return {}
        weight = torch.tensor(self._past.weight, dtype=torch.float64)
        return {"mean": self._past.mean, "weight": weight}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state_tensors` returned."""
        self._past = RunningBaseline(tensors["mean"], float(tensors["weight"])) if tensors else None
