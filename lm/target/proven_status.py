"""What is proven about a run's gradient, as its whole configuration decides it."""

from __future__ import annotations

from fdpg_ref import find_divergence
from lm.config.run import RunConfig
from lm.target.partition import Status, proven_status


def status_of(config: RunConfig) -> Status:
    """State what is proven about the expected gradient of a run.

    `lm.target.partition.proven_status` speaks of one update a batch and one context, on samples
    that cover policy and target. Importance weights keep its statements for samples of another
    law; what does not is looked at here.

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
    if config.sampling.truncates and not config.off_policy:
        return _status_under_a_cut(config, status)
    weighted = config.off_policy or config.proposal.kind != "policy"
    if weighted and config.partition.policy == "same_batch" and status.verdict == "proportional":
        return Status("biased", None, "O(1/n): Zhat holds the sample whose signal it enters")
    return _status_of_prompts(config, status)


def _status_of_prompts(config: RunConfig, status: Status) -> Status:
    # A factor of n alone is every prompt's.
    if config.prompts.file is None or status.factor in {None, "(n-1)/n"}:
        return status
    return Status(
        "biased",
        None,
        f"{status.reason}, but in each prompt by a factor of its own ({status.factor}): the "
        "prompts' gradients are right in direction, and their weights in the sum are not",
    )


def _status_under_a_cut(config: RunConfig, status: Status) -> Status:
    """Restrict a statement to a policy that sampling.top_k, top_p or min_p cut.

    Where the policy's cut has left the base's, the target has mass that no sample can show.
    """
    from_policy = config.partition.policy in {"past_only", "leave_one_out", "same_batch"}
    if from_policy and find_divergence(config.divergence).z_power is None:
        return Status(
            "biased",
            None,
            "Z is estimated from samples of the policy, whose own sampling.top_k, top_p or min_p "
            "hides the target's mass outside its cut, however many samples there are; an error of "
            "Z tilts this divergence toward another one",
        )
    held = "; the gradient is that with the sets of kept tokens held fixed"
    found = _status_of_prompts(config, status)
    return Status(found.verdict, found.factor, found.reason + held)
