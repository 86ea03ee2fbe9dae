"""Calling a user's loss: which tensors it asks for, and what it may return.

A loss takes log_policy and log_reference, and by name log_behavior, reward and mask. It returns a
scalar, one value per sample or, per token, one value per token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    Loss = Callable[..., Tensor]

FIRST = ("log_policy", "log_reference")
NAMED = (*FIRST, "log_behavior", "reward", "mask")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class AuditError(ValueError):
    """A loss that cannot be audited: it raises, is not a number, not deterministic, misshapen."""


class ScalarReward(AuditError):
    """A penalty for the reward that returns one number for several samples."""


def bind(
    loss: Loss, *, watch: AbstractContextManager[Any] | None = None
) -> Callable[[Mapping[str, Tensor]], Any]:
    """Return the loss as a function of all tensors, of which it gets those it asks for.

    Parameters
    ----------
    loss : callable
        Tensors named as in `NAMED` are passed by name. The first two positional arguments may have
        any name: they are log_policy and log_reference. Other arguments need a default.
    watch : context manager, optional
        Entered around every call of the loss.

    Returns
    -------
    callable
        From a mapping with the keys `NAMED` to whatever the loss returns.

    Raises
    ------
    AuditError
        If an argument without a default is none of the tensors; the nearest name is given.
    """
    positional, by_name = _arguments(loss)

    def call(tensors: Mapping[str, Tensor]) -> Any:
        # Clones: a loss that works in place must not alter what later calls see.
        chosen = {name: tensors[name].clone() for name in (*positional, *by_name)}
        arguments = [chosen[name] for name in positional]
        with watch or nullcontext():
            return loss(*arguments, **{name: chosen[name] for name in by_name})

    return call


def asks_for_reward(loss: Loss) -> bool:
    """Return whether the loss takes the reward."""
    return "reward" in _arguments(loss)[1]


def evaluate(
    call: Callable[[Mapping[str, Tensor]], Any], tensors: Mapping[str, Tensor], *, per_sample: bool
) -> Tensor:
    """Return the value of a loss on one batch, checked and reduced.

    Parameters
    ----------
    call : callable
        From `bind`.
    tensors : mapping
        The tensors of `NAMED`, of n samples, (n,) or (n, T).
    per_sample : bool
        Whether each sample needs its own value, as in the reward.

    Returns
    -------
    () or (n,) tensor
        Values of tokens are summed over the mask, those of samples averaged.

    Raises
    ------
    AuditError
        If the loss raises, or its value has another type or shape, or is NaN or infinite.
    """
    shape = tuple(tensors["log_policy"].shape)
    try:
        value = call(tensors)
    # A user's function may raise anything, and may leave the program.
    except (Exception, SystemExit) as error:
        raise AuditError(
            f"the loss raised {said(error)} (called with log_policy of shape {shape}). "
            f"{_peers(shape[0])}"
        ) from error

    # One number, or one per sample. What is closed gives no warning that nobody awaited it.
    if inspect.iscoroutine(value):
        value.close()
        raise AuditError("the loss is an async function, which would have to be awaited: use def")
    _check_value(value, shape, tensors)
    if value.ndim == 2:
        value = torch.where(tensors["mask"], value, 0.0).sum(-1)
    if not per_sample:
        return value.mean()
    if value.ndim == 0 and shape[0] > 1:
        raise ScalarReward(
            f"in the reward every sample needs its own value: return shape ({shape[0]},), not a "
            "scalar"
        )
    return value.reshape(shape[0])


def said(error: BaseException) -> str:
    """Return the name of an error and what it says, if it says anything."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _arguments(loss: Loss) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which tensors a loss takes by position, and which by name."""
    if not callable(loss):
        raise AuditError(f"the loss is {loss!r}, which is not a function")
    fixed = _fixed_parameters(loss)

    # The first two may have any name, as long as they are given by position.
    positional = []
    for tensor, parameter in zip(FIRST, fixed, strict=False):
        stranger = parameter.name not in NAMED and parameter.default is inspect.Parameter.empty
        if parameter.kind not in _POSITIONAL or not (stranger or parameter.name == tensor):
            break
        positional.append(tensor)

    # All others are known by their names.
    rest = fixed[len(positional) :]
    for parameter in rest:
        if parameter.name not in NAMED and parameter.default is inspect.Parameter.empty:
            raise AuditError(_unknown(parameter.name))
    return tuple(positional), tuple(p.name for p in rest if p.name in NAMED)


def _fixed_parameters(loss: Any) -> list[inspect.Parameter]:
    """Return the parameters that a loss names, also one that is a module or was decorated."""
    # A module is called by forward; one that was compiled keeps the module it was made from.
    function = getattr(loss, "_orig_mod", loss)
    function = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        parameters = []
    fixed = [p for p in parameters if p.kind not in _VARIADIC]
    if fixed:
        return fixed
    # (*args, **kwargs): a decorator without functools.wraps, which holds the function it calls.
    cells = (cell.cell_contents for cell in getattr(function, "__closure__", None) or ())
    inner = [value for value in cells if callable(value) and not isinstance(value, type)]
    if len(inner) == 1:
        return _fixed_parameters(inner[0])
    raise AuditError(
        "nothing says which tensors the loss takes: its arguments have no names. If it was "
        "decorated, use functools.wraps in the decorator; else name them, from "
        f"{', '.join(NAMED)}"
    )


def _unknown(name: str) -> str:
    near = get_close_matches(name, NAMED, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"the loss takes {name!r}, which is none of the tensors of an audit.{hint} Known: "
        f"{', '.join(NAMED)}. Give any other argument a default."
    )


def _check_value(value: Any, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> None:
    if not isinstance(value, torch.Tensor):
        raise AuditError(f"the loss returned {type(value).__name__}: it must return a torch tensor")
    if value.dtype != torch.float64:
        raise AuditError(
            f"the loss returned {value.dtype} for float64 inputs: keep their dtype, or rounding "
            "hides what it descends"
        )

    # Its shape.
    allowed = [(), shape[:1], shape]
    if tuple(value.shape) not in allowed:
        wanted = " or ".join(dict.fromkeys(map(str, allowed)))
        raise AuditError(
            f"the loss returned shape {tuple(value.shape)} for log_policy of shape {shape}: return "
            f"{wanted}"
        )

    # Its numbers, padding apart.
    inside = tensors["mask"] if value.ndim == 2 else torch.ones_like(value, dtype=torch.bool)
    bad = value.detach()[inside & ~torch.isfinite(value)]
    if len(bad):
        raise AuditError(
            f"the loss is {float(bad[0])} at log pi/ref = {_ratios(tensors)}. {_peers(shape[0])}"
        )


def _ratios(tensors: Mapping[str, Tensor]) -> str:
    ratio = (tensors["log_policy"] - tensors["log_reference"]).detach()
    return str([round(float(x), 3) for x in ratio[tensors["mask"].reshape(ratio.shape)]])


def _peers(n: int) -> str:
    if n > 1:
        return f"The batch has {n} samples; a loss must work on any that the policy can draw."
    return "If it compares the samples of a batch, audit it with a batch size of 2."
