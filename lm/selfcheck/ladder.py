"""The precision ladder: what float32, bfloat16 and float16 do to one model on one batch.

Everything is compared with the same weights in float64: log-probabilities of tokens and sequences,
gradients, the influence of the batch's shape, and the sampler against the scorer. The code is that
of training, on a CPU as on a GPU.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from fdpg_ref import DIVERGENCES, leave_one_out, score_coefficients, score_signal
from lm.device.amp import AUTOCAST, Amp
from lm.errors import NotFinite
from lm.phases import each
from lm.policy.causal import CausalPolicy
from lm.policy.samples import Samples
from lm.selfcheck.rungs import BAND, GradientError, Ladder, Rung
from lm.surrogate import surrogate_loss

PRECISIONS = tuple(AUTOCAST)
GRADIENTS = ("forward_kl", "reverse_kl", "jensen_shannon")
# The two shapes that are compared: one sequence alone, and eight together.
ALONE, TOGETHER = 1, 8


class _Batch(NamedTuple):
    """What every rung is measured on, and float64's results once they are there."""

    samples: Samples
    log_target: Tensor
    seed: int


class _Measured(NamedTuple):
    rung: Rung
    token: Tensor
    sequence: Tensor
    gradients: dict[str, Tensor]
    drawn: Samples


def measure_ladder(
    policy: CausalPolicy,
    *,
    n: int = 64,
    seed: int = 0,
) -> Ladder:
    """Climb down from float64 to float16 with one model and one batch of its own samples.

    The gradients are those toward the policy tilted by a standard normal reward per sequence.
    Memory: about 40 bytes a parameter beside what scoring and backward of `n` sequences need.

    Parameters
    ----------
    policy
        The model, in any dtype, on any device; it is left as it is.
    n
        Sequences in the batch, at least 2.
    seed
        Of the samples and of their rewards.

    Returns
    -------
    Ladder
        A rung a precision; one that this device cannot compute says why.

    Raises
    ------
    NotFinite
        The model is not finite even in float64.
    """
    # The batch and the reference are float64's.
    accelerator = Accelerator(cpu=policy.device.type == "cpu")
    wide = policy.trainable_copy()
    wide.model.double()
    batch = _draw_batch(wide, n, seed)
    reference: _Measured | None = None
    rungs: list[Rung] = []
    errors: dict[str, Tensor] = {}

    for precision in each("measuring the precisions", PRECISIONS):
        # A copy of the model in this precision's weights.
        amp = Amp(precision, policy.device)
        rung_policy = wide
        if amp.weights_dtype != torch.float64:
            rung_policy = policy.trainable_copy()
            rung_policy.model.to(amp.weights_dtype)

        # Measure it, or say why this device cannot.
        try:
            measured = _measure(rung_policy, batch, amp, accelerator)
        except (NotFinite, RuntimeError) as error:
            if reference is None or not _is_of_the_precision(error):
                raise
            rungs.append(Rung(precision, unavailable=str(error).splitlines()[0]))
            continue

        # Compare it with float64, which comes first.
        reference = measured if reference is None else reference
        rungs.append(_compare(precision, measured, reference, batch))
        mask = batch.samples.mask
        errors[precision] = (measured.token - reference.token).abs()[mask].cpu()

    return Ladder(tuple(rungs), errors, int(batch.samples.mask.sum()), n)


@torch.no_grad()
def token_log_probs(policy: CausalPolicy, samples: Samples, *, rows: int) -> Tensor:
    """Return the log-probability of every token given what is before it, `rows` sequences at once.

    Parameters
    ----------
    policy
        The model.
    samples
        n sequences without prompts.
    rows
        Shape of the model's batches.

    Returns
    -------
    Tensor
        Shape (n, length), nats; zero after the end.
    """
    found = []
    for place in torch.arange(len(samples.tokens), device=samples.tokens.device).split(rows):
        some = samples.rows(place)
        chosen = policy.token_log_probs(some).gather(-1, some.tokens[..., None])[..., 0]
        found.append(chosen.where(some.mask, 0.0))
    return torch.cat(found)


def _draw_batch(policy: CausalPolicy, n: int, seed: int) -> _Batch:
    """Draw from the float64 model; the target is the model tilted by a reward per sample."""
    samples = policy.sample(n, generator=torch.Generator().manual_seed(seed))
    rewards = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rewards = rewards.to(samples.log_prob.device)
    log_z = torch.logsumexp(rewards, dim=-1) - math.log(n)
    return _Batch(samples, samples.log_prob + rewards - log_z, seed)


