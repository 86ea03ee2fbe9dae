"""Measure a policy against its target: exact sums where there is a list, estimates elsewhere."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm.config.run import EvaluationConfig
from lm.evaluation.metrics import bound_warnings
from lm.evaluation.quantities import (
    Estimates,
    Evidence,
    Points,
    base_distance_entries,
    coverage_entries,
    divergence_entries,
    diversity_entries,
    entropy_entries,
    feature_entries,
    kept_mass_entries,
    weight_entries,
)
from lm.features.registry import feature_values
from lm.policy.causal import CausalPolicy
from lm.policy.checks import check_log_prob
from lm.policy.drawing import draw, rows_in_memory
from lm.policy.law import check_longest
from lm.policy.sampling import Samples
from lm.run.records import FOUR, PROMPT_MARK, one_line
from lm.target.partition import SHARE_TO_WARN
from lm.target.problem import EVALUATION, EVALUATION_BASE, Problem, Reading, random_stream

# Laws of next tokens held at once, two models and their intermediate values: 256 MiB each.
LAW_ELEMENTS = 2**26
# More rows than this at once gain nothing.
CHUNK_ROWS = 256


class Evaluation(NamedTuple):
    """One measurement: the record for metrics.jsonl, and the texts of its samples."""

    record: dict[str, Any]
    texts: list[str]


class Evaluator:
    """Measures the policies of one run.

    Its base samples are drawn once and serve every evaluation: a run's curves then carry the same
    error everywhere instead of jumping, and a base sample costs one scoring and no sampling. With
    prompts, the same contexts are looked at every time, with equally many samples each.

    Parameters
    ----------
    problem
        Base, target, contexts and list.
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
        self.contexts = problem.evaluated
        self.per_context = config.samples // len(self.contexts)
        self._prompts = None if problem.prompts is None else problem.prompts.rows(self.contexts)
        self._base_samples = self._draw(problem.base, random_stream(seed, EVALUATION_BASE))
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
            Its record has the scheme of `lm.run.records`. Its texts are single lines and visit the
            contexts in turn.

        Raises
        ------
        RunError
            A log-probability is not finite; the text is named.
        ArithmeticError
            An exact divergence left its bounds.
        """
        drawn = self._draw(policy, random_stream(self.seed, EVALUATION, step))
        reading = self.problem.read(drawn)
        evidence = self._gather(policy, drawn, reading)
        estimates: Estimates = {
            **feature_entries(self.problem, evidence),
            **divergence_entries(self.problem, evidence, self.divergences),
            **base_distance_entries(self.problem, evidence),
            **entropy_entries(evidence, policy.vocabulary_size),
            **diversity_entries(evidence, self.config.group),
            **weight_entries(self.problem, evidence),
            **kept_mass_entries(evidence),
            **self._coverage(evidence, reading),
        }
        warnings = bound_warnings(estimates) + _share_warnings(estimates)
        record = {
            "kind": "evaluation",
            "step": step,
            "samples": samples,
            "contexts": len(self.contexts) if self.problem.prompts is not None else 0,
            "estimates": estimates,
            "warnings": warnings + (self.problem.warnings() if step == 0 else []),
        }
        return Evaluation(record, self._texts(reading))

    def _draw(self, policy: CausalPolicy, generator: torch.Generator) -> Samples:
        return draw(policy, self.per_context, generator=generator, prompts=self._prompts)

    def _texts(self, reading: Reading) -> list[str]:
        if self.problem.prompts is None:
            return [one_line(text) for text in reading.texts]
        starts = range(0, len(reading.texts), self.per_context)
        rows = [start + i for i in range(self.per_context) for start in starts]
        return [
            one_line(f"{reading.prompts[row]}{PROMPT_MARK}{reading.completions[row]}")
            for row in rows
        ]

    def _gather(self, policy: CausalPolicy, drawn: Samples, reading: Reading) -> Evidence:
        problem, base, base_reading = self.problem, self._base_samples, self._base_reading
        log_base, prefix_kl, prefix_entropy = prefix_sums(policy, problem.base, drawn)
        check_log_prob("policy", drawn.log_prob, reading.texts)
        check_longest(policy, drawn, reading.texts)
        base_log_policy = _score(policy, base)
        holes = policy.transform.truncates
        check_log_prob("policy", base_log_policy, base_reading.texts, holes=holes)
        rows, lengths = drawn.tokens.tolist(), drawn.mask.sum(-1).tolist()
        kept = drawn.log_kept_mass
        return Evidence(
            on_list=self._list_points(policy),
            from_base=self._points(base_log_policy, base.log_prob, base_reading),
            from_policy=self._points(drawn.log_prob, log_base, reading),
            features=self._by_context(reading.features),
            sequences=[row[:length] for row, length in zip(rows, lengths, strict=True)],
            prefix_kl=self._by_context(prefix_kl),
            prefix_entropy=self._by_context(prefix_entropy),
            log_kept_mass=None if kept is None else self._by_context(kept),
        )

    def _coverage(self, evidence: Evidence, reading: Reading) -> Estimates:
        config, listing = self.config, self.problem.listing
        if config.coverage is None or listing is None:
            return {}
        names = listing.support.names
        chosen = np.flatnonzero(feature_values((config.coverage,), names)[:, 0])
        seen = Counter(reading.texts)
        counts = torch.tensor([seen[names[row]] for row in chosen], dtype=torch.float64)
        assert evidence.on_list is not None
        log_policy = evidence.on_list.log_policy[torch.from_numpy(chosen)]
        return coverage_entries(log_policy, counts, len(reading.texts), config.coverage_at)

    def _by_context(self, values: Tensor) -> Tensor:
        values = values.double().cpu()
        return values.reshape(len(self.contexts), self.per_context, *values.shape[1:])

    def _points(self, log_policy: Tensor, log_base: Tensor, reading: Reading) -> Points:
        log_score = self._by_context(self.problem.log_score(log_base, reading))
        log_policy, log_base = self._by_context(log_policy), self._by_context(log_base)
        log_target = log_score - self.problem.log_z[self.contexts][:, None]
        listed = reading.listed.cpu().reshape(log_score.shape)
        return Points.mixed(log_policy, log_base, log_target, listed)

    def _list_points(self, policy: CausalPolicy) -> Points | None:
        listing = self.problem.listing
        if listing is None:
            return None
        log_policy, log_base = listing.support.log_prob(policy), listing.log_base
        log_target = self.problem.list_log_score - self.problem.log_z
        return Points.mixed(log_policy, log_base, log_target, listing.reading.listed)


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
        Where the base's transform cuts off what the policy's keeps, the KL is infinite.
    """
    lengths = samples.mask.sum(-1)
    order = torch.argsort(lengths, stable=True)
    parts = []
    for rows in order.split(_rows_of_laws(policy, samples)):
        longest = int(lengths[rows].max())
        some = samples.rows(rows)
        some = some._replace(tokens=some.tokens[:, :longest], mask=some.mask[:, :longest])
        parts.append(_prefix_sums(policy.token_log_probs(some), base.token_log_probs(some), some))
    back = torch.argsort(order)
    log_base, kl, entropy = (torch.cat(part)[back] for part in zip(*parts, strict=True))
    return log_base, kl, entropy


