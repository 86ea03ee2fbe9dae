"""Reuse of the sampling forward: what sampling computed is not computed again for the gradient.

On-policy with one update a batch, the differentiated forward pass multiplies the same inputs with
the same weights as the sampler just did, one token at a time. Its linear layers can return what
they returned then; only attention, norms and activations are computed again, and the backward pass
is the usual one. That saves one of the five forward passes a step is worth. The gradient is the
same up to rounding, for a product of many rows is summed in another order than one of few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lm.errors import RunError


class ReuseError(RunError):
    """What sampling computed does not hold for this scoring; the message says why."""


class SamplingRecord:
    """What every linear layer of a model put out while sampling, for one scoring of the samples.

    Pass it as ``record`` to `CausalPolicy.sample` and then to `CausalPolicy.score`, with the same
    samples and before the weights change; one record serves all steps of a run, and keeps its
    memory between them (the outputs of all linear layers on one batch).

    Parameters
    ----------
    model
        The model that samples and is differentiated. Layers that are exactly `torch.nn.Linear` or
        transformers' Conv1D are reused; all others are computed as ever.

    Raises
    ------
    ReuseError
        The model has dropout, with which no two passes agree.
    """

    def __init__(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and module.p > 0:
                raise ReuseError(
                    f"the layer {name} drops out a share of {module.p}: the forward pass of the "
                    "sampler is not the differentiated one. Set its rate to 0, or "
                    "reuse_sampling_forward to false"
                )
        self.model = model
        self._layers = {
            name: _Layer(module)
            for name, module in model.named_modules()
            if type(module) in {nn.Linear, Conv1D}
        }
        self._lines: list[Tensor] = []
        self._inputs: list[Tensor] = []

    @contextmanager
    def sampling(self, position: int, rows: Tensor, prefix: Tensor) -> Iterator[None]:
        """Record one call of the sampler (`lm.policy.sampling.StepRecorder`)."""
        self._refuse_autocast(rows.device)
        if position == 0:
            self._lines, self._inputs = [], []
            for layer in self._layers.values():
                layer.clear()
        n = len(rows) if position == 0 else len(self._lines[0])
        # Rows that have ended have no line; what stands there for them is never looked at.
        self._lines.append(rows.new_full((n,), -1).index_copy(0, rows, prefix))
        with self._patched(_Layer.computed_and_kept), self._watched(self._inputs.append):
            yield
        for name, layer in self._layers.items():
            if len(layer.starts) not in {0, position + 1}:
                raise ReuseError(
                    f"the layer {name} is called more than once, or not always, in a call of the "
                    "model; reuse_sampling_forward needs each layer called once: set it to false"
                )

    @contextmanager
    def scoring(self, rows: Tensor, length: int) -> Iterator[None]:
        """Return the record in one call of the scorer (`lm.policy.scoring.CallRecorder`).

        Raises
        ------
        ReuseError
            The weights have changed since, or these are not the samples that were recorded.
        """
        self._refuse_autocast(rows.device)
        if length > len(self._lines) or int(rows.max()) >= len(self._lines[0]):
            raise ReuseError("these are not the samples that were recorded: there are too many")
        lines = torch.stack([line[rows] for line in self._lines[:length]], dim=-1)
        place = _Place(lines.clamp(min=0))
        check = partial(self._check_inputs, lines)
        with self._patched(partial(_Layer.returned, place=place)), self._watched(check):
            yield

    def _check_inputs(self, lines: Tensor, inputs: Tensor) -> None:
        context = self._inputs[0][lines[:, 0]]
        steps = zip(self._inputs[1:], lines.T[1:], strict=False)
        recorded = torch.cat([context, *(tokens[line] for tokens, line in steps)], dim=-1)
        recorded = recorded[:, -inputs.shape[1] :]
        ended = nn.functional.pad(lines[:, 1:] < 0, (inputs.shape[1] - lines.shape[1] + 1, 0))
        if recorded.shape != inputs.shape or not bool(((recorded == inputs) | ended).all()):
            raise ReuseError(
                "these are not the samples that were recorded: score the batch that was drawn, "
                "whole and in its order"
            )

    @contextmanager
    def _patched(self, forward: Callable[..., Tensor]) -> Iterator[None]:
        """Let each layer do something else than multiply."""
        patched = []
        try:
            for name, layer in self._layers.items():
                patched.append((layer.module, vars(layer.module).get("forward")))
                layer.module.forward = partial(forward, layer, name)
            yield
        finally:
            for module, before in patched:
                if before is None:
                    del module.forward
                else:
                    module.forward = before

    @contextmanager
    def _watched(self, see: Callable[[Tensor], None]) -> Iterator[None]:
        """Show the token ids of a call of the model, which are passed by name."""

        def look(module: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
            see(options["input_ids"])

        handle = self.model.register_forward_pre_hook(look, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _refuse_autocast(self, device: torch.device) -> None:
        if torch.is_autocast_enabled(device.type):
            raise ReuseError(
                "reuse_sampling_forward has no autocast: set it to false, or precision to float32"
            )


class _Layer:
    """One linear layer and the rows that it put out, call after call."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.first_positions = 0
        self.starts: list[int] = []
        self._rows = self.weight.new_empty(0, self.weight.shape[1])
        self._used = 0
        self._probe = torch.empty(0)

    @property
    def weight(self) -> Tensor:
        """The matrix that inputs are multiplied with on the right."""
        weight = self.module.weight
        return weight if isinstance(self.module, Conv1D) else weight.T

    def clear(self) -> None:
        """Forget what was recorded; the memory stays, for it is slow to come by."""
        self.starts, self._used = [], 0
        self._probe = _some(self.module.weight)

    def computed_and_kept(self, name: str, inputs: Tensor) -> Tensor:
        """Multiply as ever, into memory of ours."""
        if inputs.ndim != 3:
            raise ReuseError(
                f"the layer {name} sees inputs of shape {tuple(inputs.shape)}, not (sequences, "
                "positions, width), so that no position can be found again: set "
                "reuse_sampling_forward to false"
            )
        if not self.starts:
            self.first_positions = inputs.shape[1]
        self.starts.append(self._used)
        flat, weight, bias = inputs.flatten(0, 1), self.weight, self.module.bias
        out = self._room(len(flat), inputs)
        if bias is None:
            torch.mm(flat, weight, out=out)
        else:
            torch.addmm(bias, flat, weight, out=out)
        return out.view(*inputs.shape[:-1], -1)

    def returned(self, name: str, inputs: Tensor, *, place: _Place) -> Tensor:
        """Give back what was kept; differentiable as if it had been computed from the inputs."""
        if not self.starts:
            return type(self.module).forward(self.module, inputs)
        if not torch.equal(_some(self.module.weight), self._probe):
            raise ReuseError(
                f"the weights of {name} have changed since the samples were drawn: draw new ones "
                "before the next differentiated forward pass"
            )
        kept = _Kept(
            self._rows, place.of(self, inputs.shape[1]), not isinstance(self.module, Conv1D)
        )
        return _Returned.apply(inputs, self.module.weight, self.module.bias, kept)

    def _room(self, count: int, like: Tensor) -> Tensor:
        needed = self._used + count
        if needed > len(self._rows) or like.dtype != self._rows.dtype:
            # Memory that is never written costs nothing, so that doubling is for free.
            grown = like.new_empty(2 * needed, self._rows.shape[1])
            grown[: self._used] = self._rows[: self._used]
            self._rows = grown
        self._used, start = needed, self._used
        return self._rows[start:needed]