def _measure(policy: CausalPolicy, batch: _Batch, amp: Amp, accelerator: Accelerator) -> _Measured:
    # Score the same samples: whole, token by token, and in batches of another shape.
    samples = batch.samples
    with amp.autocast(), torch.no_grad():
        sequence = policy.log_prob(samples.tokens, samples.mask).double()
        token = token_log_probs(policy, samples, rows=TOGETHER).double()
        alone = token_log_probs(policy, samples, rows=ALONE).double()
    if not bool(torch.isfinite(sequence).all() & torch.isfinite(token).all()):
        raise NotFinite(f"the model's log-probabilities are not finite in {amp.precision}")

    # Sample anew, and score what was drawn.
    with amp.autocast():
        drawn = policy.sample(
            len(samples.tokens), generator=torch.Generator().manual_seed(batch.seed)
        )
    with amp.autocast(), torch.no_grad():
        gap = (drawn.log_prob - policy.log_prob(drawn.tokens, drawn.mask)).double().abs()

    # Differentiate.
    overflows, gradients = 0, {}
    for name in GRADIENTS:
        gradients[name], again = _gradient(policy, batch, name, amp, accelerator)
        overflows += again

    rung = Rung(
        amp.precision,
        batch_shape_max=float((token - alone).abs().max()),
        sampler_scorer_max=float(gap.max()),
        sampler_scorer_mean=float(gap.mean()),
        loss_scale=amp.scale,
        overflows=overflows,
    )
    return _Measured(rung, token, sequence, gradients, drawn)


def _gradient(
    policy: CausalPolicy, batch: _Batch, name: str, amp: Amp, accelerator: Accelerator
) -> tuple[Tensor, int]:
    """Return one divergence's gradient over all weights, on the CPU, and the overflows before."""
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    # A step of size zero: it only tells whether the scaled gradient overflowed.
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    overflows = 0
    while True:
        # The two statements of the estimator, and its backward pass.
        optimizer.zero_grad()
        with amp.autocast():
            log_policy = policy.log_prob(batch.samples.tokens, batch.samples.mask)
        log_target = batch.log_target.to(log_policy.dtype)
        signal = score_signal(log_policy.detach(), log_target, divergence=DIVERGENCES[name])
        coefficients = score_coefficients(signal, baseline=leave_one_out(signal))
        amp.backward(accelerator, surrogate_loss(log_policy, coefficients))

        # Again with a smaller scale, as long as the scaled gradient overflows.
        norm = amp.clip(accelerator, optimizer, parameters)
        if not amp.scales and not bool(torch.isfinite(norm)):
            raise NotFinite(f"the gradient is not finite in {amp.precision}")
        if amp.step(optimizer):
            break
        overflows += 1

    found = [p.grad.double().flatten().cpu() for p in parameters if p.grad is not None]
    optimizer.zero_grad()
    return torch.cat(found), overflows


def _compare(precision: str, measured: _Measured, reference: _Measured, batch: _Batch) -> Rung:
    """Complete a rung with its errors against float64."""
    mask = batch.samples.mask
    token = (measured.token - reference.token)[mask]
    sequence = (measured.sequence - reference.sequence).abs()
    lower, upper = (math.log(edge) for edge in BAND)
    own, there = (m.drawn.tokens.where(m.drawn.mask, -1) for m in (measured, reference))
    return Rung(
        **{
            **vars(measured.rung),
            "tokens_outside": float(((token < lower) | (token > upper)).double().mean()),
            "token_error_max": float(token.abs().max()),
            "sequence_error_max": float(sequence.max()),
            "sequence_error_mean": float(sequence.mean()),
            "gradients": {
                name: _gradient_error(gradient, reference.gradients[name])
                for name, gradient in measured.gradients.items()
            },
            "same_draws": float((own == there).all(-1).double().mean()),
        }
    )


def _gradient_error(gradient: Tensor, reference: Tensor) -> GradientError:
    norm, reference_norm = gradient.norm(), reference.norm()
    # |a - b|^2 / 2 of unit vectors: 1 - cos would be lost in the rounding of 1.
    gap = gradient / norm - reference / reference_norm
    return GradientError(float(gap.square().sum() / 2), float(norm / reference_norm))


def _is_of_the_precision(error: Exception) -> bool:
    """Whether a rung failed because of its precision: not finite there, or no such kernel."""
    return isinstance(error, NotFinite) or "not implemented for" in str(error)
