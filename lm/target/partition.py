"""The partition function Z of the target: six sources, and an estimate with its health.

What is proven about a gradient with each of them stands in `lm.target.proven_status`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fdpg_ref import (
    PartitionState,
    importance_log_partition,
    largest_share,
    leave_one_out_log_partition,
    relative_standard_error,
    update_partition,
)
from lm.errors import RunError

SHARE_TO_WARN = 0.2


class PartitionEstimate(NamedTuple):
    """Importance estimates of log Z with the two numbers that say whether to trust them.

    Attributes
    ----------
    log_z
        Shape (...), nats: log of the mean of P/q.
    relative_standard_error
        Shape (...): standard error of Zhat over Zhat.
    largest_share
        Shape (...): the share of the heaviest sample in the sum. Above 0.2 the estimate rests on
        that sample and is not to be trusted.
    """

    log_z: Tensor
    relative_standard_error: Tensor
    largest_share: Tensor


class StatedZ(NamedTuple):
    """Log Z of every context as a column of the prompts states it.

    Attributes
    ----------
    log_z
        Shape (contexts,), float64, nats.
    errors
        Shape (contexts,): standard errors of it; None where none are stated.
    """

    log_z: Tensor
    errors: Tensor | None


class Partition:
    """Log Z for the signal, from one of six sources, for each context on its own.

    Parameters
    ----------
    policy
        exact, column, frozen, past_only, leave_one_out or same_batch.
    log_z
        Shape (contexts,), nats: exact, stated, the offline estimate, or the running mean's start;
        None for the two policies that look at the batch only. A problem without prompts has one
        context.
    weight
        Shape (contexts,): base samples behind each value; past_only.
    forgetting
        past_only: weight of a context's past at each of its updates.
    """

    def __init__(
        self,
        policy: str,
        log_z: Tensor | None = None,
        weight: Tensor | None = None,
        forgetting: float = 1.0,
    ) -> None:
        self.policy = policy
        self.forgetting = forgetting
        self._log_z = None if log_z is None else log_z.detach().double().cpu().clone()
        self._weight = None if weight is None else weight.detach().double().cpu().clone()

    def log_z(
        self, log_score: Tensor, log_proposal: Tensor, *, contexts: Tensor | None = None
    ) -> Tensor:
        """Return log Z for a batch, to be subtracted from ``log_score``.

        Parameters
        ----------
        log_score, log_proposal
            Shape (c, n), or (n,) without prompts: log P(x) and log q(x), in nats, of n samples of
            q in each of c contexts.
        contexts
            Shape (c,), int64: which contexts these are; None without prompts.

        Returns
        -------
        Tensor
            Nats, shape (c, 1) or (1,); for leave_one_out one value a sample.

        Raises
        ------
        RunError
            Z is to come from the batch, and the samples that it would come from have no target
            mass at all.
        """
        if self.policy == "leave_one_out":
            return _finite(leave_one_out_log_partition(log_score, log_proposal), log_score)
        if self.policy == "same_batch":
            return _finite(importance_log_partition(log_score, log_proposal)[..., None], log_score)
        if self._log_z is None:
            raise ValueError(f"partition policy {self.policy} needs a value of Z before the batch")
        if contexts is None:
            return self._log_z.to(log_score)
        return self._log_z[contexts.cpu()][:, None].to(log_score)

    def observe(
        self, log_score: Tensor, log_proposal: Tensor, *, contexts: Tensor | None = None
    ) -> None:
        """Learn from a batch after it was used, so that Z only ever holds past batches.

        Parameters
        ----------
        log_score, log_proposal, contexts
            As for `log_z`.
        """
        if self.policy != "past_only" or self._log_z is None or self._weight is None:
            return
        rows = [0] if contexts is None else contexts.tolist()
        scores = log_score.detach().double().cpu().reshape(len(rows), -1)
        proposals = log_proposal.detach().double().cpu().reshape(len(rows), -1)
        for row, own_score, own_proposal in zip(rows, scores, proposals, strict=True):
            state = PartitionState(self._log_z[row], float(self._weight[row]))
            state = update_partition(state, own_score, own_proposal, forgetting=self.forgetting)
            self._log_z[row], self._weight[row] = state.log_z, state.weight

    def state_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs, copied: log_z and weight, or nothing."""
        held = {"log_z": self._log_z, "weight": self._weight}
        return {name: tensor.clone() for name, tensor in held.items() if tensor is not None}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state_tensors` returned.

        Parameters
        ----------
        tensors
            By name.

        Raises
        ------
        RunError
            They belong to another policy of Z, to another number of contexts or to another column.
        """
        own = self.state_tensors()
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
        if shapes != expected:
            raise RunError(
                f"the checkpoint's Z has the shapes {shapes}, but this run's partition policy "
                f"{self.policy} has {expected}: it belongs to another run"
            )
        if self.policy == "column" and not torch.equal(own["log_z"], tensors["log_z"]):
            raise RunError(
                "the column log_z of the prompts has changed since the run began: put back what "
                "there was, or start again with --overwrite and without --resume"
            )
        if own:
            self._log_z, self._weight = tensors["log_z"].clone(), tensors["weight"].clone()


def estimate_partition(log_score: Tensor, log_proposal: Tensor) -> PartitionEstimate:
    """Estimate log Z by importance sampling, with its relative error and largest single share.

    Parameters
    ----------
    log_score, log_proposal
        Shape (..., n), nats: log P(x_i) and log q(x_i) of n samples x_i of q, one row per context.

    Returns
    -------
    PartitionEstimate
        Of each row. Where no sample has any target mass, log Z is -inf and the rest NaN.
    """
    log_weights = log_score - log_proposal
    return PartitionEstimate(
        importance_log_partition(log_score, log_proposal),
        relative_standard_error(log_weights),
        largest_share(log_weights),
    )


def _finite(log_z: Tensor, log_score: Tensor) -> Tensor:
    if bool(torch.isfinite(log_z).all()):
        return log_z
    row = int((~torch.isfinite(log_z)).reshape(-1, log_z.shape[-1]).any(-1).nonzero()[0])
    found = int(torch.isfinite(log_score.reshape(-1, log_score.shape[-1])[row]).sum())
    raise RunError(
        f"of the {log_score.shape[-1]} samples of a context (number {row} of the batch) {found} "
        "have any target mass: Z cannot be estimated from the others. Use partition.policy frozen "
        "(or past_only), or more samples"
    )
