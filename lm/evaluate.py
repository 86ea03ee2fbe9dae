"""Measure a policy against its target: exact sums over the list beside sampled estimates."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lm.checks import check_log_prob
from lm.config import EvaluationConfig
from lm.metrics import bound_warnings
from lm.partition import SHARE_TO_WARN
from lm.policy import CausalPolicy
from lm.problem import EVALUATION, EVALUATION_BASE, Problem, Reading, random_stream
from lm.quantities import (
    Estimates,
    Evidence,
    Points,
    base_distance_entries,
    divergence_entries,
    diversity_entries,
    entropy_entries,
    feature_entries,
    weight_entries,
)
from lm.records import FOUR
from lm.sampling import Samples, wide_log_softmax

CHUNK_ROWS = 256


class Evaluation(NamedTuple):
    """One measurement: the record for metrics.jsonl, and the texts of its samples."""

    record: dict[str, Any]
    texts: list[str]


class Evaluator:
    """Measures the policies of one run.

    Its base samples are drawn once and serve every evaluation: a run's curves then carry the same
    error everywhere instead of jumping, and a base sample costs one scoring and no sampling.

    Parameters
    ----------
    problem
        Base, target and list.
    config
        How many samples.
    divergence
        Key of the divergence that is trained; measured beside the usual four.
    seed
        Seed of the run.
    """

    def __init__(
        self, problem: Problem, config: EvaluationConfig, *, divergence: str, seed: int
    ) -> None:
        self.problem = problem
        self.config = config
        self.seed = seed
        self.divergences = tuple(dict.fromkeys((*FOUR, divergence)))
        generator = random_stream(seed, EVALUATION_BASE)
        self._base_samples = problem.base.sample(config.samples, generator=generator)
        self._base_reading = problem.read(self._base_samples)

    @torch.no_grad()
    def measure(self, policy: CausalPolicy, *, step: int, samples: int) -> Evaluation:
        """Evaluate a policy.

        Parameters
        ----------
        policy
            The policy as it is after ``step`` steps.
        step, samples
            Written to the record: steps done and training samples drawn so far.

        Returns
        -------
        Evaluation
            Its record has the scheme of `lm.records`.

        Raises
        ------
        RunError
            A log-probability is not finite; the text is named.
        ArithmeticError
            An exact divergence left its bounds.
        """
        generator = random_stream(self.seed, EVALUATION, step)
        drawn = policy.sample(self.config.samples, generator=generator)
        reading = self.problem.read(drawn)
        evidence = self._gather(policy, drawn, reading)
        estimates: Estimates = {
            **feature_entries(self.problem, evidence),
            **divergence_entries(self.problem, evidence, self.divergences),
            **base_distance_entries(self.problem, evidence),
            **entropy_entries(evidence, policy.vocabulary_size),
            **diversity_entries(evidence, self.config.group),
            **weight_entries(self.problem, evidence),
        }
        record = {
            "kind": "evaluation",
            "step": step,
            "samples": samples,
            "estimates": estimates,
            "warnings": bound_warnings(estimates) + _share_warnings(estimates),
        }
        return Evaluation(record, reading.texts)

    def _gather(self, policy: CausalPolicy, drawn: Samples, reading: Reading) -> Evidence:
        problem, base = self.problem, self._base_samples
        log_base, prefix_kl, prefix_entropy = prefix_sums(policy, problem.base, drawn)
        check_log_prob("policy", drawn.log_prob, reading.texts)
        base_log_policy = policy.log_prob(base.tokens, base.mask)
        check_log_prob("policy", base_log_policy, self._base_reading.texts)
        rows, lengths = drawn.tokens.tolist(), drawn.mask.sum(-1).tolist()
        everything = torch.ones(len(problem.list_log_base), dtype=torch.bool)
        return Evidence(
            on_list=self._points(
                problem.support.log_prob(policy),
                problem.list_log_base,
                problem.list_features,
                everything,
            ),
            from_base=self._points(
                base_log_policy,
                base.log_prob,
                self._base_reading.features,
                self._base_reading.listed,
            ),
            from_policy=self._points(drawn.log_prob, log_base, reading.features, reading.listed),
            features=reading.features.double().cpu(),
            sequences=[row[:length] for row, length in zip(rows, lengths, strict=True)],
            prefix_kl=prefix_kl.double().cpu(),
            prefix_entropy=prefix_entropy.double().cpu(),
        )

    def _points(
        self, log_policy: Tensor, log_base: Tensor, features: Tensor, listed: Tensor
    ) -> Points:
        log_policy, log_base = log_policy.double().cpu(), log_base.double().cpu()
        log_score = self.problem.target.log_score(log_base, features.cpu())
        mixture = torch.logaddexp(log_policy, log_base) - math.log(2.0)
        return Points(log_policy, log_base, log_score - self.problem.log_z, mixture, listed.cpu())


def prefix_sums(
    policy: CausalPolicy, base: CausalPolicy, samples: Samples
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log a(x) and two sums over the prefixes of policy samples, from one pass each.

    Given a prefix, KL and entropy of the next token are sums over the vocabulary; only prefixes
    are sampled, so the variance is far below that of log pi - log a (Rao-Blackwell, finding F9).

    Parameters
    ----------
    policy, base
        Models over the same vocabulary.
    samples
        n samples of the policy.

    Returns
    -------
    log_base, kl, entropy : Tensor
        Shape (n,), nats: log a(x); sum over positions of KL(pi||a) and of the policy's entropy.
    """
    order = torch.argsort(samples.mask.sum(-1), stable=True)
    parts = [
        _prefix_sums(policy, base, samples.tokens[rows], samples.mask[rows])
        for rows in order.split(CHUNK_ROWS)
    ]
    back = torch.argsort(order)
    log_base, kl, entropy = (torch.cat(part)[back] for part in zip(*parts, strict=True))
    return log_base, kl, entropy


def _prefix_sums(
    policy: CausalPolicy, base: CausalPolicy, tokens: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    longest = int(mask.sum(-1).max())
    tokens, mask = tokens[:, :longest], mask[:, :longest]
    start = tokens.new_full((len(tokens), 1), policy.ids.bos_id)
    inputs = torch.cat([start, tokens[:, :-1]], dim=-1)
    log_policy = wide_log_softmax(policy.model(input_ids=inputs, use_cache=False).logits)
    log_base = wide_log_softmax(base.model(input_ids=inputs, use_cache=False).logits)
    chosen = log_base.gather(-1, tokens[..., None]).squeeze(-1)
    kl = (log_policy.exp() * (log_policy - log_base)).sum(-1)
    entropy = torch.special.entr(log_policy.exp()).sum(-1)
    return (
        chosen.where(mask, 0.0).sum(-1),
        kl.where(mask, 0.0).sum(-1),
        entropy.where(mask, 0.0).sum(-1),
    )


def _share_warnings(estimates: Estimates) -> list[str]:
    shares = estimates.get("largest_share", {})
    share = float(shares["sampled"]["value"] or 0.0) if shares else 1.0
    if share <= SHARE_TO_WARN:
        return []
    return [
        f"one sample makes up {share:.0%} of the sampled Zhat (warning above {SHARE_TO_WARN:.0%}): "
        "estimates that divide by it rest on that sample"
    ]
