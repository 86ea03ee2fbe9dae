"""What is proven about a run's gradient.

Which law it follows depends on the divergence, on the source of Z and on the baseline together
(mathematics: finding F5, verified by enumerating all batches in the toy), and on the rest of the
configuration.

Every statement is about one step given the past: its weights, and what earlier batches or base
samples left behind, such as a running baseline or the mean of past Zhat.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from fdpg_ref import TOTAL_VARIATION, find_divergence
from lm.config import RunConfig


class Status(NamedTuple):
    """What is proven about the expected gradient of a step, given the past."""

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
        past = ", given the past batches that it is the mean of" if baseline == "running" else ""
        reason = f"Z is exact and the baseline is independent of the sample{past}"
        return Status("unbiased", None, reason)

    # The signal of total variation is a sign: smooth laws of a small error do not hold of it.
    jumps = find_divergence(divergence) is TOTAL_VARIATION
    if policy in {"column", "frozen", "past_only"}:
        return _status_of_independent(power, policy, jumps=jumps)
    if policy == "leave_one_out":
        status = _status_of_leave_one_out(power, baseline)
    else:
        status = _status_of_same_batch(power, baseline)
    if jumps:
        reason = (
            "where Zhat carries a ratio across 1, the signal of this divergence jumps; the bias "
            "falls with the batch size n, but not as O(1/n)"
        )
        return status._replace(reason=reason)
    return status


def _status_of_independent(power: float | None, policy: str, *, jumps: bool) -> Status:
    sources = {"column": "the column's estimate", "frozen": "the offline estimate"}
    source = sources.get(policy, "the mean of past batches")
    if power == 0:
        return Status("unbiased", None, f"{source} of Z shifts the signal by a constant only")
    if power is not None:
        return Status(
            "proportional",
            f"(Zhat/Z)^{power:g}",
            f"given the past, {source} of Z rescales every coefficient of this divergence alike",
        )
    effect = "tilts this divergence toward another one"
    if jumps:
        effect = "tilts the gradient where it carries a ratio across 1, and nowhere else"
    return Status(
        "biased",
        None,
        f"the error of {source} of Z, which a larger batch of this step does not lessen, {effect}",
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
    if not config.prompts.given or status.factor in {None, "(n-1)/n"}:
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
