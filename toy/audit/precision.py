"""How closely gradients can be compared, by the precision that a loss computes in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode


class Precision(NamedTuple):
    """Bounds below which a difference is rounding.

    Attributes
    ----------
    match : float
        Relative residual of two gradients that are the same.
    zero : float
        Size of a gradient of zero, relative to the coefficients of the score it is a sum of.
    change : float
        Relative change of a gradient that does not depend on the batch size.
    """

    match: float
    zero: float
    change: float


# Enumeration in float64 agrees to about 1e-13 where two gradients are the same.
DOUBLE = Precision(match=1e-8, zero=1e-12, change=1e-10)
# Ratios of up to e^6 multiply the roundoff of float32, 6e-8, to some 2e-5. Gradients of distinct
# divergences differ by 1e-3 and more, so that 1e-4 still tells them apart.
SINGLE = Precision(match=1e-4, zero=1e-5, change=1e-4)


class Coarsest(TorchFunctionMode):
    """Remembers the coarsest floating-point dtype among the results of torch's functions."""

    def __init__(self) -> None:
        super().__init__()
        self.dtype = torch.float64

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, and look at the tensors that it returns."""
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, torch.Tensor) and one.is_floating_point():
                self.dtype = coarser(self.dtype, one.dtype)
        return result


def coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """Return the dtype with the larger roundoff."""
    return max(one, other, key=lambda dtype: torch.finfo(dtype).eps)
