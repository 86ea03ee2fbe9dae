"""The numbers of one training batch, as `lm.records` lists them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fdpg_ref import effective_sample_size
from lm.errors import RunError
from lm.partition import estimate_partition


def describe_batch(
    names: tuple[str, ...], features: Tensor, signal: Tensor, coefficients: Tensor
) -> dict[str, Any]:
    """Return feature means, by name, and the spread of signal and coefficients, each (n,)."""
    return {
        "features": dict(zip(names, features.mean(0).tolist(), strict=True)),
        "signal_mean": float(signal.mean()),
        "signal_std": float(signal.std()),
        "coefficient_rms": float(coefficients.square().mean().sqrt()),
    }


def describe_partition(
    log_z: Tensor, log_score: Tensor, log_proposal: Tensor
) -> dict[str, float | None]:
    """Return the log Z that was used and the batch's own estimate of it with its health, in nats.

    The estimate is None where no sample of the batch has any target mass.
    """
    used = {"log_z": float(log_z.mean())}
    log_weights = log_score - log_proposal
    if not bool(torch.isfinite(log_weights).any()):
        names = ("batch_log_z", "batch_log_z_error", "largest_share", "ess_share")
        return {**used, **dict.fromkeys(names)}
    estimate = estimate_partition(log_score, log_proposal)
    return {
        **used,
        "batch_log_z": estimate.log_z,
        "batch_log_z_error": estimate.relative_standard_error,
        "largest_share": estimate.largest_share,
        "ess_share": float(effective_sample_size(log_weights)) / len(log_weights),
    }


def describe_gradient(norm: Tensor | None, largest_norm: float, step: int) -> dict[str, Any]:
    """Return the gradient norm before clipping, and whether it was clipped.

    Raises
    ------
    RunError
        The norm is not finite.
    """
    size = math.nan if norm is None else float(norm)
    if not math.isfinite(size):
        raise RunError(
            f"the gradient norm is {size} at step {step}: lower optimizer.lr, or look for a sample "
            "with an extreme signal"
        )
    return {"gradient_norm": size, "clipped": size > largest_norm}
