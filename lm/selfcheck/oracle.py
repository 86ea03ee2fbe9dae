"""A transformer whose every sequence can be listed, where the estimator meets the exact gradient.

Over all sequences the expectation of coefficient times score is a finite sum, and the divergence
itself is a differentiable function of the weights: the two gradients must be the same vector.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fdpg_ref import DIVERGENCES, exact_divergence, score_coefficients, score_signal
from lm.device.amp import SMALLEST_SCALE, Amp
from lm.models.folder import build_gpt2
from lm.policy.causal import CausalPolicy
from lm.surrogate import surrogate_loss

VOCABULARY, LIMIT = 4, 4
# Padding is the end token: the case in which masks made from `!= pad` lose the end.
BOS, EOS = 0, 1


class Sequences(NamedTuple):
    """All sequences of the tiny model: tokens and mask, each of shape (121, 4)."""

    tokens: Tensor
    mask: Tensor


class OracleProblem(NamedTuple):
    """A policy, all of its sequences, and a target over them.

    Attributes
    ----------
    policy
        Trainable, float64.
    sequences
        All there are.
    log_target
        Shape (121,), float64, nats: log-ratios to the policy between 0.4 and 1.6 in size.
    """

    policy: CausalPolicy
    sequences: Sequences
    log_target: Tensor


def enumerable_policy(*, seed: int = 3, scale: float = 5.0, device: str = "cpu") -> CausalPolicy:
    """Build a GPT-2 of two layers, four tokens and at most four positions, in float64.

    Parameters
    ----------
    seed
        Of the weights, which are float32 numbers: a float32 copy is the same model.
    scale
        Multiplies the matrices, away from the uniform distribution.
    device
        Where it goes.

    Returns
    -------
    CausalPolicy
        Trainable.
    """
    model = build_gpt2(
        vocabulary_size=VOCABULARY, positions=LIMIT, layers=2, width=8, heads=2, seed=seed
    )
    with torch.no_grad():
        for parameter in model.parameters():
            # The gains of the norms stay 1, and the biases 0.
            if parameter.ndim > 1:
                parameter.mul_(scale)
    policy = CausalPolicy(
        model.double(), bos_id=BOS, eos_ids=(EOS,), pad_id=EOS, max_new_tokens=LIMIT
    )
    policy.scorer.to(device)
    return policy.trainable_copy()


def every_sequence(device: str = "cpu") -> Sequences:
    """List every sequence that ends within the limit and every one that is cut there."""
    others = [token for token in range(VOCABULARY) if token != EOS]
    ended = [
        (*body, EOS) for length in range(LIMIT) for body in itertools.product(others, repeat=length)
    ]
    sequences = ended + list(itertools.product(others, repeat=LIMIT))
    padded = [(*sequence, *[EOS] * (LIMIT - len(sequence))) for sequence in sequences]
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    mask = torch.arange(LIMIT) < lengths[:, None]
    return Sequences(torch.tensor(padded, device=device), mask.to(device))


def oracle_problem(*, seed: int = 3, device: str = "cpu") -> OracleProblem:
    """Return the enumerable policy with a target that differs from it everywhere.

    No log-ratio is near zero, where total variation's signal jumps and rounding would decide.
    """
    policy, sequences = enumerable_policy(seed=seed, device=device), every_sequence(device)
    log_policy = policy.log_prob(*sequences).detach()
    generator = torch.Generator().manual_seed(seed)
    size = 0.4 + 1.2 * torch.rand(len(log_policy), generator=generator, dtype=torch.float64)
    sign = torch.randint(0, 2, (len(log_policy),), generator=generator) * 2 - 1
    log_target = torch.log_softmax(log_policy - (size * sign).to(device), dim=-1)
    return OracleProblem(policy, sequences, log_target)


def exact_gradient(problem: OracleProblem, divergence: str) -> Tensor:
    """Return the gradient of the divergence itself, by autograd, as one vector over all weights.

    Parameters
    ----------
    problem
        Its policy's dtype is that of the sum.
    divergence
        A key of `fdpg_ref.DIVERGENCES`.

    Returns
    -------
    Tensor
        Shape (weights,), float64.
    """
    policy, sequences, log_target = problem
    log_policy = policy.log_prob(*sequences)
    value = exact_divergence(
        log_policy, log_target.to(log_policy.dtype), divergence=DIVERGENCES[divergence]
    )
    return _flat(torch.autograd.grad(value, _weights(policy)))


def estimator_gradient(problem: OracleProblem, divergence: str, precision: str) -> Tensor:
    """Return the expectation of coefficient times score over all sequences, as one vector.

    Parameters
    ----------
    problem
        The weights are taken in the dtype that the precision trains.
    divergence
        A key of `fdpg_ref.DIVERGENCES`.
    precision
        float64, float32, bfloat16 or float16; the last with its loss scaled as in training.

    Returns
    -------
    Tensor
        Shape (weights,), float64.
    """
    amp = Amp(precision, problem.policy.device)
    policy = problem.policy.trainable_copy()
    policy.model.to(amp.weights_dtype)
    with amp.autocast():
        log_policy = policy.log_prob(*problem.sequences)
    held = log_policy.detach()
    signal = score_signal(
        held, problem.log_target.to(held.dtype), divergence=DIVERGENCES[divergence]
    )
    # The mean over samples that surrogate_loss takes becomes the sum weighted by pi.
    weighted = score_coefficients(signal) * held.exp() * len(held)
    loss, scale = surrogate_loss(log_policy, weighted), amp.scale
    while True:
        gradient = _flat(torch.autograd.grad(loss * scale, _weights(policy), retain_graph=True))
        # Where float16 overflows, training's scaler halves the scale, step by step, too.
        if not amp.scales or bool(gradient.isfinite().all()) or scale < SMALLEST_SCALE:
            return gradient / scale
        scale /= 2


def sampling_z_scores(problem: OracleProblem, n: int) -> Tensor:
    """Draw n sequences and return a z per sequence: its count against the scorer's probability.

    Parameters
    ----------
    problem
        Policy and sequences.
    n
        How many to draw.

    Returns
    -------
    Tensor
        One for each sequence that is expected more than ten times (the normal law needs an
        expectation of some size), and a last one for all others together.
    """
    policy, sequences, _ = problem
    probability = policy.log_prob(*sequences).exp().detach().double().cpu()
    samples = policy.sample(n, generator=torch.Generator().manual_seed(1))
    keys = _keys(sequences.tokens, sequences.mask)
    order = torch.argsort(keys)
    drawn = torch.searchsorted(keys[order], _keys(samples.tokens, samples.mask))
    counts = torch.zeros(len(keys), dtype=torch.float64)
    counts[order] = torch.bincount(drawn, minlength=len(keys)).double()
    common = probability * n > 10
    counts = torch.cat([counts[common], counts[~common].sum()[None]])
    probability = torch.cat([probability[common], probability[~common].sum()[None]])
    variance = n * probability * (1 - probability)
    return (counts - n * probability) / variance.clamp(min=1.0).sqrt()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    return float((actual - expected).norm() / expected.norm())


def _weights(policy: CausalPolicy) -> list[torch.nn.Parameter]:
    return [parameter for parameter in policy.model.parameters() if parameter.requires_grad]


def _keys(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return a number per sequence: tokens, counted from one, are its digits; 0 is padding."""
    digits = (tokens + 1).where(mask, 0).cpu()
    places = (VOCABULARY + 1) ** torch.arange(digits.shape[-1])
    return (digits * places).sum(-1)


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients]).double()
