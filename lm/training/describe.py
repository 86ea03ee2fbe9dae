"""The numbers of one training batch, as `lm.run.records` lists them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fdpg_ref import effective_sample_size, largest_share
from lm.config import RunConfig
from lm.device.amp import Amp
from lm.errors import RunError
from lm.features.registry import short_name
from lm.run.records import best
from lm.surrogate import surrogate_loss
from lm.target.partition import estimate_partition


def metric_words(evaluation: Mapping[str, Any], config: RunConfig) -> str:
    """Return what the progress of a run shows: divergence, first feature and entropy.

    A target without features shows KL(policy, base) in place of a feature.
    """
    key, name = "kl_policy_base", "KL to base"
    # What is measured may be another target than the one that is descended.
    measured = config.measure or config.target
    if measured.features:
        first = measured.features[0]
        key, name = f"feature/{first}", f"E[{short_name(first)}]"
    divergence, aligned, entropy = (
        best(evaluation, each)[0] for each in (config.divergence, key, "entropy")
    )
    return f"D {divergence:.4f}, {name} {aligned:.3f}, entropy {entropy:.2f}"


def describe_features(names: tuple[str, ...], features: Tensor) -> dict[str, float]:
    """Return the means of a batch's features by name; they have shape (samples, features)."""
    return dict(zip(names, features.mean(0).tolist(), strict=True))


def describe_coefficients(signal: Tensor, coefficients: Tensor) -> dict[str, float]:
    """Return the spread of signal and coefficients, both of shape (contexts, n)."""
    # Squares of finite float32 numbers can be infinite, which no record may hold.
    signal, coefficients = signal.double(), coefficients.double()
    return {
        "signal_mean": float(signal.mean()),
        "signal_std": float(signal.std()),
        "coefficient_rms": float(coefficients.square().mean().sqrt()),
    }


def describe_partition(
    log_z: Tensor, log_score: Tensor, log_proposal: Tensor
) -> dict[str, float | None]:
    """Return the log Z that was used and the batch's own estimate of it with its health, in nats.

    With several contexts these are means over those in which a sample has target mass, save the
    largest share, which is the largest of all. None where there is no such context, and where a
    context has a single sample.

    Parameters
    ----------
    log_z
        Shape (contexts, 1) or any that broadcasts with the next.
    log_score, log_proposal
        Shape (contexts, n): log P and log q at the samples.
    """
    used = {"log_z": float(log_z.mean())}
    log_weights = log_score - log_proposal
    reached = torch.isfinite(log_weights).any(-1)
    # One sample of a context has no spread: no error, and all of the mass.
    if not bool(reached.any()) or log_weights.shape[-1] < 2:
        names = ("batch_log_z", "batch_log_z_error", "largest_share", "ess_share")
        return {**used, **dict.fromkeys(names)}
    estimate = estimate_partition(log_score[reached], log_proposal[reached])
    ess = effective_sample_size(log_weights[reached])
    return {
        **used,
        "batch_log_z": float(estimate.log_z.mean()),
        "batch_log_z_error": float(estimate.relative_standard_error.mean()),
        "largest_share": float(estimate.largest_share.max()),
        "ess_share": float(ess.mean()) / log_weights.shape[-1],
    }


def describe_weights(log_policy: Tensor, log_proposal: Tensor) -> dict[str, float]:
    """Return how far off-policy a batch is: health of the importance weights pi/q.

    Parameters
    ----------
    log_policy, log_proposal
        Shape (contexts, n), nats: log pi, -inf where the policy cannot draw the sample, and log q.

    Returns
    -------
    dict
        ``weight_mean`` (1 in expectation while q covers pi), ``weight_ess_share`` and
        ``weight_largest_share``, over the whole batch. Nothing where q is the policy itself.

    Raises
    ------
    RunError
        Every weight is zero.
    """
    if log_proposal is log_policy:
        return {}
    log_weights = (log_policy - log_proposal).flatten()
    if not bool(torch.isfinite(log_weights).any()):
        raise RunError(
            "the policy gives no sample of this batch any probability: the proposal is too far "
            "from it. Use fewer updates_per_batch, a smaller proposal.every or a lower optimizer.lr"
        )
    return {
        "weight_mean": float(log_weights.exp().mean()),
        "weight_ess_share": float(effective_sample_size(log_weights)) / len(log_weights),
        "weight_largest_share": float(largest_share(log_weights)),
    }


def describe_noise(
    log_policy: Tensor | None, coefficients: Tensor, parameters: Sequence[Tensor]
) -> dict[str, float | None]:
    """Return the gradient's signal-to-noise ratio, from the two halves of a batch.

    Parameters
    ----------
    log_policy
        Shape (samples,): the graph of the batch, which is kept; None if it is not one graph, or if
        this step is not measured.
    coefficients
        Shape (contexts, n).
    parameters
        What is differentiated.
    """
    if log_policy is None:
        return {"gradient_signal_to_noise": None}
    ratio = gradient_signal_to_noise(log_policy, coefficients.flatten(), parameters)
    return {"gradient_signal_to_noise": ratio}


def gradient_signal_to_noise(
    log_policy: Tensor, coefficients: Tensor, parameters: Sequence[Tensor]
) -> float | None:
    """Estimate |E gradient| over the standard deviation of the batch gradient, from its two halves.

    The halves' gradients are (nearly, with a shared baseline) independent: their inner product
    estimates |E gradient|^2, a quarter of their squared distance the variance of the batch's.

    Parameters
    ----------
    log_policy
        Shape (n,), differentiable; its graph is kept.
    coefficients
        Shape (n,).
    parameters
        What is differentiated.

    Returns
    -------
    float or None
        0 where the inner product is negative: the direction is lost in the noise. None where the
        halves agree entirely, as they do where every coefficient is 0: the ratio is undefined.
    """
    half = len(log_policy) // 2
    halves = [
        torch.autograd.grad(
            surrogate_loss(log_policy[part], coefficients[part]), parameters, retain_graph=True
        )
        for part in (slice(None, half), slice(half, 2 * half))
    ]
    pairs = list(zip(*halves, strict=True))
    signal = sum(float((one * other).sum()) for one, other in pairs)
    noise = sum(float((one - other).square().sum()) for one, other in pairs) / 4
    return math.sqrt(max(signal, 0.0) / noise) if noise > 0 else None


def describe_gradient(
    norm: Tensor, largest_norm: float, step: int, *, amp: Amp | None = None
) -> dict[str, Any]:
    """Return the gradient norm before clipping, and whether it was clipped.

    Parameters
    ----------
    norm
        Scalar. With a gradient scaler it may be infinite: the step is skipped then, and the record
        says so (``gradient_norm`` None, ``skipped`` true) beside the scale.
    largest_norm
        Above it the gradient was clipped.
    step
        For the message.
    amp
        The precision of the run; without a scaler by default.

    Raises
    ------
    RunError
        The norm is not finite, and no scaler is there to skip the step.
    """
    size = float(norm)
    finite = math.isfinite(size)
    scales = amp is not None and amp.scales
    if not finite and not scales:
        raise RunError(
            f"the gradient norm is {size} at step {step}: lower optimizer.lr, or look for a sample "
            "with an extreme signal"
        )
    record: dict[str, Any] = {
        "gradient_norm": size if finite else None,
        "clipped": finite and size > largest_norm,
    }
    return {**record, "loss_scale": amp.scale, "skipped": not finite} if amp and scales else record
