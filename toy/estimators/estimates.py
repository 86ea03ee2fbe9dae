"""Estimates of the gradient for many batches at once, by the choices that make an estimator.

Everything is a few lines on top of the core: where Z comes from, the baseline, the weights, and the
level. Arrays carry all batches on the leading axis, which the core treats as contexts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import (
    FDivergence,
    batch_mean,
    importance_log_partition,
    init_partition,
    init_running_baseline,
    leave_one_out,
    leave_one_out_log_partition,
    optimal_baseline,
    score_coefficients,
    score_signal,
    self_normalised_log_weights,
    truncated_log_weights,
    update_partition,
)
from toy.checks import check_choice

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

# An arbitrary constant: neither best nor zero.
CONSTANT_BASELINE = 0.7
# log(Zhat / Z) of the estimate that is wrong once and for all: a factor of about two.
PARTITION_ERROR = 0.7
# Largest weight of the truncated ones.
CEILING = 1.5

PARTITIONS = (
    "exact",
    "off_by_a_constant",
    "frozen",
    "past_only",
    "past_and_current",
    "leave_one_out",
    "same_batch",
)
BASELINES = (
    "none",
    "constant",
    "optimal",
    "running",
    "leave_one_out",
    "weighted_leave_one_out",
    "batch_mean",
    "weighted_batch_mean",
)
WEIGHTS = ("plain", "ignored", "truncated", "self_normalised")
LEVELS = ("sequence", "per_length", "token", "to_go")


class Tokens(NamedTuple):
    """The T positions of each outcome, where outcomes are sequences.

    Attributes
    ----------
    log_ratio : (..., T) array, nats
        log pi - log p of the token given its prefix, 0 where masked.
    scores : (..., T, d) array
        grad log pi of the token, 0 where masked.
    mask : (..., T) array of bool
        True up to and including the end token.
    """

    log_ratio: Float[np.ndarray, "*batch T"]
    scores: Float[np.ndarray, "*batch T d"]
    mask: Bool[np.ndarray, "*batch T"]


class World(NamedTuple):
    """Everything an estimator can ask about each of the k outcomes.

    Attributes
    ----------
    log_policy, log_score, log_base : (k,) arrays, nats
        log pi, the unnormalised log P, and the base that serves as the off-policy proposal.
    scores : (k, d) array
        grad log pi.
    log_z : float, nats
        The exact log Z.
    tokens : Tokens or None
        The positions of each outcome; None where outcomes are no sequences.
    """

    log_policy: Float[np.ndarray, " k"]
    log_score: Float[np.ndarray, " k"]
    log_base: Float[np.ndarray, " k"]
    scores: Float[np.ndarray, "k d"]
    log_z: float
    tokens: Tokens | None = None


class Batch(NamedTuple):
    """Samples of all batches, with the past samples that a frozen Z is made from.

    Attributes
    ----------
    world : World
        Where they are drawn from.
    log_policy, log_score, log_proposal : (batches, n) arrays, nats
        log pi, log P and log q at the samples.
    scores : (batches, n, d) array
        grad log pi at the samples.
    past_log_policy, past_log_score, past_log_proposal : (batches, m) arrays, nats
        log pi, log P and log q at samples that are not trained on.
    log_z : float, nats
        The exact log Z.
    tokens : Tokens or None
        The positions of the samples, with leading axes (batches, n).
    """

    world: World
    log_policy: Float[np.ndarray, "batches n"]
    log_score: Float[np.ndarray, "batches n"]
    log_proposal: Float[np.ndarray, "batches n"]
    scores: Float[np.ndarray, "batches n d"]
    past_log_policy: Float[np.ndarray, "batches m"]
    past_log_score: Float[np.ndarray, "batches m"]
    past_log_proposal: Float[np.ndarray, "batches m"]
    log_z: float
    tokens: Tokens | None

    @property
    def log_weights(self) -> Float[np.ndarray, "batches n"]:
        """Logarithm of the importance weights pi/q, zero on-policy."""
        return self.log_policy - self.log_proposal


def batch_of(world: World, drawn: np.ndarray, rows: np.ndarray, *, past: int) -> Batch:
    """Return the batches of outcomes ``drawn``, the first ``past`` positions being the past.

    Parameters
    ----------
    world : World
        The outcomes.
    drawn : (batches, past + n) array of int
        Which were drawn.
    rows : (past + n, k) array, nats
        log q at each position.
    past : int
        How many positions are not trained on.

    Returns
    -------
    Batch
        Log-probabilities and scores of the samples.
    """
    before, now = drawn[:, :past], drawn[:, past:]
    at = np.take_along_axis(rows.T, drawn, axis=0)
    return Batch(
        world=world,
        log_policy=world.log_policy[now],
        log_score=world.log_score[now],
        log_proposal=at[:, past:],
        scores=world.scores[now],
        past_log_policy=world.log_policy[before],
        past_log_score=world.log_score[before],
        past_log_proposal=at[:, :past],
        log_z=world.log_z,
        tokens=None if world.tokens is None else Tokens(*(part[now] for part in world.tokens)),
    )


def gradient_estimates(
    batch: Batch,
    divergence: FDivergence,
    *,
    partition: str = "exact",
    baseline: str = "none",
    weights: str = "plain",
    level: str = "sequence",
) -> Float[np.ndarray, "batches d"]:
    """Return one estimate of the gradient for each batch.

    Parameters
    ----------
    batch : Batch
        The samples.
    divergence : FDivergence
        Which f.
    partition, baseline, weights, level : str
        As in `Composition`.

    Returns
    -------
    (batches, d) array
        (1/n) sum_i c_i grad log pi(x_i), summed over tokens too where coefficients are per token.
    """
    log_weights = _log_weights(batch, weights)
    if level in ("token", "to_go"):
        return _token_estimates(batch, divergence, baseline, log_weights, to_go=level == "to_go")
    log_z = _log_partition(batch, partition)
    signal = _signal(batch, divergence, log_z)
    coefficients = score_coefficients(
        signal, baseline=_baseline(batch, signal, divergence, baseline), log_weights=log_weights
    )
    if level == "per_length":
        coefficients = coefficients / np.sum(_tokens(batch).mask, axis=-1)
    return np.mean(coefficients[..., None] * batch.scores, axis=-2)


def _token_estimates(
    batch: Batch, divergence: FDivergence, baseline: str, log_weights: np.ndarray, *, to_go: bool
) -> np.ndarray:
    """Return estimates with a coefficient a token; peers are compared position by position."""
    tokens = _tokens(batch)
    signal = np.where(tokens.mask, divergence.signal(tokens.log_ratio), 0.0)
    if to_go:
        signal = np.cumsum(signal[..., ::-1], axis=-1)[..., ::-1]
    # Positions are contexts of the core: (batches, T, n).
    by_position = np.swapaxes(signal, -1, -2)
    check_choice("baseline at the level of tokens", baseline, _BY_POSITION)
    coefficients = score_coefficients(
        by_position,
        baseline=_BY_POSITION[baseline](by_position),
        log_weights=np.broadcast_to(log_weights[:, None, :], by_position.shape),
    )
    return np.mean(np.einsum("btn,bntd->bnd", coefficients, tokens.scores), axis=-2)


_BY_POSITION = {
    "none": lambda signal: 0.0,
    "constant": lambda signal: CONSTANT_BASELINE,
    "leave_one_out": leave_one_out,
    "batch_mean": batch_mean,
}


def _log_weights(batch: Batch, weights: str) -> np.ndarray:
    if weights == "ignored":
        return np.zeros_like(batch.log_weights)
    if weights == "truncated":
        return truncated_log_weights(batch.log_weights, ceiling=CEILING)
    if weights == "self_normalised":
        return self_normalised_log_weights(batch.log_weights)
    return batch.log_weights


def _log_partition(batch: Batch, partition: str) -> float | np.ndarray | None:
    """Return log Z as a number, per batch (batches, 1) or per sample; None if it is exact."""
    if partition == "exact":
        return None
    if partition == "off_by_a_constant":
        return batch.log_z + PARTITION_ERROR
    if partition == "same_batch":
        return importance_log_partition(batch.log_score, batch.log_proposal)[:, None]
    if partition == "leave_one_out":
        return leave_one_out_log_partition(batch.log_score, batch.log_proposal)
    state = init_partition(batch.past_log_score, batch.past_log_proposal)
    if partition == "past_and_current":
        state = update_partition(state, batch.log_score, batch.log_proposal)
    return state.log_z[:, None]


def _signal(batch: Batch, divergence: FDivergence, log_z: float | np.ndarray | None) -> np.ndarray:
    log_target = batch.log_score - (batch.log_z if log_z is None else log_z)
    return score_signal(batch.log_policy, log_target, divergence=divergence)


def _baseline(
    batch: Batch, signal: np.ndarray, divergence: FDivergence, baseline: str
) -> float | np.ndarray:
    if baseline == "constant":
        return CONSTANT_BASELINE
    if baseline == "optimal":
        return _optimal_constant(batch, divergence)
    if baseline == "running":
        # With the exact Z, whatever Z the batch has: a number that the batch cannot move.
        log_target = batch.past_log_score - batch.log_z
        past = score_signal(batch.past_log_policy, log_target, divergence=divergence)
        return init_running_baseline(past).mean
    peers = np.exp(batch.log_weights) * signal if baseline.startswith("weighted") else signal
    if baseline.endswith("leave_one_out"):
        return leave_one_out(peers)
    return batch_mean(peers) if baseline.endswith("batch_mean") else 0.0


def _optimal_constant(batch: Batch, divergence: FDivergence) -> float:
    """Return the constant of least trace, E_q[w^2 c |s|^2] / E_q[w^2 |s|^2], by enumeration."""
    world = batch.world
    log_target = world.log_score - world.log_z
    signal = score_signal(world.log_policy, log_target, divergence=divergence)
    on_policy = np.array_equal(batch.log_policy, batch.log_proposal)
    log_mass = world.log_policy if on_policy else 2 * world.log_policy - world.log_base
    lengths = np.sum(world.scores**2, axis=-1)
    return float(optimal_baseline(signal, lengths, log_mass=log_mass)[0])


def _tokens(batch: Batch) -> Tokens:
    if batch.tokens is None:
        raise ValueError("these outcomes are no sequences: this level needs a world with tokens")
    return batch.tokens
