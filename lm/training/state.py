"""Everything that a step changes, put into a checkpoint and taken out again.

What is not here is either the configuration's or recomputed from it: base, target, evaluation
samples. Policies are in evaluation mode, so their buffers never change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lm.device.amp import Amp
from lm.errors import RunError
from lm.run.checkpoint import (
    TrainingState,
    load_newest,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
)
from lm.run.environment import environment, environment_changes
from lm.run.folder import RunFolder
from lm.training.sharding import to_main


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
        one state is every process's, and a run may go on with another number of processes.
    memories
        By name: what remembers past batches.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    amp: Amp
    generator: torch.Generator
    memories: Mapping[str, HasTensors]


def save_state(run: RunFolder, moving: Moving, step: int, *, keep: int) -> None:
    """Write a checkpoint; all processes call it, for they may hold parts of the weights.

    Parameters
    ----------
    run
        Of the run; its logs are brought to the disk first.
    moving
        What is saved.
    step
        Steps done.
    keep
        How many of the newest checkpoints stay.

    Raises
    ------
    OSError
        It cannot be written; earlier ones are untouched.
    """
    state = capture(moving, step, run.log_lengths(), main=run.main)
    if run.main:
        run.flush_logs()
        save_checkpoint(run.checkpoints, state, keep=keep)


def resume_state(run: RunFolder, moving: Moving, say: Callable[[str], None]) -> int:
    """Go on from the newest checkpoint that verifies, and cut the logs to its step.

    Parameters
    ----------
    run
        Of a run that was interrupted, or that begins.
    moving
        Freshly built; takes up the checkpoint's state.
    say
        Called with sentences for the user: what was skipped, and where the run goes on.

    Returns
    -------
    int
        Steps done: 0 if nothing can be used, and then the logs are empty.

    Raises
    ------
    RunError
        The checkpoint belongs to another model.
    """
    lengths = run.log_lengths()
    if not any(lengths.values()):
        return 0
    state, notes = load_newest(run.checkpoints, lengths=lengths)
    step = 0 if state is None else state.step
    if state is not None:
        restore(moving, state)
    run.cut_logs({} if state is None else state.offsets)
    where = f"goes on after step {step}" if step else "starts over: no checkpoint can be used"
    recorded = json.loads((run.partial / "environment.json").read_text("utf-8"))
    for change in environment_changes(recorded):
        notes.append(f"{change}: the numbers to come agree to rounding with an unbroken run's")
    for note in (*notes, f"the run {where}"):
        say(note)
    run.append("resumed.jsonl", {"step": step, "notes": notes, "environment": environment()})
    return step


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
        key: _like(tensor, trained[int(key.split("/")[0])])
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
            parameter.copy_(_like(stored[name], parameter))


def _trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _prefixed(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{group}/{name}": tensor for name, tensor in tensors.items()}


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    start = f"{group}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Cut a tensor as a parameter is cut; numbers such as Adam's count of steps stay whole."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    mesh = parameter.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, parameter.placements)
