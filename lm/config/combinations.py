"""Which parts of a configuration exclude one another, each with its reason. Needs no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fdpg_ref import DIVERGENCES, InfiniteDivergence, find_divergence
from lm.config.validation import require
from lm.features.registry import check_feature, lives_on_list

if TYPE_CHECKING:
    from lm.config.run import RunConfig


def check_combinations(config: RunConfig) -> None:
    """Refuse a meaningless combination of otherwise valid keys.

    Parameters
    ----------
    config
        A configuration whose keys are valid one by one.

    Raises
    ------
    ValueError
        The message names the keys, their values, the reason and what to do.
    InfiniteDivergence
        The divergence has an infinite slope and the target has holes.
    """
    _check_folder(config)
    _check_holes(config)
    _check_reward(config)
    _check_prompts(config)
    _check_transform(config)
    _check_estimator(config)
    _check_coverage(config)


def _check_coverage(config: RunConfig) -> None:
    name = config.evaluation.coverage
    if name is None:
        return
    check_feature(name)
    require(
        lives_on_list(name) and not config.prompts.given,
        f"evaluation.coverage counts listed names, but {name!r} is not a feature of these, or "
        "there are prompts: name one that lives on the list, without prompts",
    )


def _check_folder(config: RunConfig) -> None:
    require(
        not (config.resume and config.overwrite),
        "resume continues a run and overwrite starts it anew: choose one",
    )


def _check_holes(config: RunConfig) -> None:
    if math.isfinite(find_divergence(config.divergence).slope_at_infinity):
        return
    finite = sorted(k for k, v in DIVERGENCES.items() if math.isfinite(v.slope_at_infinity))
    if config.target.kind == "constrained":
        raise InfiniteDivergence(
            f"{config.divergence} to a hard constraint is infinite: a language model keeps some "
            "probability on everything, also where this target has none. Soften the constraint "
            "(target.kind exponential_family with a moment of 0.95, say) or choose a "
            f"divergence that stays finite there: {', '.join(finite)}"
        )
    if config.sampling.truncates and not config.off_policy:
        raise InfiniteDivergence(
            f"{config.divergence} is infinite where sampling.top_k, top_p or min_p cut the base: "
            "the target has no mass there, but the policy's own cut moves and can let such a text "
            "through. Use sampling.temperature alone, or off_policy true (the cut then only shapes "
            f"the proposal), or a divergence that stays finite there: {', '.join(finite)}"
        )


def _check_reward(config: RunConfig) -> None:
    """Refuse what plain reward maximisation cannot be."""
    if config.measure is not None:
        require(
            config.measure.kind != "reward",
            "measure.kind reward is no distribution, so nothing can be measured against it: name "
            "another kind",
        )
    if config.target.kind != "reward":
        return

    require(
        config.measure is not None,
        "target.kind reward has no penalty and hence no target: say in measure which distribution "
        "the policy is measured against",
    )
    require(
        config.divergence == "reverse_kl",
        "target.kind reward maximises E[reward], which is reverse KL to the policy's own tilt, "
        f"but divergence is {config.divergence}: set divergence reverse_kl, or a target with a "
        "penalty (target.kind reward_tilted)",
    )
    stale = config.updates_per_batch > 1 or config.proposal.kind != "policy" or config.off_policy
    require(
        not stale and config.partition.policy in {"auto", "exact"},
        "target.kind reward is on-policy, with one update per batch and nothing to estimate: "
        "remove updates_per_batch, proposal, off_policy and partition.policy",
    )


def _check_prompts(config: RunConfig) -> None:
    contexts = config.contexts
    require(
        config.partition.policy != "column"
        or (config.prompts.file is not None and not config.target.is_normalised),
        "partition.policy column takes log Z of each prompt from a column of prompts.file, but "
        + ("there is none" if config.prompts.file is None else "this target has Z = 1")
        + ": name a file that python -m lm partition wrote, or remove partition.policy",
    )
    require(
        config.batch_size % contexts == 0,
        f"batch_size is {config.batch_size}, which {contexts} prompts (prompts.per_step) do not "
        "divide: every prompt gets the same number of samples",
    )
    if not config.prompts.given:
        return

    require(
        config.target.kind != "exponential_family" or config.prompts.text is not None,
        "target.kind exponential_family fits moments over all texts, but with prompts.file every "
        "prompt has a target of its own: use target.kind reward_tilted or constrained, or one "
        "prompt as prompts.text",
    )
    require(
        config.partition.policy != "exact" or config.target.is_normalised,
        "partition.policy exact sums over the listed names, which continue no prompt: with "
        "prompts.file choose partition.policy frozen, column, past_only or leave_one_out",
    )
    peers = "leave_one_out" in {config.baseline.kind, config.partition.policy}
    require(
        not (peers or config.partition.policy == "same_batch") or config.samples_per_context > 1,
        f"batch_size {config.batch_size} over {contexts} prompts leaves one sample per prompt, but "
        "leave_one_out and same_batch compare the samples of a prompt: give at least two",
    )


def _check_transform(config: RunConfig) -> None:
    require(
        not (config.off_policy and config.sampling.is_identity),
        "off_policy is for a sampling transform, but sampling is the identity: set "
        "sampling.temperature, top_k, top_p or min_p, or remove off_policy",
    )
    stale = config.updates_per_batch > 1 or config.proposal.kind != "policy"
    require(
        not (config.sampling.truncates and not config.off_policy and stale),
        "sampling.top_k, top_p and min_p cut the policy itself, and the cut moves with it: a "
        "sample drawn earlier can become impossible. With updates_per_batch above 1 or "
        "proposal.kind kl_adaptive use sampling.temperature alone, or off_policy true",
    )
    require(
        not (config.sampling.truncates and not config.off_policy and config.halves),
        f"sampling.top_k, top_p and min_p cut the policy itself, and precision {config.precision} "
        "rounds sampler and scorer differently: at the edge of the cut one keeps a token that the "
        "other drops, and a sample becomes impossible. Use precision float32, sampling.temperature "
        "alone, or off_policy true (the cut then only shapes the proposal)",
    )


def _check_estimator(config: RunConfig) -> None:
    require(
        config.partition.policy != "exact" or config.target.on_list or config.target.is_normalised,
        "partition.policy exact needs features that live on the listed names, but the target "
        f"uses {', '.join(config.target.features)}: choose partition.policy frozen",
    )
    require(
        config.optimizer.warmup_steps <= config.steps,
        f"optimizer.warmup_steps is {config.optimizer.warmup_steps}, more than steps = "
        f"{config.steps}: the learning rate would never be reached",
    )
    micro = config.micro_batch_size
    require(
        micro is None or micro <= config.batch_size,
        f"micro_batch_size is {micro}, more than batch_size = {config.batch_size}: leave it out "
        "to score the whole batch at once",
    )
