"""Everything that a step changes: captured for a checkpoint, and restored from one.

What is not here is either the configuration's or recomputed from it: base, target, evaluation
samples. Policies are in evaluation mode, so their buffers never change. How the state lies on the
disk is `lm.run.checkpoint`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lm.device.amp import Amp
from lm.device.shards import cut_like, to_main
from lm.errors import RunError


class TrainingState(NamedTuple):
    """Everything that a step changes.

    Attributes
    ----------
    step
        Steps done.
    tensors
        By name, with a ``/`` between groups.
    numbers
        What JSON holds exactly: schedule, options of the optimiser, gradient scaler.
    offsets
        Byte length of each log of the run at that step.
    digests
        SHA-256 of so many bytes of each log whose content counts; a checkpoint of an earlier
        version has none.
    """

    step: int
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    offsets: dict[str, int]
    digests: Mapping[str, str] = MappingProxyType({})


class HasTensors(Protocol):
    """A part of the training that remembers past batches: Z, a baseline, a proposal."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Return its memory."""
        ...

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up the memory that `state_tensors` returned."""
        ...


class Moving(NamedTuple):
    """What a step changes.

    Attributes
    ----------
    model
        Its parameters that take gradients are saved: with LoRA, the adapter's.
    optimizer, schedule, amp
        As the loop uses them.
    generator
        Of the training. Every process draws the whole batch's uniforms and keeps its share, so
        one state is every process's, and a run may continue with another number of processes.
    memories
        By name: what remembers past batches.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    amp: Amp
    generator: torch.Generator
    memories: Mapping[str, HasTensors]


def capture(
    moving: Moving, step: int, offsets: dict[str, int], *, main: bool = True
) -> TrainingState:
    """Return the state as whole tensors, also where each process holds a part of them.

    All processes must call it; those that are not the main one get no tensors.
    """
    moments, groups = optimizer_state(moving.optimizer)
    tensors = {
        **_prefixed("weights", _trained(moving.model)),
        **_prefixed("optimizer", moments),
        "generator": moving.generator.get_state(),
    }
    for name, memory in moving.memories.items():
        tensors |= _prefixed(name, memory.state_tensors())
    numbers = {
        "optimizer": groups,
        "schedule": moving.schedule.state_dict(),
        "scaler": moving.amp.state_dict(),
    }
    return TrainingState(step, to_main(tensors, main=main), numbers, offsets)


def restore(moving: Moving, state: TrainingState) -> None:
    """Take up what `capture` returned.

    Raises
    ------
    RunError
        The checkpoint belongs to another model.
    """
    load_weights(moving.model, state)
    trained = list(_trained(moving.model).values())
    moments = {
        key: cut_like(tensor, trained[int(key.split("/")[0])])
        for key, tensor in _group(state.tensors, "optimizer").items()
    }
    load_optimizer_state(moving.optimizer, moments, state.numbers["optimizer"])
    moving.schedule.load_state_dict(state.numbers["schedule"])
    moving.amp.load_state_dict(state.numbers["scaler"])
    moving.generator.set_state(state.tensors["generator"])
    for name, memory in moving.memories.items():
        memory.load_state_tensors(_group(state.tensors, name))


def load_weights(model: torch.nn.Module, state: TrainingState) -> None:
    """Put a checkpoint's weights into a model whose parameters take gradients.

    Raises
    ------
    RunError
        Names or shapes differ.
    """
    stored, trained = _group(state.tensors, "weights"), _trained(model)
    if _shapes(stored) != _shapes(trained):
        odd = sorted(dict(_shapes(stored).items() ^ _shapes(trained).items()))
        raise RunError(
            f"the checkpoint belongs to another model: they differ in {odd[0]} and {len(odd) - 1} "
            "more. Was the model folder replaced since the run began? Put it back, or pass "
            "--overwrite without --resume to start again"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(cut_like(stored[name], parameter))


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[Any]]:
    """Return an optimiser's tensors, named ``PARAMETER/QUANTITY``, and the options of its groups.

    Parameters
    ----------
    optimizer
        Any optimiser of torch whose state is made of tensors, as Adam's is.

    Returns
    -------
    tensors, groups
        For `load_optimizer_state`; the groups hold what JSON holds.
    """
    stored = optimizer.state_dict()
    tensors = {
        f"{index}/{name}": value
        for index, values in stored["state"].items()
        for name, value in values.items()
    }
    return tensors, stored["param_groups"]


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[Any]
) -> None:
    """Put back what `optimizer_state` returned, through the optimiser's own checks."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    tuples = [
        {name: tuple(value) if name == "betas" else value for name, value in group.items()}
        for group in groups
    ]
    optimizer.load_state_dict({"state": state, "param_groups": tuples})


def _trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _prefixed(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{group}/{name}": tensor for name, tensor in tensors.items()}


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    start = f"{group}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
