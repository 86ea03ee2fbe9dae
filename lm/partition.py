"""The partition function Z of the target: five sources, and what is proven about each.

Which law the estimated gradient follows depends on the divergence, on the source of Z and on the
baseline together; `proven_status` states it (mathematics: finding F5, verified by enumerating all
batches in the toy).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fdpg_ref import (
    DIVERGENCES,
    Estimate,
    PartitionState,
    importance_log_partition,
    largest_share,
    leave_one_out_log_partition,
    relative_standard_error,
    update_partition,
)

Array = Any

# The members of the alpha family among the nine: Zhat only rescales their gradient, by
# (Zhat/Z)^(alpha - 1), because g'(t) = (t^(alpha-1) - 1)/(alpha - 1) up to a constant factor.
ALPHA = {
    "neyman_chi2": -1.0,
    "forward_kl": 0.0,
    "squared_hellinger": 0.5,
    "reverse_kl": 1.0,
    "pearson_chi2": 2.0,
}
SHARE_TO_WARN = 0.2


class Status(NamedTuple):
    """What is proven about the expected gradient of a run."""

    verdict: Literal["unbiased", "proportional", "biased"]
    factor: str | None
    reason: str


class PartitionEstimate(NamedTuple):
    """An importance estimate of log Z with the two numbers that say whether to trust it."""

    log_z: float
    relative_standard_error: float
    largest_share: float


@dataclass
class Partition:
    """Log Z for the signal, from one of five sources.

    Parameters
    ----------
    policy
        exact, frozen, past_only, leave_one_out or same_batch.
    state
        exact and frozen: log Z with its weight; past_only: the running mean, started on base
        samples that are not trained on; None for the two that look at the batch only.
    forgetting
        past_only: weight of the past at each update.
    """

    policy: str
    state: PartitionState | None
    forgetting: float = 1.0

    def log_z(self, log_score: Array, log_proposal: Array) -> Array:
        """Return log Z for a batch: a number, or one value per sample for leave_one_out.

        Parameters
        ----------
        log_score, log_proposal : (n,) array, nats
            log P(x_i) and log q(x_i) of the samples x_i of q.

        Returns
        -------
        array, nats
            Shape (1,) or (n,).
        """
        if self.policy == "leave_one_out":
            return leave_one_out_log_partition(log_score, log_proposal)
        if self.policy == "same_batch":
            return importance_log_partition(log_score, log_proposal)[..., None]
        if self.state is None:
            raise ValueError(f"partition policy {self.policy} needs a value of Z before the batch")
        return self.state.log_z[..., None]

    def observe(self, log_score: Array, log_proposal: Array) -> None:
        """Learn from a batch after it was used, so that Z only ever holds past batches."""
        if self.policy == "past_only" and self.state is not None:
            self.state = update_partition(
                self.state, log_score, log_proposal, forgetting=self.forgetting
            )


def estimate_partition(log_score: Array, log_proposal: Array) -> PartitionEstimate:
    """Estimate log Z by importance sampling, with its relative error and largest single share.

    Parameters
    ----------
    log_score, log_proposal : (n,) array, nats
        log P(x_i) and log q(x_i) of the samples x_i of q.

    Returns
    -------
    PartitionEstimate
        log of mean P/q in nats; standard error of Zhat over Zhat; the share of the heaviest
        sample in the sum (above 0.2 the estimate rests on one sample and is not to be trusted).
    """
    log_weights = log_score - log_proposal
    return PartitionEstimate(
        float(importance_log_partition(log_score, log_proposal)),
        float(relative_standard_error(log_weights)),
        float(largest_share(log_weights)),
    )


def difference_from(estimate: PartitionEstimate, log_z: float) -> Estimate:
    """Return Zhat/Z - 1 with its standard error, Z being exact."""
    ratio = math.exp(estimate.log_z - log_z)
    return Estimate(ratio - 1.0, ratio * estimate.relative_standard_error)


def proven_status(divergence: str, policy: str, baseline: str) -> Status:
    """State what is proven about the expected on-policy gradient, one update a batch.

    Source: finding F5 of the mathematics of this project; each statement is enumerated in the toy.

    Parameters
    ----------
    divergence, policy, baseline
        Keys of `fdpg_ref.DIVERGENCES`, of `lm.config.PartitionPolicy` and of
        `lm.config.BaselineKind`.

    Returns
    -------
    Status
        The verdict, the factor of a proportional gradient, and one sentence why.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"unknown divergence {divergence!r}")
    if policy == "exact":
        return Status("unbiased", None, "Z is exact and the baseline is independent of the sample")
    if policy in {"frozen", "past_only"}:
        return _status_of_independent(divergence, policy)
    if policy == "leave_one_out":
        return _status_of_leave_one_out(divergence, baseline)
    return _status_of_same_batch(divergence, baseline)


def _status_of_independent(divergence: str, policy: str) -> Status:
    source = "the offline estimate" if policy == "frozen" else "the mean of past batches"
    if divergence == "reverse_kl":
        return Status("unbiased", None, f"{source} of Z shifts the signal by a constant only")
    if divergence in ALPHA:
        power = ALPHA[divergence] - 1.0
        return Status(
            "proportional",
            f"E[(Zhat/Z)^{power:g}]",
            f"{source} of Z rescales every coefficient of this divergence alike",
        )
    size = "not smaller with a larger batch" if policy == "frozen" else "O(1/n)"
    return Status(
        "biased",
        None,
        f"the error of {source} of Z ({size}) tilts this divergence toward another one",
    )


def _status_of_leave_one_out(divergence: str, baseline: str) -> Status:
    if baseline == "leave_one_out":
        return Status(
            "biased",
            None,
            "O(1/n): the other samples' signals hold this sample through their Zhat, so the "
            "leave-one-out baseline is no longer independent of it",
        )
    if divergence == "reverse_kl":
        return Status("unbiased", None, "Zhat of the other samples shifts the signal only")
    if divergence == "pearson_chi2":
        return Status("unbiased", None, "the coefficients are linear in Zhat, and E[Zhat] = Z")
    if divergence in ALPHA:
        power = ALPHA[divergence] - 1.0
        factor = f"E[(Zhat/Z)^{power:g}]"
        return Status("proportional", factor, "Zhat is independent of the sample it rescales")
    return Status("biased", None, "O(1/n): this divergence is not linear in any power of Zhat")


def _status_of_same_batch(divergence: str, baseline: str) -> Status:
    if divergence == "reverse_kl" and baseline == "leave_one_out":
        return Status("unbiased", None, "the shared Zhat cancels in signal minus baseline")
    if divergence == "pearson_chi2" and baseline != "leave_one_out":
        return Status("proportional", "(n-1)/n", "exact for Pearson on samples of the policy")
    return Status("biased", None, "O(1/n): Zhat holds the sample whose signal it enters")
