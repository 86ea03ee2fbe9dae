"""Measure a policy against its target: exact sums where there is a list, estimates elsewhere."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from fdpg_ref import Estimate
from lm.config import EvaluationConfig, RunConfig
from lm.device.streams import EVALUATION, EVALUATION_BASE, TEACHER, random_stream
from lm.evaluation.coverage import coverage_entries
from lm.evaluation.diversity import diversity_entries
from lm.evaluation.entries import Estimates, bound_warnings, share_warnings
from lm.evaluation.estimates import (
    base_distance_entries,
    divergence_entries,
    entropy_entries,
    feature_entries,
    kept_mass_entries,
    weight_entries,
)
from lm.evaluation.evidence import Evidence, Points, prefix_sums
from lm.evaluation.statistics import sample_mean
from lm.evaluation.target_samples import TargetSamples, draw_target_samples, score_samples
from lm.evaluation.two_sides import TargetSide, two_sided_entries
from lm.features.registry import feature_values
from lm.phases import phase
from lm.policy.checks import check_log_prob, check_longest
from lm.policy.drawing import draw
from lm.policy.protocol import Policy
from lm.policy.samples import Samples
from lm.report.sides import disagreement
from lm.run.records import FOUR, PROMPT_MARK, one_line
from lm.target.decoded import Reading
from lm.target.problem import Problem


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
    target_samples
        Samples of the target; drawn here if not given.
    """

    def __init__(
        self,
        problem: Problem,
        config: EvaluationConfig,
        *,
        divergence: str,
        seed: int,
        target_samples: TargetSamples | None = None,
    ) -> None:
        self.problem = problem
        self.config = config
        self.seed = seed
        self.divergences = tuple(dict.fromkeys((*FOUR, divergence)))
        self.contexts = problem.evaluated
        self.per_context = config.sizes.samples // len(self.contexts)
        self._prompts = None if problem.prompts is None else problem.prompts.rows(self.contexts)
        with phase("drawing base samples for the evaluations"):
            self._base_samples = self._draw(problem.base, random_stream(seed, EVALUATION_BASE))
            self._base_reading = problem.read(self._base_samples)
        self.target_samples = target_samples or draw_target_samples(problem, config)
        self._teacher_entropy = self._entropy_of_teacher()

    @classmethod
    def of_run(cls, config: RunConfig, problem: Problem, target_samples: TargetSamples) -> Self:
        """Return what measures a run as its configuration says."""
        return cls(
            problem,
            config.evaluation,
            divergence=config.divergence,
            seed=config.seed,
            target_samples=target_samples,
        )

    @phase("measuring the policy")
    @torch.no_grad()
    def measure(self, policy: Policy, *, step: int, samples: int) -> Evaluation:
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
        # Draw, and gather what the estimates need.
        drawn = self._draw(policy, random_stream(self.seed, EVALUATION, step))
        reading = self.problem.read(drawn)
        evidence = self._gather(policy, drawn, reading)

        # Estimate.
        estimates: Estimates = {
            **feature_entries(self.problem, evidence),
            **divergence_entries(self.problem, evidence, self.divergences),
            **base_distance_entries(self.problem, evidence),
            **entropy_entries(evidence, policy.vocabulary_size, self._teacher_entropy),
            **diversity_entries(evidence, self.config.sizes.group),
            **weight_entries(self.problem, evidence),
            **kept_mass_entries(evidence),
            **self._coverage(evidence, reading),
        }

        sides = two_sided_entries(evidence, self._target_side(policy), self.divergences)
        for quantity, entries in sides.items():
            estimates.setdefault(quantity, {}).update(entries)

        # Write down.
        warnings = bound_warnings(estimates) + share_warnings(estimates)
        record: dict[str, Any] = {
            "kind": "evaluation",
            "step": step,
            "samples": samples,
            "contexts": len(self.contexts) if self.problem.prompts is not None else 0,
            "target_samples": self.target_samples.describe(),
            "estimates": estimates,
            "warnings": warnings + (self.problem.warnings() if step == 0 else []),
        }
        if (sentence := disagreement(record)) is not None:
            record["warnings"].append(sentence)
        return Evaluation(record, self._texts(reading))

    @torch.no_grad()
    def _entropy_of_teacher(self) -> Estimate | None:
        """Return the entropy of a target that is a model, along prefixes of its own samples."""
        teacher = self.problem.target.teacher
        if teacher is None:
            return None
        with phase("drawing samples of the teacher"):
            drawn = self._draw(teacher, random_stream(self.seed, TEACHER))
            _, _, entropy = prefix_sums(teacher, teacher, drawn)
        return sample_mean(self._by_context(entropy))

    def _draw(self, policy: Policy, generator: torch.Generator) -> Samples:
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

    def _gather(self, policy: Policy, drawn: Samples, reading: Reading) -> Evidence:
        problem, base, base_reading = self.problem, self._base_samples, self._base_reading
        log_base, prefix_kl, prefix_entropy = prefix_sums(policy, problem.base, drawn)
        check_log_prob("policy", drawn.log_prob, reading.texts)
        check_longest(policy, drawn, reading.texts)
        base_log_policy = score_samples(policy, base)
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

    def _target_side(self, policy: Policy) -> TargetSide | None:
        contexts, samples, *_ = self.target_samples
        if samples is None:
            return None
        problem, shape = self.problem, (len(contexts), -1)
        log_policy, reading = score_samples(policy, samples), problem.read(samples)
        holes = policy.transform.truncates
        check_log_prob("policy", log_policy, reading.texts, holes=holes)

        # Every context's own Z normalises its samples.
        log_score = problem.log_score(samples.log_prob, reading).double().cpu().reshape(shape)
        points = Points.mixed(
            log_policy.double().cpu().reshape(shape),
            samples.log_prob.double().cpu().reshape(shape),
            log_score - problem.log_z[contexts][:, None],
            reading.listed.cpu().reshape(shape),
        )
        rows = torch.searchsorted(self.contexts, contexts)
        return TargetSide(rows, points, self._log_z_error())

    def _log_z_error(self) -> float:
        """Return the error of a single context's log Z; that of several is in their spread."""
        offline, stated = self.problem.offline, self.problem.stated
        if stated is not None and len(self.contexts) == 1:
            return 0.0 if stated.errors is None else float(stated.errors[self.contexts[0]])
        if self.problem.target.log_z is not None or offline is None or len(self.contexts) > 1:
            return 0.0
        place = offline.contexts.tolist().index(int(self.contexts[0]))
        return float(offline.estimate.relative_standard_error[place])

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

    def _list_points(self, policy: Policy) -> Points | None:
        listing = self.problem.listing
        if listing is None:
            return None
        log_policy, log_base = listing.support.log_prob(policy), listing.log_base
        log_target = self.problem.list_log_score - self.problem.log_z
        return Points.mixed(log_policy, log_base, log_target, listing.reading.listed)