def _prefix_sums(
    log_policy: Tensor, log_base: Tensor, samples: Samples
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, mask = samples.tokens, samples.mask
    chosen = log_base.gather(-1, tokens[..., None]).squeeze(-1)
    # 0 log 0 = 0: a token that the policy's transform cuts off costs nothing.
    ratio = (log_policy - log_base).where(log_policy > -torch.inf, 0.0)
    kl = (log_policy.exp() * ratio).sum(-1)
    entropy = torch.special.entr(log_policy.exp()).sum(-1)
    return (
        chosen.where(mask, 0.0).sum(-1),
        kl.where(mask, 0.0).sum(-1),
        entropy.where(mask, 0.0).sum(-1),
    )


def _rows_of_laws(policy: CausalPolicy, samples: Samples) -> int:
    a_row = samples.tokens.shape[1] * policy.vocabulary_size
    return max(1, min(CHUNK_ROWS, LAW_ELEMENTS // a_row))


def _score(policy: CausalPolicy, samples: Samples) -> Tensor:
    length = 1 if samples.prompts is None else samples.prompts.tokens.shape[1]
    blocks = torch.arange(len(samples.tokens)).split(rows_in_memory(policy, length))
    return torch.cat([policy.score(samples.rows(block)) for block in blocks])


def _share_warnings(estimates: Estimates) -> list[str]:
    shares = estimates.get("largest_share", {})
    share = float(shares["sampled"]["value"] or 0.0) if shares else 1.0
    if share <= SHARE_TO_WARN:
        return []
    return [
        f"one sample makes up {share:.0%} of the sampled Zhat (warning above {SHARE_TO_WARN:.0%}): "
        "estimates that divide by it rest on that sample"
    ]
