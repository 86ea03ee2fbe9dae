"""The training loop: sample, score, signal, coefficients, backward, step, all in one place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fdpg_ref import find_divergence, score_coefficients, score_signal
from lm.config import RunConfig
from lm.device.amp import Amp
from lm.device.interrupt import interruptible
from lm.device.processes import agree, build_accelerator, fail_together, gather, main_process_first
from lm.evaluation.evaluate import Evaluator
from lm.evaluation.target_file import find_target_samples
from lm.phases import phase
from lm.policy.checks import check_device
from lm.policy.protocol import Policy
from lm.report.build import finish_run
from lm.run.folder import open_run
from lm.run.start import how_to_start
from lm.run.state import Moving
from lm.run.trackers import open_tracker, require_tracker
from lm.surrogate import surrogate_loss
from lm.target.problem import build_partition, measured_problem
from lm.training.accumulate import MicroBatches
from lm.training.average import WeightAverage
from lm.training.baseline import Baseline
from lm.training.describe import (
    describe_coefficients,
    describe_gradient,
    describe_noise,
    describe_partition,
    describe_weights,
)
from lm.training.optimizer import build_optimizer
from lm.training.plan import Plan, fit_after_plan, planned
from lm.training.proposal import Proposal
from lm.training.session import Session, StepRecord
from lm.training.setup import adopt_base, build_policy, load_base, resolve_with
from lm.training.sharding import WholeWeights, check_processes, spread

__all__ = ["StepRecord", "load_base", "train", "train_steps"]


def train(
    config: RunConfig,
    *,
    base: Policy | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    on_plan: Callable[[Plan], None] | None = None,
) -> Path:
    """Train a policy toward its target and write the run folder.

    Parameters
    ----------
    config
        The run; automatic choices are resolved here.
    base
        A base of your own, copied and then left alone; by default what the configuration names.
    on_step
        Called before the first step and after every step, in the main process.
    on_plan
        Called with what a new run of one process will take, before anything is drawn.

    Returns
    -------
    Path
        The run folder. It appears complete or not at all.

    Raises
    ------
    RunError
        The folder cannot be written, the model does not fit, or a value is not finite; the
        message says what to do.
    RunInterrupted, RunPlanned
        A signal asked the run to stop, and all is saved; `config.plan` did, and nothing is written.
    UnattainableMoments, FileNotFoundError
        The target cannot be fitted; the model folder is missing.
    """
    # Know the processes, and whether there is anything to do.
    config = resolve_with(config, base)
    check_device(config.device)
    accelerator = build_accelerator(config.device)
    check_processes(accelerator, config)
    main, device = accelerator.is_main_process, str(accelerator.device)
    if config.plan:
        raise planned(config, base, accelerator)
    with fail_together(accelerator):
        start = how_to_start(config) if main else "new"
        require_tracker(config.tracker if main and start != "complete" else "none")
    if agree(accelerator, start == "complete"):
        return Path(config.output or "")

    with open_run(config, main=main) as run:
        accelerator.wait_for_everyone()

        # Load or train the base; the policy starts as its copy.
        if base is None:
            with main_process_first(accelerator):
                base = load_base(config, device=device)
        else:
            base = adopt_base(config, base, device=device)
        policy, base = build_policy(config, base)

        # Fit the target to the base, and draw the samples of all evaluations.
        amp = Amp(config.precision, device)
        with amp.autocast():
            new = start == "new" and accelerator.num_processes == 1
            problem = fit_after_plan(config, base, policy, amp, on_plan if new else None)
            measured = measured_problem(config, base, problem)
            run.write_problem(measured, problem)
            drawn = find_target_samples(config, measured, run)
            evaluator = Evaluator.of_run(config, measured, drawn)

        # Train.
        with (
            open_tracker(config, run.partial, main=main) as tracker,
            interruptible() as interrupt,
            phase("training", config.steps) as progress,
        ):
            session = Session(
                config=config,
                accelerator=accelerator,
                amp=amp,
                problem=problem,
                policy=policy,
                weights=WholeWeights(policy, sharded=accelerator.is_fsdp2),
                average=WeightAverage(policy, config.optimizer.average),
                evaluator=evaluator,
                run=run,
                tracker=tracker,
                interrupt=interrupt,
                on_step=on_step,
                progress=progress,
            )
            train_steps(session)

        # Save the policy and draw the report.
        with session.weights.of(policy) as trained, session.average.applied():
            if main:
                run.write_policy(trained)
                if config.report:
                    finish_run(run.partial)
    return run.final


def train_steps(session: Session) -> None:
    """Run the loop.

    On-policy with one update per batch, the proposal is the policy itself and every importance
    weight is one; else weights pi/q make up for samples of another distribution.

    Parameters
    ----------
    session
        Everything the loop works with; its policy is trained in place.
    """
    config, accelerator, amp = session.config, session.accelerator, session.amp
    problem, policy = session.problem, session.policy
    divergence = find_divergence(config.divergence)

    # Where samples, Z and baseline come from.
    proposal = Proposal(config, policy, problem.prompts, accelerator, session.weights)
    partition = build_partition(config, problem)
    baseline = Baseline(config.baseline)

    # Who differentiates and who steps.
    policy.scorer = spread(accelerator, policy)
    batches = MicroBatches(
        policy, accelerator, amp, size=config.micro_batch_size, off_policy=config.off_policy
    )
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer, schedule = build_optimizer(config.optimizer, parameters, config.steps)
    largest_norm = config.optimizer.clip_norm or math.inf

    # What a checkpoint holds.
    memories = {
        "partition": partition,
        "baseline": baseline,
        "proposal": proposal,
        "average": session.average,
    }
    moving = Moving(policy.model, optimizer, schedule, amp, proposal.generator, memories)

    for step in range(session.begin(moving) + 1, config.steps + 1):
        # Draw, and score under the target.
        started = time.perf_counter()
        contexts = proposal.contexts(step)
        with amp.autocast(), torch.no_grad(), fail_together(accelerator):
            samples = proposal.sample(contexts)
            reading = problem.read(samples)
            log_base = batches.score_by(problem.anchor, samples)
            log_score = problem.log_score(log_base, reading)
        record = session.new_record(step, samples, reading)

        # Score under the policy. From here on of all processes, shape (contexts, samples of each).
        log_score = gather(accelerator, log_score).view(config.contexts, -1)
        log_policy = batches.score(samples).view_as(log_score)
        session.check(log_policy, reading, start=(samples, log_base) if step == 1 else None)
        # On-policy, this scoring is the proposal's as well: none is needed for it.
        log_proposal = proposal.log_prob(samples, log_policy)

        for update in range(1, config.updates_per_batch + 1):
            # After an update the policy is another one.
            if update > 1:
                log_policy = batches.score(samples).view_as(log_score)
                session.check(log_policy, reading)

            # The gradient of the divergence: one coefficient per sample.
            log_z = partition.log_z(log_score, log_proposal, contexts=contexts)
            signal = score_signal(log_policy, log_score - log_z, divergence=divergence)
            coefficients = score_coefficients(
                signal, baseline=baseline.of(signal), log_weights=log_policy - log_proposal
            )
            session.check_coefficients(coefficients, reading)

            # Differentiate, a micro-batch at a time.
            graph = batches.whole_graph if session.measures_noise(step) else None
            noise = describe_noise(graph, coefficients, parameters)
            for part in batches.parts():
                loss = surrogate_loss(part.log_policy, coefficients.flatten()[part.rows])
                amp.backward(accelerator, loss * part.share)
            norm = amp.clip(accelerator, optimizer, parameters, largest_norm)

            # Describe the update, and make it.
            record |= {
                "learning_rate": schedule.get_last_lr()[0],
                **describe_coefficients(signal, coefficients),
                **describe_partition(log_z, log_score, log_proposal),
                **describe_weights(log_policy, log_proposal),
                **describe_gradient(norm, largest_norm, step, amp=amp),
                **noise,
            }
            amp.step(optimizer)
            optimizer.zero_grad()
            if update == config.updates_per_batch:
                baseline.observe(signal)

        # Learn from the batch, now that it was used.
        partition.observe(log_score, log_proposal, contexts=contexts)
        schedule.step()
        if proposal.due(step):
            record |= proposal.compare(batches.measure(samples), log_proposal, log_score)

        # Log, measure, save.
        session.finish_step(moving, record, started)
