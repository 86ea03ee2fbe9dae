"""What is proven about a run's gradient.

Which law it follows depends on the divergence, on the source of Z and on the baseline together
(mathematics: finding F5, verified by enumerating all batches in the toy), and on the rest of the
configuration.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from fdpg_ref import find_divergence
from lm.config import RunConfig


class Status(NamedTuple):
    """What is proven about the expected gradient of a run."""

    verdict: Literal["unbiased", "proportional", "biased"]
    factor: str | None
    reason: str


def status_of(config: RunConfig) -> Status:
    """State what is proven about the expected gradient of a run.

    `proven_status` speaks of one update a batch and one context, on samples
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
    # What no statement about Z can mend.
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

    # What is proven on-policy, and what remains of it here.
    status = proven_status(config.divergence, config.partition.policy, config.baseline.kind)
    if config.sampling.truncates and not config.off_policy:
        return _status_under_a_cut(config, status)
    weighted = config.off_policy or config.proposal.kind != "policy"
    if weighted and config.partition.policy == "same_batch" and status.verdict == "proportional":
        return Status("biased", None, "O(1/n): Zhat holds the sample whose signal it enters")
    return _status_of_prompts(config, status)


def proven_status(divergence: str, policy: str, baseline: str) -> Status:
    """State what is proven about the expected on-policy gradient, one update a batch.

    Source: finding F5 of the mathematics of this project; each statement is enumerated in the toy.

    Parameters
    ----------
    divergence, policy, baseline
        A name that `fdpg_ref.find_divergence` knows, and keys of `lm.config.PartitionPolicy` and of
        `lm.config.BaselineKind`.

    Returns
    -------
    Status
        The verdict, the factor of a proportional gradient, and one sentence why.
    """
    # None: an error of Z does more than scale the gradient.
    power = find_divergence(divergence).z_power
    if policy == "exact":
        return Status("unbiased", None, "Z is exact and the baseline is independent of the sample")
    if policy in {"frozen", "past_only"}:
        return _status_of_independent(power, policy)
    if policy == "leave_one_out":
        return _status_of_leave_one_out(power, baseline)
    return _status_of_same_batch(power, baseline)


def _status_of_independent(power: float | None, policy: str) -> Status:
    source = "the offline estimate" if policy == "frozen" else "the mean of past batches"
    if power == 0:
        return Status("unbiased", None, f"{source} of Z shifts the signal by a constant only")
    if power is not None:
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


def _status_of_leave_one_out(power: float | None, baseline: str) -> Status:
    if baseline == "leave_one_out":
        return Status(
            "biased",
            None,
            "O(1/n): the other samples' signals hold this sample through their Zhat, so the "
            "leave-one-out baseline is no longer independent of it",
        )
    if power == 0:
        return Status("unbiased", None, "Zhat of the other samples shifts the signal only")
    if power == 1:
        return Status("unbiased", None, "the coefficients are linear in Zhat, and E[Zhat] = Z")
    if power is not None:
        factor = f"E[(Zhat/Z)^{power:g}]"
        return Status("proportional", factor, "Zhat is independent of the sample it rescales")
    return Status("biased", None, "O(1/n): this divergence is not linear in any power of Zhat")


def _status_of_same_batch(power: float | None, baseline: str) -> Status:
    if power == 0 and baseline == "leave_one_out":
        return Status("unbiased", None, "the shared Zhat cancels in signal minus baseline")
    if power == 1 and baseline != "leave_one_out":
        return Status("proportional", "(n-1)/n", "exact for Pearson on samples of the policy")
    return Status("biased", None, "O(1/n): Zhat holds the sample whose signal it enters")


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
