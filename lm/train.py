"""The training loop: sample, score, signal, coefficients, backward, step, all in one place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from fdpg_ref import DIVERGENCES, leave_one_out, score_coefficients, score_signal
from lm.base import train_base
from lm.checks import check_device, check_log_prob, check_same_law, check_start, check_vocabulary
from lm.config import RunConfig, resolve
from lm.describe import describe_batch, describe_gradient, describe_partition
from lm.evaluate import Evaluator
from lm.metrics import gradient_signal_to_noise
from lm.optimize import PastBaseline, build_optimizer
from lm.policy import CausalPolicy, load_policy
from lm.problem import TRAINING, Problem, build_partition, build_problem, random_stream
from lm.report import finish_run
from lm.run_folder import RunFolder, open_run
from lm.surrogate import surrogate_loss

PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class StepRecord(NamedTuple):
    """What `train` reports while it runs.

    Attributes
    ----------
    step, steps
        Steps done, and steps in all; 0 before the first.
    record
        The step's record; None at step 0.
    evaluation
        The evaluation's record, where one was made after this step.
    """

    step: int
    steps: int
    record: dict[str, Any] | None
    evaluation: dict[str, Any] | None


class Session(NamedTuple):
    """What the loop works with.

    Attributes
    ----------
    config
        A resolved configuration.
    accelerator
        Places, casts and differentiates.
    problem
        Base and target.
    policy
        Trained in place.
    evaluator
        Measures every ``evaluation.every`` steps, first and last included.
    run
        Receives the records.
    on_step
        As in `train`.
    """

    config: RunConfig
    accelerator: Accelerator
    problem: Problem
    policy: CausalPolicy
    evaluator: Evaluator
    run: RunFolder
    on_step: Callable[[StepRecord], None] | None


def train(
    config: RunConfig,
    *,
    on_step: Callable[[StepRecord], None] | None = None,
    on_base: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Train a policy toward its target and write the run folder.

    Parameters
    ----------
    config
        The run; automatic choices are resolved here.
    on_step
        Called before the first step and after every step.
    on_base
        Called while the base model is trained, if it is not cached: step, steps, loss.

    Returns
    -------
    Path
        The run folder. It appears complete or not at all.

    Raises
    ------
    RunError
        The folder cannot be written, the model does not fit, or a value is not finite; the
        message says what to do.
    UnattainableMoments, FileNotFoundError
        The target cannot be fitted; the model folder is missing.
    """
    config = resolve(config)
    check_device(config.device)
    with open_run(config) as run:
        accelerator = _accelerator(config)
        base = load_base(config, device=str(accelerator.device), on_base=on_base)
        with accelerator.autocast():
            problem = build_problem(config, base)
            evaluator = Evaluator(
                problem, config.evaluation, divergence=config.divergence, seed=config.seed
            )
        run.write_problem(config, problem)
        policy = base.trainable_copy()
        train_steps(Session(config, accelerator, problem, policy, evaluator, run, on_step))
        run.write_policy(policy)
        finish_run(run.partial)
    return run.final


def load_base(
    config: RunConfig,
    *,
    device: str = "cpu",
    on_base: Callable[[int, int, float], None] | None = None,
) -> CausalPolicy:
    """Load the model that a run starts from, training the project's own base if need be.

    Parameters
    ----------
    config
        Names a local model folder, or describes the base.
    device
        Where the weights go.
    on_base
        Progress of the base's training.

    Returns
    -------
    CausalPolicy
        Frozen, with the character vocabulary.
    """
    folder = Path(config.model) if config.model else train_base(config.base, progress=on_base)
    base = load_policy(folder, device=device)
    check_vocabulary(base.ids.letters, folder)
    return base


