"""All that a step may have descended on the tiny problem, each with its exact gradient in float64.

Autograd of the definitions, over all completions: no sample and no estimator is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fdpg_ref as core
from fdpg_ref.display import title_of
from lm.conformance.problem import BODIES, TinyProblem, log_laws, sequence_log_probs

TO_TARGET, TO_BASE = "to the target", "to the base"
REWARD = "minus the expected reward"
SCALED_REWARD = "minus the expected reward over its standard deviation on each prompt"
# A penalty on the law of each token that leaves out how the token moves those after it.
TOKEN_FORWARD = "forward KL to the base, token by token on prefixes taken as given"
TOKEN_REVERSE = "reverse KL to the base, token by token on prefixes taken as given"


class Tokens(NamedTuple):
    """Divergences of the laws of single tokens, summed over the prefixes that the policy writes.

    Attributes
    ----------
    forward, reverse
        Scalars: KL(base‖policy) and KL(policy‖base). The law of the prefixes is held fixed.
    """

    forward: Tensor
    reverse: Tensor


class Laws(NamedTuple):
    """A prompt's exact log-probabilities.

    Attributes
    ----------
    policy, base, target
        Shape (completions,), in nats.
    rewards
        Shape (completions,).
    tokens
        Of single tokens, beside the base.
    """

    policy: Tensor
    base: Tensor
    target: Tensor
    rewards: Tensor
    tokens: Tokens


def named(divergence: str, other: str) -> str:
    """Return what a divergence to the target or to the base is called here."""
    return f"{title_of(divergence) if divergence in core.DIVERGENCES else divergence} {other}"


def is_infinite(problem: TinyProblem, divergence: core.FDivergence) -> bool:
    """Return whether a divergence to the target is infinite: it excludes what the policy says."""
    excludes = bool((problem.log_score == -torch.inf).any())
    return excludes and divergence.slope_at_infinity == float("inf")


def candidates(problem: TinyProblem, divergence: str) -> Mapping[str, Tensor]:
    """Return the gradient of everything that is recognised, flat, by its name in words.

    Parameters
    ----------
    problem
        Where.
    divergence
        What was asked for, which may be an alpha beside the named ones.
    """
    model: Any = problem.policy()
    every = _laws_of(problem, model)
    weights = list(model.parameters())

    def gradient(value: Callable[[Laws], Tensor]) -> Tensor:
        mean = torch.stack([value(laws) for laws in every]).mean()
        parts = torch.autograd.grad(mean, weights, retain_graph=True)
        return torch.cat([one.flatten() for one in parts]).double()

    # Divergences to both laws; infinite ones have no gradient.
    found: dict[str, Tensor] = {}
    for other in (TO_TARGET, TO_BASE):
        for name in dict.fromkeys([divergence, *core.DIVERGENCES]):
            record = core.find_divergence(name)
            if other == TO_BASE or not is_infinite(problem, record):
                found[named(name, other)] = gradient(_divergence(record, other))

    # What reinforcement learning descends besides.
    found[REWARD] = gradient(lambda laws: -(laws.policy.exp() * laws.rewards).sum())
    found[SCALED_REWARD] = gradient(_scaled_reward)
    found[TOKEN_FORWARD] = gradient(lambda laws: laws.tokens.forward)
    found[TOKEN_REVERSE] = gradient(lambda laws: laws.tokens.reverse)
    return found


def _divergence(record: core.FDivergence, other: str) -> Callable[[Laws], Tensor]:
    def value(laws: Laws) -> Tensor:
        second = laws.target if other == TO_TARGET else laws.base
        return core.exact_divergence(laws.policy, second, divergence=record)

    return value


def _scaled_reward(laws: Laws) -> Tensor:
    probs = laws.policy.exp()
    mean = (probs * laws.rewards).sum()
    return -mean / ((probs * (laws.rewards - mean) ** 2).sum().sqrt()).detach()


def _laws_of(problem: TinyProblem, model: Any) -> list[Laws]:
    log_score, rewards = problem.log_score, problem.rewards
    with torch.no_grad():
        of_base = log_laws(problem.base())
    found = []
    for row, (policy, base) in enumerate(zip(log_laws(model), of_base, strict=True)):
        found.append(
            Laws(
                policy=sequence_log_probs(*policy),
                base=sequence_log_probs(*base),
                target=log_score[row] - torch.logsumexp(log_score[row], 0),
                rewards=rewards[row],
                tokens=_by_token(policy, base),
            )
        )
    return found


def _by_token(policy: tuple[Tensor, Tensor], base: tuple[Tensor, Tensor]) -> Tokens:
    # The first token's law is always met, and that after a letter as often as the letter comes.
    met = (torch.ones(1, dtype=policy[0].dtype), policy[0].detach().exp()[BODIES])
    forward = reverse = torch.zeros((), dtype=policy[0].dtype)
    for weights, of_policy, of_base in zip(met, policy, base, strict=True):
        log_ratio = of_policy - of_base
        forward = forward - weights @ (of_base.exp() * log_ratio).sum(-1).reshape(-1)
        reverse = reverse + weights @ (of_policy.exp() * log_ratio).sum(-1).reshape(-1)
    return Tokens(forward, reverse)
