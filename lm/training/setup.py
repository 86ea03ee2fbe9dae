"""What a run starts from: base and policy, as its configuration states them."""

from __future__ import annotations

from dataclasses import replace

from lm.config import RunConfig, resolve
from lm.device.amp import Amp
from lm.errors import RunError
from lm.models.activations import enable_activation_checkpointing
from lm.policy.load import load_policy
from lm.policy.protocol import Policy
from lm.training.base import train_base

# Recorded as the model of a run whose base came from Python: nothing can load it again.
PASSED = "(passed as train(base=...))"


def resolve_with(config: RunConfig, base: Policy | None) -> RunConfig:
    """Resolve a configuration, for a run with a base of its own if there is one.

    Raises
    ------
    RunError
        The configuration describes another base than the one that is passed.
    """
    if base is None:
        return resolve(config)
    if config.model not in {None, PASSED}:
        raise RunError(f"train(base=...) and model {config.model} are two bases: give one")
    if config.max_new_tokens not in {None, base.max_new_tokens}:
        raise RunError(
            f"max_new_tokens is {config.max_new_tokens}, but the base that is passed has "
            f"{base.max_new_tokens}: set it there"
        )
    if not base.transform.is_identity and base.transform != config.sampling:
        raise RunError(
            f"the base that is passed has the transform {base.transform}, the configuration "
            f"{config.sampling}: leave it to the configuration"
        )
    return resolve(replace(config, model=PASSED))


def load_base(config: RunConfig, *, device: str = "cpu") -> Policy:
    """Load the model that a run starts from, training the project's own base if need be.

    Parameters
    ----------
    config
        Names a model, or describes the base.
    device
        Where the weights go.

    Returns
    -------
    Policy
        Frozen, in the dtype that the precision trains in, with the run's sampling transform.

    Raises
    ------
    RunError
        The run's base was passed from Python, so that there is nothing to load.
    """
    if config.model == PASSED:
        raise RunError(
            "the base of this run was passed as train(base=...): it is in no folder, so only the "
            "program that made it can measure or continue the run"
        )
    model = config.model or train_base(config.base)
    return load_policy(
        model,
        max_new_tokens=config.max_new_tokens,
        dtype=Amp(config.precision, device).weights_dtype,
        device=device,
        transform=config.law,
    )


def adopt_base(config: RunConfig, base: Policy, *, device: str) -> Policy:
    """Return a frozen copy of a base that was passed, as `load_base` would have loaded it."""
    base = base.frozen_copy().with_transform(config.law)
    base.scorer.to(device=device, dtype=Amp(config.precision, device).weights_dtype)
    if fault := base.fault():
        raise RunError(f"train(base=...) with {type(base.model).__name__} is refused: {fault}")
    return base


def build_policy(config: RunConfig, base: Policy) -> tuple[Policy, Policy]:
    """Return the policy to train and its base: with an adapter they share their weights.

    Parameters
    ----------
    config
        Of the run.
    base
        Frozen.

    Returns
    -------
    policy, base : Policy
        KL(policy, base) = 0.
    """
    if config.lora.rank > 0:
        from lm.policy.lora import adapter_off, add_lora  # noqa: PLC0415  # importing peft costs a second

        policy = add_lora(base, config.lora, config.seed)
        base = adapter_off(policy)
    else:
        policy = base.trainable_copy()
    for scoring in (policy, base):
        scoring.score_in_chunks(config.score_chunk)
    if config.activation_checkpointing:
        enable_activation_checkpointing(policy.model)
    return policy, base
