"""A running mean of the weights: what a run measures and saves, if it is asked to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from lm.policy.protocol import Policy


class WeightAverage:
    """The exponential moving average of a policy's trained weights, from the start of the run.

    average <- w average + (1 - w) weights after every step; without a w it is nothing, and what is
    lent is the policy itself.

    Parameters
    ----------
    policy
        Its trained weights are the first value.
    past
        w, strictly between 0 and 1, or None.
    """

    def __init__(self, policy: Policy, past: float | None) -> None:
        self._past = past
        self._trained = {
            name: parameter
            for name, parameter in policy.model.named_parameters()
            if parameter.requires_grad and past is not None
        }
        self._average = {name: p.detach().clone() for name, p in self._trained.items()}

    @torch.no_grad()
    def observe(self) -> None:
        """Take in the weights as they are after a step."""
        for name, average in self._average.items():
            assert self._past is not None
            average.lerp_(self._trained[name], 1.0 - self._past)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the weights' place, and the weights back at the end."""
        with torch.no_grad():
            held = {name: p.detach().clone() for name, p in self._trained.items()}
            try:
                for name, parameter in self._trained.items():
                    parameter.copy_(self._average[name])
                yield
            finally:
                for name, parameter in self._trained.items():
                    parameter.copy_(held[name])

    def state_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs."""
        return dict(self._average)

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state_tensors` returned."""
        for name, tensor in tensors.items():
            self._average[name].copy_(tensor)
