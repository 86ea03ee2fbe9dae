"""Mixed precision in one place: which dtype computes, and what scales float16's gradients.

accelerate has no gradient scaler on a CPU, so the scaler here is torch's own, on every device::

    amp = Amp(config.precision, accelerator.device)
    with amp.autocast():
        samples = policy.sample(...)
    with amp.autocast():
        log_policy = policy.score(samples)
    amp.backward(accelerator, surrogate_loss(log_policy, coefficients))
    norm = amp.clip(accelerator, optimizer, parameters, largest_norm)  # of the true gradient
    made = amp.step(optimizer)  # False: overflow, so nothing moved and the scale was halved

The weights stay float32 (float64 for float64); log-softmax and sums are widened by the policy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from lm.errors import NotFinite

# What autocast computes matrix products in; None leaves them in the dtype of the weights.
AUTOCAST: Mapping[str, torch.dtype | None] = {
    "float64": None,
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# A finite float32 gradient, times this, is finite in float16 unless it exceeds 6e10: what still
# overflows is not a matter of the scale.
SMALLEST_SCALE = 2.0**-20


class Amp:
    """The precision of a run: autocast, and for float16 always a gradient scaler.

    Parameters
    ----------
    precision
        float64, float32, bfloat16 or float16.
    device
        Where the weights are.

    Raises
    ------
    ValueError
        The precision is none of these.
    """

    def __init__(self, precision: str, device: torch.device | str) -> None:
        if precision not in AUTOCAST:
            raise ValueError(f"precision is {precision!r}; there are: {', '.join(AUTOCAST)}")
        self.precision = precision
        self._device = torch.device(device).type
        # Below 6e-8 a float16 gradient is zero: there is no way to leave the scaler out.
        self._scaler = torch.amp.GradScaler(self._device) if precision == "float16" else None

    @property
    def weights_dtype(self) -> torch.dtype:
        """The dtype of weights and optimiser: float32, or float64 for float64."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def scales(self) -> bool:
        """Whether gradients are scaled, so that a step may be skipped and its norm infinite."""
        return self._scaler is not None

    @property
    def scale(self) -> float:
        """What the loss is multiplied by: 1 without a scaler."""
        return 1.0 if self._scaler is None else self._scaler.get_scale()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for forward passes. Leave it before a step changes the weights."""
        dtype = AUTOCAST[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self._device, dtype=dtype)

    def backward(self, accelerator: Accelerator, loss: Tensor) -> None:
        """Add the gradient of the loss, scaled for float16, to the parameters' gradients."""
        accelerator.backward(loss if self._scaler is None else self._scaler.scale(loss))

    def clip(
        self,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[torch.nn.Parameter],
        largest_norm: float = math.inf,
    ) -> Tensor:
        """Undo the scale, clip the gradient and return its norm; once between two steps.

        Parameters
        ----------
        accelerator
            Knows how the parameters are spread over processes.
        optimizer
            The one that `step` is called with.
        parameters
            All that the optimiser moves.
        largest_norm
            Infinity leaves the gradient as it is.

        Returns
        -------
        Tensor
            Norm of the unscaled gradient before clipping. It is not finite where float16
            overflowed: `step` then skips.
        """
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        norm = accelerator.clip_grad_norm_(parameters, largest_norm)
        assert norm is not None  # only DeepSpeed, which is not offered, has none
        return norm

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Take the optimiser's step, unless a scaled gradient overflowed.

        Returns
        -------
        bool
            Whether the step was taken. If not, weights and optimiser are as before, and the scale
            is half of what it was.

        Raises
        ------
        NotFinite
            The gradient overflows at every scale.
        """
        if self._scaler is None:
            optimizer.step()
            return True
        before = self.scale
        self._scaler.step(optimizer)
        self._scaler.update()
        made = self.scale >= before
        if not made and self.scale < SMALLEST_SCALE:
            raise NotFinite(
                f"the float16 gradient is not finite, even with the loss scaled by {before:.1e}: "
                "choose --precision bfloat16 or float32, or look for a sample with an extreme "
                "signal"
            )
        return made

    def state_dict(self) -> dict[str, float | int]:
        """Return the scaler's numbers, ready for JSON; nothing without a scaler."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, float | int]) -> None:
        """Go on with the scaler of a checkpoint.

        Raises
        ------
        ValueError
            The numbers belong to a run of another precision.
        """
        if bool(state) != self.scales:
            kept = "has the state of a gradient scaler" if state else "has no gradient scaler"
            raise ValueError(f"the checkpoint {kept}, but the precision is {self.precision}")
        if self._scaler is not None:
            self._scaler.load_state_dict(dict(state))
