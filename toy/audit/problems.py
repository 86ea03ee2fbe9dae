"""The problems on which losses are audited: policy, reference and behaviour policy, enumerated.

All of them are tables of logits over sequences; a softmax over k outcomes is the table with one row
and one position. They are fixed, unlike in every respect, and their log-ratios reach several nats,
since a small or symmetric ratio cannot tell one divergence from another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from toy.checks import check_choice
from toy.sequences import enumerate_sequences

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

LEVELS = ("sequence", "token")


@dataclass(frozen=True, eq=False)
class AuditProblem:
    """Three policies over the same N sequences of at most T tokens, in float64.

    Attributes
    ----------
    name : str
        A short description.
    policy, reference, behavior : (rows, tokens) tensors
        Logits, one row per prefix; the parameters of the gradient are the policy's, flattened.
    reward : (N,) tensor
        A reward of each sequence, for losses that ask for one.
    tokens, prefix : (N, T) tensors of int
        Token at each position and the row it is drawn from. Padding repeats the end token and
        points to the first row, so that what a loss reads there without a mask is not harmless.
    mask : (N, T) tensor of bool
        True up to and including the end of a sequence.
    """

    name: str
    policy: Float[Tensor, "rows tokens"]
    reference: Float[Tensor, "rows tokens"]
    behavior: Float[Tensor, "rows tokens"]
    reward: Float[Tensor, " N"]
    tokens: Int[Tensor, "N T"]
    prefix: Int[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]

    @property
    def size(self) -> int:
        """Number d of parameters."""
        return self.policy.numel()

    @property
    def outcomes(self) -> int:
        """Number N of sequences."""
        return len(self.tokens)

    def log_probs(self, logits: Float[Tensor, "rows tokens"], *, level: str) -> Tensor:
        """Return the log-probability of every sequence, (N,), or of its tokens, (N, T), in nats.

        At the level of tokens padding holds what the first row says about the end token.
        """
        check_choice("level", level, LEVELS)
        by_token = torch.log_softmax(logits, dim=-1)[self.prefix, self.tokens]
        return by_token if level == "token" else (by_token * self.mask).sum(-1)


@cache
def problems(level: str = "sequence") -> tuple[AuditProblem, ...]:
    """Return the fixed problems of a level: three softmaxes, or two tables of sequences.

    Parameters
    ----------
    level : {"sequence", "token"}
        Whether losses see one number per sample or one per token.

    Returns
    -------
    tuple of AuditProblem
        Always the same; the first one is the smallest.
    """
    check_choice("level", level, LEVELS)
    if level == "sequence":
        return tuple(_softmax(outcomes, seed=20 + outcomes) for outcomes in (4, 5, 6))
    return tuple(_table(2, max_length, seed=30 + max_length) for max_length in (2, 3))


@cache
def grid_problems() -> tuple[AuditProblem, ...]:
    """Return two softmaxes whose log-ratios are one grid from -3 to 3 and whose masses differ.

    A gradient E_pi[c s] with c a function of pi/ref alone shows the same c on both.
    """
    # An even number of points keeps u = 0, the kink of total variation, off the grid.
    log_ratio = np.linspace(-3.0, 3.0, 24)
    return tuple(_with_log_ratio(log_ratio, seed=seed) for seed in (41, 42))


def _softmax(outcomes: int, *, seed: int) -> AuditProblem:
    rng = np.random.default_rng(seed)
    policy = 1.5 * rng.normal(size=(1, outcomes))
    reference = -1.5 * rng.exponential(size=(1, outcomes))
    behavior = policy + 0.8 * rng.normal(size=(1, outcomes))
    return _one_row(f"softmax of {outcomes}", policy, reference, behavior, rng)


def _with_log_ratio(log_ratio: np.ndarray, *, seed: int) -> AuditProblem:
    """Return a softmax with the given log pi/ref, from a reference that makes pi sum to one."""
    rng = np.random.default_rng(seed)
    weights = 0.2 + rng.random(log_ratio.size)
    below = np.where(log_ratio < 0, weights, 0.0)
    above = np.where(log_ratio > 0, weights, 0.0)
    # Each side shifts the mass of pi by sum ref (t - 1); the two shifts must cancel.
    deficit, excess = -below @ np.expm1(log_ratio), above @ np.expm1(log_ratio)
    reference = np.log(below * excess + above * deficit)[None]
    policy = reference + log_ratio
    behavior = policy + 0.5 * rng.normal(size=policy.shape)
    return _one_row("grid of log-ratios", policy, reference, behavior, rng)


def _one_row(
    name: str,
    policy: np.ndarray,
    reference: np.ndarray,
    behavior: np.ndarray,
    rng: np.random.Generator,
) -> AuditProblem:
    outcomes = policy.size
    return AuditProblem(
        name=name,
        policy=torch.from_numpy(policy),
        reference=torch.from_numpy(reference),
        behavior=torch.from_numpy(behavior),
        reward=torch.from_numpy(rng.exponential(size=outcomes)),
        tokens=torch.arange(outcomes)[:, None],
        prefix=torch.zeros(outcomes, 1, dtype=torch.int64),
        mask=torch.ones(outcomes, 1, dtype=torch.bool),
    )


def _table(vocabulary: int, max_length: int, *, seed: int) -> AuditProblem:
    rng = np.random.default_rng(seed)
    tokens, mask, prefix, complete = enumerate_sequences(vocabulary, max_length)
    shape = int(complete.sum()), vocabulary + 1
    policy = rng.normal(size=shape)
    return AuditProblem(
        name=f"sequences of at most {max_length} tokens",
        policy=torch.from_numpy(policy),
        reference=torch.from_numpy(-rng.exponential(size=shape)),
        behavior=torch.from_numpy(policy + 0.5 * rng.normal(size=shape)),
        reward=torch.from_numpy(rng.exponential(size=len(tokens))),
        tokens=torch.from_numpy(tokens),
        prefix=torch.from_numpy(prefix),
        mask=torch.from_numpy(mask),
    )
