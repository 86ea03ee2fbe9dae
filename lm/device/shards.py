"""Tensors that are cut between processes (FSDP2): put together, and cut again."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor whole, on every process (a communication); others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def to_main(tensors: Mapping[str, Tensor], *, main: bool) -> dict[str, Tensor]:
    """Put tensors together on the CPU of the main process, for a checkpoint; all must call it.

    Parameters
    ----------
    tensors
        Sharded or not; the same names in the same order on every process.
    main
        Whether this is the main process.

    Returns
    -------
    dict of str to Tensor
        Whole; one after the other, so that a GPU holds one whole tensor at a time. Empty on the
        other processes.
    """
    found = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor.detach())
        if main:
            found[name] = gathered.cpu()
    return found


def cut_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Cut a tensor as a parameter is cut; numbers such as Adam's count of steps stay whole."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    mesh = parameter.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, parameter.placements)
