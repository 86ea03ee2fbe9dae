"""Several processes, one batch: who holds which rows, and what all of them agree on.

accelerate starts the processes' group and moves the tensors; nothing here is a second engine. The
global batch of n samples is cut into equal consecutive slices, one a process. Per-sample scalars
are gathered (n floats), every process computes signal, baseline, Z and coefficients on the global
batch, and keeps its slice: so the gradient does not depend on the number of processes, and the
average that DDP takes over equal slices is the mean over the batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from lm.device.launched import refuse_launch
from lm.errors import RunError

# The others wait while the main process trains a base or evaluates; the library's ten minutes
# (NCCL) are shorter than that.
PATIENCE = timedelta(hours=2)


class UnevenBatch(RunError):
    """A batch cannot be cut into equal slices, one a process."""


def build_accelerator(device: str) -> Accelerator:
    """Join the group of the launched processes, or be the only one.

    Parameters
    ----------
    device
        "cpu", "cuda" or "auto".

    Returns
    -------
    Accelerator
        Without accelerate's mixed precision and gradient accumulation, which are `lm.device.amp`
        and ``micro_batch_size`` here.

    Raises
    ------
    RunError
        The launcher asks for something that cannot be done here: FSDP without GPUs, FSDP version 1,
        another engine, or a precision that the recipe should name.
    """
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    refuse_launch("cpu" if on_cpu else "cuda")
    return Accelerator(
        cpu=on_cpu,
        mixed_precision="no",
        # Or a prepared schedule would advance by the number of processes at each step.
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


def local_rows(n: int, accelerator: Accelerator) -> slice:
    """Return this process's rows of a global batch: equal consecutive slices.

    Parameters
    ----------
    n
        Rows of the global batch.
    accelerator
        Knows how many processes there are, and which one this is.

    Returns
    -------
    slice
        n / (number of processes) rows; all rows on one process.

    Raises
    ------
    UnevenBatch
        n does not divide by the number of processes.
    """
    processes = accelerator.num_processes
    if n % processes != 0:
        nearest = max(1, round(n / processes)) * processes
        raise UnevenBatch(
            f"batch_size is {n}, which {processes} processes cannot share equally: "
            f"use --batch_size {nearest} or another number of processes"
        )
    share = n // processes
    return slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)


def gather(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """Put the slices of all processes together, in the order of the global batch; no gradient.

    Parameters
    ----------
    accelerator
        Of this process.
    tensor
        Shape (rows, ...), the same shape and dtype on every process; any real, integer or bool
        dtype.

    Returns
    -------
    Tensor
        Shape (processes x rows, ...), equal on all processes; the tensor itself on one process.
    """
    tensor = tensor.detach()
    if accelerator.num_processes == 1:
        return tensor
    gathered: Any = accelerator.gather(tensor)
    return gathered


def agree(accelerator: Accelerator, wish: bool) -> bool:
    """Return whether any process wishes it, the same answer on all (a stop signal, say)."""
    if accelerator.num_processes == 1:
        return wish
    flag = torch.tensor([wish], dtype=torch.int64, device=accelerator.device)
    return bool(gather(accelerator, flag).any())


def gather_texts(accelerator: Accelerator, text: str) -> list[str]:
    """Return every process's text, on every process, in their order.

    The texts travel as bytes: `accelerator.gather_for_metrics` and its kin would unpickle them.
    """
    if accelerator.num_processes == 1:
        return [text]
    encoded = text.encode("utf-8")
    size = torch.tensor([len(encoded)], device=accelerator.device)
    sizes = gather(accelerator, size).tolist()
    if max(sizes) == 0:
        return [""] * len(sizes)
    row = torch.zeros(1, max(sizes), dtype=torch.uint8)
    row[0, : len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
    rows = gather(accelerator, row.to(accelerator.device)).tolist()
    pairs = zip(rows, sizes, strict=True)
    return [bytes(row[:size]).decode("utf-8") for row, size in pairs]


@contextmanager
def fail_together(accelerator: Accelerator) -> Iterator[None]:
    """Let an error of one process stop all of them, so that none waits for it in vain.

    The block must contain no communication: a process that fails leaves it early. On one process
    this does nothing.

    Parameters
    ----------
    accelerator
        Of this process.

    Raises
    ------
    RunError
        On the processes that did not fail themselves; it names the first that did, and why. The
        ones that failed raise their own error.
    """
    if accelerator.num_processes == 1:
        yield
        return
    try:
        yield
    except Exception as error:
        gather_texts(accelerator, str(error) or type(error).__name__)
        raise
    for process, message in enumerate(gather_texts(accelerator, "")):
        if message:
            raise RunError(f"process {process} stopped: {message}")


def require_same_config(accelerator: Accelerator, config: Mapping[str, Any]) -> None:
    """Raise a RunError unless all processes were started with the same configuration.

    Parameters
    ----------
    accelerator
        Of this process.
    config
        One value for each key, as `lm.config.options.flatten` returns it.
    """
    texts = gather_texts(accelerator, json.dumps(config, sort_keys=True))
    first = json.loads(texts[0])
    for process, text in enumerate(texts):
        other = json.loads(text)
        keys = sorted(key for key in {*first, *other} if first.get(key) != other.get(key))
        if keys:
            raise RunError(
                f"process {process} was started with another {', '.join(keys)} than process 0 "
                f"({keys[0]}: {other.get(keys[0])!r} against {first.get(keys[0])!r}): give every "
                "machine the same command and the same recipe"
            )


def require_same(accelerator: Accelerator, name: str, value: int) -> None:
    """Raise a RunError unless a number, read from the run folder, is the same on all processes."""
    values = gather_texts(accelerator, str(value))
    for process, other in enumerate(values):
        if other != values[0]:
            raise RunError(
                f"process {process} is at {name} {other}, process 0 at {values[0]}: the run folder "
                "must lie where all machines see it"
            )


@contextmanager
def main_process_first(accelerator: Accelerator) -> Iterator[None]:
    """Run a block on the main process, then on the others: it fills caches that they read.

    Unlike accelerate's, an error of the main process reaches the others instead of hanging them.

    Parameters
    ----------
    accelerator
        Of this process.

    Raises
    ------
    RunError
        On the others, if the main process failed.
    """
    if accelerator.is_main_process:
        with fail_together(accelerator):
            yield
    else:
        with fail_together(accelerator):
            pass
        yield


def leave_group() -> None:
    """Leave the group of processes, at the end of a program: without this, NCCL complains."""
    PartialState().destroy_process_group()
