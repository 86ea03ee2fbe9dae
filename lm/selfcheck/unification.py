"""One method under several names: updates of RLHF and of DPG beside those of f-DPG.

RL with a KL penalty, DPG and its variant with a baseline (GDC++) are written here as their papers
and codebases write them, with a reward and plain torch. f-DPG is the core's two sentences. On the
same samples of the same transformer the gradients must be the same vectors, rounding apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fdpg_ref import (
    FORWARD_KL,
    REVERSE_KL,
    constrained,
    leave_one_out,
    reward_tilted,
    score_coefficients,
    score_signal,
)
from lm.config.base import BaseConfig
from lm.features.registry import feature_values
from lm.phases import each
from lm.policy import CausalPolicy, load_policy
from lm.surrogate import surrogate_loss
from lm.target.listed import ListedSupport
from lm.training.base import train_base

BETA = 0.1
SAMPLES = 256
# Noise that takes the policy away from the base, in standard deviations of each weight matrix.
NOISE = 0.05
BOUNDS = {"float32": 1e-6, "float64": 1e-12}


class Batch(NamedTuple):
    """Samples of a policy that has left its base, as every method sees them.

    Attributes
    ----------
    log_policy
        Shape (n,), nats, differentiable.
    log_base
        Shape (n,), nats.
    reward
        Shape (n,).
    satisfied
        Shape (n,), bool: which samples keep the rule of DPG's target.
    log_z
        Scalar, nats: log a(rule), exact.
    """

    log_policy: Tensor
    log_base: Tensor
    reward: Tensor
    satisfied: Tensor
    log_z: Tensor


class Agreement(NamedTuple):
    """How far two updates on the same samples are apart.

    Attributes
    ----------
    key
        A word for files.
    known, ours
        What is compared.
    precision
        float32 or float64.
    difference
        Norm of the difference of the two gradients, over the norm of ours.
    bound
        What rounding explains.
    """

    key: str
    known: str
    ours: str
    precision: str
    difference: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within the bound."""
        return self.difference <= self.bound


class Pair(NamedTuple):
    """Two names of one method: its key, what it is called there and here, and both losses."""

    key: str
    known: str
    ours: str
    known_loss: Callable[[Batch], Tensor]
    our_loss: Callable[[Batch], Tensor]


def rl_with_kl_penalty(batch: Batch) -> Tensor:
    """Return the policy-gradient loss of r - beta log(pi/a), k1 in the reward, leave-one-out."""
    held = batch.log_policy.detach()
    returns = batch.reward - BETA * (held - batch.log_base)
    others = (returns.sum() - returns) / (len(returns) - 1)
    return -((returns - others) * batch.log_policy).mean()


def dpg(batch: Batch) -> Tensor:
    """Return the loss of distributional policy gradients: weights p/pi (arXiv 2012.11635)."""
    return -(_target_over_policy(batch) * batch.log_policy).mean()


def gdc_with_baseline(batch: Batch) -> Tensor:
    """Return the same with the baseline Z, in units of Z: weights p/pi - 1 (arXiv 2206.00761)."""
    return -((_target_over_policy(batch) - 1.0) * batch.log_policy).mean()


def reverse_kl_fdpg(batch: Batch) -> Tensor:
    """Return the f-DPG loss of reverse KL to a e^(r/beta), in units of beta."""
    held = batch.log_policy.detach()
    log_score = reward_tilted(batch.log_base, batch.reward, beta=BETA)
    signal = score_signal(held, log_score, divergence=REVERSE_KL)
    coefficients = score_coefficients(signal, baseline=leave_one_out(signal))
    return surrogate_loss(batch.log_policy, BETA * coefficients)


def forward_kl_fdpg(batch: Batch, *, baseline: float) -> Tensor:
    """Return the f-DPG loss of forward KL to the base under the rule, with a constant baseline."""
    held = batch.log_policy.detach()
    log_score = constrained(batch.log_base, batch.satisfied)
    signal = score_signal(held, log_score - batch.log_z, divergence=FORWARD_KL)
    return surrogate_loss(batch.log_policy, score_coefficients(signal, baseline=baseline))


# f'(1) = -1 for f = -log t: the textbook's f' is the centred signal less one.
PAIRS = (
    Pair(
        "rl_kl",
        "RL with a KL penalty (k1 in the reward)",
        "reverse KL, leave-one-out",
        rl_with_kl_penalty,
        reverse_kl_fdpg,
    ),
    Pair("dpg", "DPG", "forward KL, baseline 1", dpg, partial(forward_kl_fdpg, baseline=1.0)),
    Pair(
        "gdc_baseline",
        "GDC++ (DPG with baseline Z)",
        "forward KL, no baseline",
        gdc_with_baseline,
        partial(forward_kl_fdpg, baseline=0.0),
    ),
)


def agreements(base: BaseConfig, *, seed: int = 0) -> list[Agreement]:
    """Compare every pair in both precisions.

    Parameters
    ----------
    base
        The transformer on census names; trained if it is not cached.
    seed
        Of the samples, and of the noise that takes the policy away from the base.

    Returns
    -------
    list of Agreement
        A pair and a precision each.
    """
    folder, found = train_base(base), []
    for precision, bound in each("comparing the updates", [*BOUNDS.items()]):
        policy, batch = make_batch(load_policy(folder, dtype=getattr(torch, precision)), seed=seed)
        weights = [p for p in policy.model.parameters() if p.requires_grad]
        for pair in PAIRS:
            one = _gradient(pair.known_loss(batch), weights)
            other = _gradient(pair.our_loss(batch), weights)
            difference = float((one - other).norm() / other.norm())
            found.append(Agreement(pair.key, pair.known, pair.ours, precision, difference, bound))
    return found


def make_batch(base: CausalPolicy, *, seed: int) -> tuple[CausalPolicy, Batch]:
    """Take a policy away from its base and draw samples from it.

    Parameters
    ----------
    base
        Over the letters of the census names.
    seed
        Of noise and samples.

    Returns
    -------
    policy, batch
        The reward is length plus sonority of a listed name; the rule is that the census lists the
        name for women, which is common enough for a batch to hold some.
    """
    # Move the policy away from its base, and draw from it.
    policy, generator = base.trainable_copy(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.model.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.add_((NOISE * weight.std() * noise).to(weight.dtype))
        samples = policy.sample(SAMPLES, generator=generator)
        log_base = base.score(samples)

    # What RLHF's and DPG's targets say of the samples.
    texts = policy.decode(samples)
    reward = feature_values(("listed_length", "listed_sonority"), texts).sum(-1)
    listing = ListedSupport(("female",))
    rule = listing.features[:, 0] > 0
    log_z = torch.logsumexp(listing.log_prob(base)[rule], -1)
    satisfied = feature_values(("female",), texts)[:, 0] > 0

    batch = Batch(
        policy.score(samples),
        log_base,
        torch.from_numpy(reward).to(log_base),
        torch.from_numpy(satisfied),
        log_z.to(log_base),
    )
    return policy, batch


def _target_over_policy(batch: Batch) -> Tensor:
    log_target = torch.where(batch.satisfied, batch.log_base - batch.log_z, -torch.inf)
    return torch.exp(log_target - batch.log_policy.detach())


def _gradient(loss: Tensor, weights: list[torch.nn.Parameter]) -> Tensor:
    parts = torch.autograd.grad(loss, weights, retain_graph=True)
    return torch.cat([part.flatten() for part in parts]).double()
