"""The named errors of the project and the checks of shape, dtype and array library.

Nothing here reads a value: a check looks at metadata only, so that a GPU never synchronises. Checks
that read values belong to the users of the core: ``toy/checks.py``, ``lm/policy/checks.py``.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from fdpg_ref._internal.typing import Array


class InfiniteDivergence(ValueError):
    """The divergence is infinite: mass stands where the other distribution has none."""


class UnattainableMoments(ValueError):
    """No finite multipliers give the requested moments on the support of the base."""


class MultipliersNotConverged(RuntimeError):
    """The multipliers did not converge, and no proof was found that they cannot."""


def namespace(**arrays: Array) -> Any:
    """Return the one array library of the named arrays, all float32 or all float64.

    Parameters
    ----------
    **arrays
        Arrays by the name under which the caller knows them. Python numbers are passed over.

    Returns
    -------
    module
        The Array-API namespace of the arrays.

    Raises
    ------
    TypeError
        For arrays of two libraries, two dtypes, half precision, or no real floating dtype; and
        where there is no array at all.
    """
    # By exact type: a numpy float64 scalar is a Python float as well, and promotes like an array.
    named = {name: x for name, x in arrays.items() if type(x) not in (int, float)}
    if not named:
        raise TypeError(
            f"none of {', '.join(arrays)} is an array: numpy.asarray(x) makes one of a number"
        )
    libraries = {name: _library(name, x) for name, x in named.items()}

    # One library.
    first, *others = libraries
    for name in others:
        if libraries[name] is not libraries[first]:
            raise TypeError(
                f"{first} is an array of {libraries[first].__name__} but {name} is one of "
                f"{libraries[name].__name__}: convert one of them, the core never does"
            )
    xp = libraries[first]

    # One dtype, and a wide enough one.
    for name, x in named.items():
        _require_float(xp, name, x)
        if x.dtype != named[first].dtype:
            raise TypeError(
                f"{first} has dtype {named[first].dtype} but {name} has {x.dtype}: mixed precision "
                "rounds differently in each library, so cast both to one dtype first"
            )
    return xp


def require_sample_axis(name: str, x: Array, *, at_least: int = 1) -> int:
    """Return the length of the last axis, the sample axis, of ``x``; it must hold enough samples.

    Raises
    ------
    ValueError
        If ``x`` has no axis, or fewer than ``at_least`` samples on its last one.
    """
    if x.ndim == 0:
        raise ValueError(f"{name} has shape (): it needs a sample axis, which comes last")
    n = x.shape[-1]
    if n < at_least:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, that is {n} sample(s) on its last axis: "
            f"this needs at least {at_least}"
        )
    return n


def require_same_shape(**arrays: Array) -> None:
    """Raise a ValueError that names both shapes unless all named arrays have one shape."""
    first, *others = arrays
    for name in others:
        if arrays[name].shape != arrays[first].shape:
            raise ValueError(
                f"{first} has shape {tuple(arrays[first].shape)} but {name} has shape "
                f"{tuple(arrays[name].shape)}: they must be the same"
            )


def require_baseline_shape(baseline: Array, signal: Array, *, name: str = "baseline") -> None:
    """Raise a ValueError unless ``baseline`` is a number, per context, or shaped like ``signal``.

    A bare (n, 1) or (1, n) mix-up would broadcast to (n, n) and still look like an average.
    """
    if isinstance(baseline, (int, float)) or baseline.ndim == 0:
        return
    per_context = (*signal.shape[:-1], 1)
    if baseline.shape not in (signal.shape, per_context):
        raise ValueError(
            f"{name} has shape {tuple(baseline.shape)} but signal has {tuple(signal.shape)}: it "
            f"must be a number, {tuple(per_context)} (one per context) or {tuple(signal.shape)}"
        )


def require_feature_shapes(log_base: Array, features: Array, per_feature: Array) -> None:
    """Raise a ValueError unless features are (..., n, k) for (..., n) samples and (k,) numbers."""
    expected = (*log_base.shape, *per_feature.shape)
    if per_feature.ndim != 1 or tuple(features.shape) != expected:
        raise ValueError(
            f"features have shape {tuple(features.shape)}: they must be (..., n, k), that is "
            f"{expected} for log_base {tuple(log_base.shape)} and {tuple(per_feature.shape)} "
            "multipliers or moments"
        )


def plain_number(x: float) -> float:
    """Return a numpy float64 as a Python float, which widens no float32 array; others unchanged."""
    return float(x) if isinstance(x, float) else x


def _library(name: str, x: Array) -> Any:
    try:
        return array_namespace(x)
    except TypeError:
        raise TypeError(
            f"{name} is a {type(x).__name__}, not an array: pass an array of a library that "
            "array_api_compat knows (numpy, torch, jax, cupy, array-api-strict, ...)"
        ) from None


def _require_float(xp: Any, name: str, x: Array) -> None:
    if x.dtype in (xp.float32, xp.float64):
        return
    # isdtype(bfloat16, "real floating") is true, so the two allowed dtypes are named, not a kind.
    is_half = "float16" in str(x.dtype)
    reason = (
        "a half-precision log-probability near -100 sits on a grid of up to 0.5 nats: cast to "
        "float32 before the log-softmax, not after it"
        if is_half
        else "log-probabilities must be float32 or float64"
    )
    raise TypeError(f"{name} has dtype {x.dtype}: {reason}")
