"""The array libraries on which the core runs in the tests: numpy is one among equals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import array_api_compat.numpy as compat_numpy
import array_api_compat.torch as compat_torch
import array_api_strict
import numpy as np
import torch


@dataclass(frozen=True)
class Library:
    """An Array-API namespace with one dtype and device, and the way there and back.

    Parameters
    ----------
    name : str
        What pytest prints.
    namespace : module
        The Array-API namespace.
    precision : {"float64", "float32"}
        The dtype of every array made here.
    device : str or None
        The device of every array made here.
    """

    name: str
    namespace: Any
    precision: str
    device: str | None = None

    @property
    def dtype(self) -> Any:
        return getattr(self.namespace, self.precision)

    @property
    def eps(self) -> float:
        """Relative spacing of the floats; tolerances are stated in multiples of it."""
        return float(np.finfo(self.precision).eps)

    def array(self, values: Any) -> Any:
        """Return ``values`` (numbers, lists, numpy arrays) as an array of this library."""
        nested = np.asarray(values, dtype=self.precision).tolist()
        return self.namespace.asarray(nested, dtype=self.dtype, device=self.device)

    def integers(self, values: Any) -> Any:
        return self.namespace.asarray(np.asarray(values).tolist(), dtype=self.namespace.int64)

    def booleans(self, values: Any) -> Any:
        nested = np.asarray(values, dtype=bool).tolist()
        return self.namespace.asarray(nested, dtype=self.namespace.bool, device=self.device)


def to_numpy(x: Any) -> np.ndarray:
    """Return an array of any library here as a float64 numpy array."""
    if isinstance(x, torch.Tensor):
        return x.detach().cpu().to(torch.float64).numpy()
    return np.asarray(x, dtype=np.float64)


LIBRARIES = {
    library.name: library
    for library in (
        Library("numpy", compat_numpy, "float64"),
        Library("array-api-strict", array_api_strict, "float64"),
        Library("torch-float64", compat_torch, "float64"),
        Library("torch-float32", compat_torch, "float32"),
        Library("torch-cuda", compat_torch, "float64", device="cuda"),
    )
}
