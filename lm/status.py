"""What is proven about a run's gradient, as its whole configuration decides it."""

from __future__ import annotations

from lm.config import RunConfig
from lm.partition import Status, proven_status


def status_of(config: RunConfig) -> Status:
    """State what is proven about the expected gradient of a run.

    `lm.partition.proven_status` speaks of one update a batch on samples that cover the policy.
    Importance weights keep its statements for samples of another law; three things do not.

    Parameters
    ----------
    config
        A resolved configuration.

    Returns
    -------
    Status
        The verdict, the factor of a proportional gradient, and one sentence why.
    """
    if config.off_policy and config.sampling.truncates:
        return Status(
            "biased",
            None,
            "sampling.top_k, top_p or min_p keep the proposal from drawing what the policy can "
            "write: that part of the gradient is missing, however many samples there are",
        )
    if config.updates_per_batch > 1:
        return Status(
            "biased",
            None,
            "after the first update on a batch the policy depends on the samples that it is "
            "updated on again (updates_per_batch is above 1)",
        )
    status = proven_status(config.divergence, config.partition.policy, config.baseline.kind)
    weighted = config.off_policy or config.proposal.kind != "policy"
    if weighted and config.partition.policy == "same_batch" and status.verdict == "proportional":
        return Status("biased", None, "O(1/n): Zhat holds the sample whose signal it enters")
    if config.prompts.file is not None and status.verdict == "proportional":
        reason = f"{status.reason}, in each prompt by a factor of its own"
        return Status("proportional", status.factor, reason)
    return status
