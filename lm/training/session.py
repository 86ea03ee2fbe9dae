"""What the loop works with, and what happens around its steps: records, measurement, saving."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor

from lm.config import RunConfig
from lm.device.amp import Amp
from lm.device.interrupt import Interrupt
from lm.device.memory import release_freed_memory
from lm.device.processes import agree, fail_together, gather, require_same
from lm.errors import RunInterrupted
from lm.evaluation.evaluate import Evaluator
from lm.phases import Phase
from lm.policy.checks import (
    EDGE_OF_THE_CUT,
    LIKELY_CAUSE,
    check_coefficients,
    check_log_prob,
    check_same_law,
    check_start,
)
from lm.policy.protocol import Policy
from lm.policy.samples import Samples
from lm.run.folder import TEXTS, RunFolder
from lm.run.resume import resume_state, save_state
from lm.run.state import Moving
from lm.run.trackers import Tracker
from lm.target.decoded import Reading
from lm.target.problem import Problem
from lm.training.average import WeightAverage
from lm.training.describe import describe_features, metric_words
from lm.training.sharding import WholeWeights
from lm.training.texts import Texts, draw_texts

# Bytes that a step may leave freed and not given back, so that a small model loses no time.
FREED = 2**30


class StepRecord(NamedTuple):
    """What `lm.train.train` reports while it runs.

    Attributes
    ----------
    step, steps
        Steps done, and steps in all; 0 before the first.
    record
        The step's record; None at step 0.
    evaluation
        The evaluation's record, where one was made after this step.
    texts
        Sample texts, where some are shown after this step.
    """

    step: int
    steps: int
    record: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    texts: Texts | None = None


@dataclass(frozen=True)
class Session:
    """What the loop works with.

    Parameters
    ----------
    config
        A resolved configuration.
    accelerator, amp
        Place and differentiate; cast and scale.
    problem
        Base and target.
    policy
        Trained in place.
    weights
        Lends the policy with whole weights, to sample from and to measure.
    average
        The running mean of the weights that is measured, if the run asks for one.
    evaluator
        Measures every ``evaluation.every`` steps, first and last included.
    run, tracker
        Receive the records.
    interrupt
        Says when to stop.
    on_step
        As in `lm.train.train`.
    progress
        Of the steps.
    """

    config: RunConfig
    accelerator: Accelerator
    amp: Amp
    problem: Problem
    policy: Policy
    weights: WholeWeights
    average: WeightAverage
    evaluator: Evaluator
    run: RunFolder
    tracker: Tracker
    interrupt: Interrupt
    on_step: Callable[[StepRecord], None] | None
    progress: Phase

    def begin(self, moving: Moving) -> int:
        """Take up where an interrupted run stopped, or measure the policy before its first step.

        Parameters
        ----------
        moving
            What a step changes, as it was built.

        Returns
        -------
        int
            Steps done.
        """
        done = resume_state(self.run, moving, self._say)
        require_same(self.accelerator, "step", done)
        self.progress.update(done)
        if done == 0:
            self._report(0, None)
        elif self.run.main:
            log = (self.run.partial / "metrics.jsonl").read_text(encoding="utf-8")
            for line in log.splitlines():
                self.tracker.write(json.loads(line))
        return done

    def new_record(self, step: int, samples: Samples, reading: Reading) -> dict[str, Any]:
        """Begin a step's line of metrics.jsonl with what its samples say about themselves."""
        features = gather(self.accelerator, reading.features)
        record = {
            "kind": "step",
            "step": step,
            "samples": step * self.config.batch_size,
            "features": describe_features(self.problem.target.features, features),
        }
        if samples.log_kept_mass is not None:
            # Per token, as a geometric mean: the evaluations' definition.
            log_kept = gather(self.accelerator, samples.log_kept_mass).sum()
            tokens = gather(self.accelerator, samples.mask.sum(-1)).sum()
            record["kept_mass"] = float((log_kept / tokens).exp())
        return record

    def check(
        self, log_policy: Tensor, reading: Reading, *, start: tuple[Samples, Tensor] | None = None
    ) -> None:
        """Stop if the policy's log-probability of a sample is not finite, or not what it should be.

        Parameters
        ----------
        log_policy
            Shape (contexts, n), nats: of all processes' samples.
        reading
            Of this process's.
        start
            Before the first update: this process's samples and their log a. Sampler and scorer,
            and policy and base, must then be the same distribution.

        Raises
        ------
        RunError
            Names the sample; on all processes.
        """
        config, n = self.config, len(reading.texts)
        first = self.accelerator.process_index * n
        with fail_together(self.accelerator):
            own = log_policy.flatten()[first : first + n]
            cut = self.policy.transform.truncates
            cause = EDGE_OF_THE_CUT if cut else LIKELY_CAUSE
            check_log_prob("policy", own, reading.texts, cause=cause)
            if start is not None:
                samples, log_base = start
                arguments = (reading.texts, config.precision)
                same = {"lengths": samples.mask.sum(-1), "rounding": self.policy.rounding()}
                if not config.off_policy:
                    check_same_law(samples.log_prob, own, *arguments, **same)
                check_start(own, log_base, *arguments, **same)

    def check_coefficients(self, coefficients: Tensor, reading: Reading) -> None:
        """Stop before a coefficient that is not finite reaches the weights, or float16's scale.

        Parameters
        ----------
        coefficients
            Shape (contexts, n): of all processes' samples.
        reading
            Of this process's.
        """
        first = self.accelerator.process_index * len(reading.texts)
        check_coefficients(coefficients.flatten(), reading.texts, first=first)

    def measures_noise(self, step: int) -> bool:
        """Whether a step's gradient is split into halves: once after each evaluation."""
        # Unscaled, a float16 gradient loses its small entries, and with them the comparison.
        every = self.config.evaluation.every
        return step % every == 1 % every and not self.amp.scales

    def finish_step(self, moving: Moving, record: dict[str, Any], started: float) -> None:
        """Write a step's record, measure and save if it is time to, and stop if asked to.

        Everything that is written about a step is written before the checkpoint of that step, so
        that a run that continues there writes the same lines again.

        Parameters
        ----------
        moving
            What the step changed.
        record
            Its line of metrics.jsonl.
        started
            When it began, by `time.perf_counter`.

        Raises
        ------
        RunInterrupted
            A process was asked to stop. The state is saved.
        """
        step, steps = record["step"], self.config.steps
        self.average.observe()
        release_freed_memory(above=FREED)
        self._log(record)
        self._time(step, "seconds", started)
        self._report(step, record)
        stop = agree(self.accelerator, self.interrupt.received is not None) and step < steps
        if stop or step % self.config.checkpoint.every == 0 or step == steps:
            save_state(self.run, moving, step, keep=self.config.checkpoint.keep)
        if stop:
            received = self.interrupt.received
            name = "another process" if received is None else received.name
            raise RunInterrupted(name, step, steps, str(self.run.partial))

    def _report(self, step: int, record: dict[str, Any] | None) -> None:
        """Evaluate if it is time to, write it down, and tell the caller: on the main process."""
        config, evaluation, texts = self.config, None, None
        due = config.evaluation.is_due(step, config.steps)
        shown = config.evaluation.shows(step, config.steps)
        if due or shown:
            with self.weights.of(self.policy) as policy, self.average.applied():
                if self.run.main:
                    evaluation = self._measure(policy, step) if due else None
                    texts = self._show(policy, step) if shown else None
        words = None if evaluation is None else metric_words(evaluation, config)
        self.progress.update(step, words=words)
        if self.run.main and self.on_step is not None:
            self.on_step(StepRecord(step, config.steps, record, evaluation, texts))

    def _measure(self, policy: Policy, step: int) -> dict[str, Any]:
        config, started = self.config, time.perf_counter()
        # What steps have freed is of no use to an evaluation, nor the other way about.
        release_freed_memory()
        with self.amp.autocast():
            evaluation, texts = self.evaluator.measure(
                policy, step=step, samples=step * config.batch_size
            )
        release_freed_memory()
        if step == 0 and self.problem is not self.evaluator.problem:
            # Those of the measured target are there already.
            own = [f"the target that is trained: {words}" for words in self.problem.warnings()]
            evaluation["warnings"] += own
        self._log(evaluation)
        self._time(step, "evaluation_seconds", started)
        if step in {0, config.steps}:
            name = "samples_before.txt" if step == 0 else "samples_after.txt"
            self.run.write_text(name, "\n".join(texts[: config.evaluation.texts]) + "\n")
        return evaluation

    def _show(self, policy: Policy, step: int) -> Texts:
        with self.amp.autocast():
            texts = draw_texts(self.config, self.problem, policy)
        self.run.append(TEXTS, {"step": step, **texts._asdict()})
        return texts

    def _log(self, record: dict[str, Any]) -> None:
        self.run.append("metrics.jsonl", record)
        self.tracker.write(record)

    def _time(self, step: int, name: str, started: float) -> None:
        # Clock values stand apart: metrics.jsonl is the same for the same command.
        self.run.append("timings.jsonl", {"step": step, name: time.perf_counter() - started})

    def _say(self, sentence: str) -> None:
        if self.run.main:
            print(f"lm: {sentence}", file=sys.stderr)