class _Place:
    """Where the outputs of some rows stand among a layer's rows.

    Parameters
    ----------
    lines
        Shape (rows, calls), int64: each row's line in each call's batch.
    """

    def __init__(self, lines: Tensor) -> None:
        self.lines = lines
        self._found: dict[tuple[int, int], Tensor] = {}

    def of(self, layer: _Layer, length: int) -> Tensor:
        """Return the places of the last ``length`` positions, shape (rows x length,)."""
        # Layers differ only in how many positions of the context they saw: all, or (the head) one.
        key = layer.first_positions, length
        if key not in self._found:
            context = torch.arange(layer.first_positions, device=self.lines.device)
            first = self.lines[:, :1] * layer.first_positions + context
            starts = torch.tensor(layer.starts[: self.lines.shape[1]], device=self.lines.device)
            places = torch.cat([first, self.lines[:, 1:] + starts[1:]], dim=-1)
            self._found[key] = places[:, -length:].flatten()
        return self._found[key]


def _some(weight: Tensor) -> Tensor:
    """Copy a few thousand of the weights: an optimiser's step changes nearly every one of them."""
    flat = weight.detach().flatten()
    return flat[:: 1 + len(flat) // 4096].clone()


class _Kept(NamedTuple):
    """A layer's rows, which of them are wanted, and whether its weight is (out, in)."""

    rows: Tensor
    where: Tensor
    transposed: bool


class _Returned(torch.autograd.Function):
    """A linear layer whose output is looked up; its gradient is the one of the product."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, kept: _Kept
    ) -> Tensor:
        """Return the kept rows in the shape that the product of the inputs would have."""
        ctx.save_for_backward(inputs, weight)
        ctx.transposed = kept.transposed
        return kept.rows.index_select(0, kept.where).view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of inputs @ weight + bias."""
        inputs, weight = ctx.saved_tensors
        (gradient,) = gradients
        flat = gradient.flatten(0, -2)
        of_inputs = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_inputs = (flat @ (weight if ctx.transposed else weight.T)).view_as(inputs)
        if ctx.needs_input_grad[1]:
            rows = inputs.flatten(0, -2)
            of_weight = flat.T @ rows if ctx.transposed else rows.T @ flat
        if ctx.needs_input_grad[2]:
            of_bias = flat.sum(0)
        return of_inputs, of_weight, of_bias, None