def train_steps(session: Session) -> None:
    """Run the loop: on-policy with one update a batch, so that the proposal is the policy itself.

    Parameters
    ----------
    session
        Everything the loop works with; its policy is trained in place.
    """
    config, accelerator, problem, policy = session[:4]
    divergence = DIVERGENCES[config.divergence]
    partition, baseline = build_partition(config, problem), PastBaseline(config.baseline)
    generator = random_stream(config.seed, TRAINING)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer, schedule = build_optimizer(config.optimizer, parameters, config.steps)
    policy.model, optimizer, schedule = accelerator.prepare(policy.model, optimizer, schedule)
    _report(session, None)
    for step in range(1, config.steps + 1):
        started = time.perf_counter()
        with accelerator.autocast():
            samples = policy.sample(config.batch_size, generator=generator)
            reading = problem.read(samples)
            with torch.no_grad():
                log_base = problem.base.log_prob(samples.tokens, samples.mask)
            log_score = problem.log_score(log_base, reading)
            log_policy = policy.log_prob(samples.tokens, samples.mask)
        check_log_prob("policy", log_policy, reading.texts)
        if step == 1:
            check_same_law(samples.log_prob, log_policy, reading.texts, config.precision)
            check_start(log_policy, log_base, reading.texts, config.precision)
        with torch.no_grad():
            log_proposal = log_policy.detach()
            log_z = partition.log_z(log_score, log_proposal)
            signal = score_signal(log_policy, log_score - log_z, divergence=divergence)
            if config.baseline.kind == "leave_one_out":
                coefficients = score_coefficients(
                    signal, baseline=leave_one_out(signal), log_weights=log_policy - log_proposal
                )
            else:
                coefficients = score_coefficients(
                    signal, baseline=baseline.value, log_weights=log_policy - log_proposal
                )
        signal_to_noise = None
        if step % config.evaluation.every == 1 % config.evaluation.every:
            signal_to_noise = gradient_signal_to_noise(log_policy, coefficients, parameters)
        accelerator.backward(surrogate_loss(log_policy, coefficients))
        largest_norm = config.optimizer.clip_norm or math.inf
        norm = accelerator.clip_grad_norm_(parameters, largest_norm)
        record = {
            "kind": "step",
            "step": step,
            "samples": step * config.batch_size,
            "learning_rate": schedule.get_last_lr()[0],
            **describe_batch(problem.target.features, reading.features, signal, coefficients),
            **describe_partition(log_z, log_score, log_proposal),
            **describe_gradient(norm, largest_norm, step),
            "gradient_signal_to_noise": signal_to_noise,
        }
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        partition.observe(log_score, log_proposal)
        baseline.observe(signal)
        session.run.append("metrics.jsonl", record)
        seconds = time.perf_counter() - started
        session.run.append("timings.jsonl", {"step": step, "seconds": seconds})
        _report(session, record)


def _accelerator(config: RunConfig) -> Accelerator:
    # accelerate keeps the precision of a process's first run in a singleton and refuses another.
    AcceleratorState._reset_state()
    return Accelerator(cpu=config.device == "cpu", mixed_precision=PRECISION[config.precision])


def _report(session: Session, record: dict[str, Any] | None) -> None:
    """Evaluate if it is time to, write it down, and tell the caller."""
    config, run = session.config, session.run
    step = 0 if record is None else record["step"]
    evaluation = None
    if step % config.evaluation.every == 0 or step in {*config.evaluation.early, config.steps}:
        started = time.perf_counter()
        with session.accelerator.autocast():
            evaluation, texts = session.evaluator.measure(
                session.policy, step=step, samples=step * config.batch_size
            )
        run.append("metrics.jsonl", evaluation)
        seconds = time.perf_counter() - started
        run.append("timings.jsonl", {"step": step, "evaluation_seconds": seconds})
        if step in {0, config.steps}:
            name = "samples_before.txt" if step == 0 else "samples_after.txt"
            run.write_text(name, "\n".join(texts[: config.evaluation.texts]) + "\n")
    if session.on_step is not None:
        session.on_step(StepRecord(step, config.steps, record, evaluation))
