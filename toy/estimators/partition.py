"""The six ways to come by log Z during training, by name.

Which of them keep the gradient unbiased depends on the divergence: see ``python -m toy verify``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import (
    PartitionState,
    importance_log_partition,
    init_partition,
    leave_one_out_log_partition,
    update_partition,
)
from toy.categorical import sample
from toy.problems import Problem

if TYPE_CHECKING:
    from jaxtyping import Float


class PartitionStep(NamedTuple):
    """The answer of a policy for Z to one batch.

    Attributes
    ----------
    log_z : () or (n,) array, nats
        The value to use for this batch.
    state : PartitionState
        The state for the next batch.
    """

    log_z: Float[np.ndarray, "..."]
    state: PartitionState


PartitionPolicy = Callable[[PartitionState, np.ndarray, np.ndarray], PartitionStep]


def initial_state(
    policy: str, problem: Problem, n: int, *, rng: np.random.Generator
) -> PartitionState:
    """Return the state before the first batch: Z itself, or an estimate from ``n`` base samples.

    Parameters
    ----------
    policy : str
        A key of `PARTITION_POLICIES`.
    problem : Problem
        Its base is sampled; none of these samples is trained on.
    n : int
        Number of samples.
    rng : numpy.random.Generator
        Source of the samples.

    Returns
    -------
    PartitionState
        log Z and the number of samples behind it.
    """
    if policy == "exact":
        return PartitionState(log_z=np.asarray(problem.log_z), weight=np.inf)
    drawn = sample(problem.log_base, n, rng=rng)
    return init_partition(problem.log_score[drawn], problem.log_base[drawn])


def _keep(state: PartitionState, log_score: np.ndarray, log_proposal: np.ndarray) -> PartitionStep:
    return PartitionStep(log_z=state.log_z, state=state)


def _past_only(
    state: PartitionState, log_score: np.ndarray, log_proposal: np.ndarray
) -> PartitionStep:
    return PartitionStep(state.log_z, update_partition(state, log_score, log_proposal))


def _past_and_current(
    state: PartitionState, log_score: np.ndarray, log_proposal: np.ndarray
) -> PartitionStep:
    updated = update_partition(state, log_score, log_proposal)
    return PartitionStep(updated.log_z, updated)


def _leave_one_out(
    state: PartitionState, log_score: np.ndarray, log_proposal: np.ndarray
) -> PartitionStep:
    return PartitionStep(leave_one_out_log_partition(log_score, log_proposal), state)


def _same_batch(
    state: PartitionState, log_score: np.ndarray, log_proposal: np.ndarray
) -> PartitionStep:
    return PartitionStep(importance_log_partition(log_score, log_proposal), state)


PARTITION_POLICIES: Mapping[str, PartitionPolicy] = MappingProxyType(
    {
        "exact": _keep,
        "frozen": _keep,
        "past_only": _past_only,
        "past_and_current": _past_and_current,
        "leave_one_out": _leave_one_out,
        "same_batch": _same_batch,
    }
)
