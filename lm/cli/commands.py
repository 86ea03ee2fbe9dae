"""What the commands do, once their words are checked: torch is imported from here on."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from lm.config import RunConfig, SamplingConfig
from lm.config.base import BaseConfig, Pretrained
from lm.device.amp import Amp
from lm.device.launched import is_main
from lm.device.processes import leave_group
from lm.errors import RunError, RunPlanned
from lm.evaluation.evaluate import Evaluator
from lm.evaluation.target_file import FILE_NAME, read_target_samples, stored_target_samples
from lm.evaluation.target_samples import TargetSamples
from lm.models.folder import ModelFolderError
from lm.models.pretrained import fetch
from lm.models.vocabulary import VocabularyError
from lm.phases import duration
from lm.policy import load_policy
from lm.policy.checks import check_device, check_longest
from lm.policy.drawing import draw
from lm.policy.prompts import PromptError, Prompts
from lm.report.build import Z_MARK, headline_rows
from lm.report.outcome import FARTHER, outcome_of
from lm.report.page import named
from lm.report.sides import drawn_sentence, side_rows
from lm.report.terminal import new_table, print_table
from lm.run.environment import environment
from lm.run.files import write_output
from lm.run.folder import read_config, require_complete
from lm.run.foreign import require_own_code
from lm.run.records import PROMPT_MARK, printable, read_records, shortened
from lm.run.start import changed_inputs
from lm.target.problem import Problem, build_problem, measured_problem
from lm.train import StepRecord, train
from lm.training.base import train_base
from lm.training.plan import Plan
from lm.training.setup import load_base

# Errors that a user can put right, in addition to those of lm.cli.main.
USER_ERRORS = (ModelFolderError, VocabularyError, PromptError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `python -m lm evaluate`."""

    run: Path
    samples: int
    seed: int
    json: Path | None
    p_samples: Path | None = None
    trust_code: bool = False


@dataclass(frozen=True)
class SampleOptions:
    """Options of `python -m lm sample`; ``transform`` holds the keys that were given."""

    model: str
    n: int
    seed: int
    device: str
    prompts: tuple[str, ...]
    max_new_tokens: int | None
    transform: Mapping[str, float]


def run_train(config: RunConfig) -> None:
    """Train, then print the headline table and where the report is."""
    try:
        folder = train(config, on_step=_tell, on_plan=print_plan)
    except RunPlanned as planned:
        print_plan(planned.plan)
        return
    leave_group()
    if is_main():
        evaluations = read_records(folder, "evaluation")
        print_rows(evaluations)
        measured = config.measure is not None
        outcome = outcome_of(evaluations, config.divergence, measured=measured)
        warning = "warning: " if outcome.verdict == FARTHER else ""
        print(f"{warning}{outcome.sentence}")
        if config.report:
            print(f"report: {folder / 'report.html'}")
        else:
            print(f"run: {folder} (python -m lm report {folder} draws its report)")


def print_plan(plan: Plan) -> None:
    """Print what a run will take: a line for each phase, and the whole."""
    table = new_table(
        f"the plan, as measured now: {plan.sampled:,.0f} tokens a second drawn, "
        f"{plan.trained:,.0f} in a step"
    )
    for heading in ("phase", "samples", "time", "peak memory", "keys"):
        table.add_column(heading, no_wrap=heading != "keys")
    for line in plan.lines:
        memory = "" if math.isnan(line.memory) else f"{line.memory / 2**30:.1f} GiB"
        table.add_row(line.name, line.samples, duration(line.seconds), memory, line.keys)
    print_table(table)
    print(f"about {duration(plan.seconds)} in all", flush=True)


def _tell(done: StepRecord) -> None:
    """Print what a reader wants to see before the end: first warnings, and sample texts."""
    if done.step == 0 and done.evaluation is not None:
        for warning in done.evaluation["warnings"]:
            print(f"lm: warning: {warning}", file=sys.stderr)
    if done.texts is not None:
        print(f"lm: samples after step {done.step} of {done.steps}", file=sys.stderr)
        for prompt, completion in zip(*done.texts, strict=True):
            # What a model writes may hold anything, also what would steer a terminal.
            given = f"{shortened(printable(prompt), keep='end')}{PROMPT_MARK}" if prompt else ""
            print(f"    {given}{shortened(printable(completion))}", file=sys.stderr)


def run_fetch(model: Pretrained) -> None:
    """Bring a pretrained model into the cache, or find it there, and print how to use it."""
    folder = fetch(model)
    print(f"model: {folder}")
    print(
        f"in a recipe: model: {model.name}; as in: python -m lm train RECIPE --model {model.name}"
    )


def run_evaluate(options: EvaluateOptions) -> None:
    """Measure a finished run's policy on new samples, together with its base."""
    config = read_config(options.run)
    if not options.trust_code:
        require_own_code(config, options.run)
    if changed := changed_inputs(config, options.run):
        print(
            f"lm: warning: what the run reads is not what it was when the run began: "
            f"{'; '.join(changed)}. It is measured against the target as it is now",
            file=sys.stderr,
        )
    try:
        evaluation = replace(config.evaluation, samples=options.samples)
    except ValueError as error:
        raise RunError(str(error)) from error

    # Base and policy, on the same samples.
    amp = Amp(config.precision, "cpu")
    policy = load_policy(options.run / "policy", dtype=amp.weights_dtype, transform=config.law)
    drawn = config.steps * config.batch_size
    with amp.autocast():
        base = load_base(config)
        problem = measured_problem(config, base, build_problem(config, base))
        evaluator = Evaluator(
            problem,
            evaluation,
            divergence=config.divergence,
            seed=options.seed,
            target_samples=_target_samples(options, problem),
        )
        before = evaluator.measure(problem.base, step=0, samples=0).record
        after = evaluator.measure(policy, step=config.steps, samples=drawn).record

    print_rows([before, after])
    if options.json is not None:
        write_output(options.json, (json.dumps(after, indent=2) + "\n").encode("utf-8"))


def run_sample(options: SampleOptions) -> None:
    """Print samples of a run's policy or of a model, with log-probabilities in nats."""
    policy = load_policy(
        model_folder(options.model),
        max_new_tokens=options.max_new_tokens,
        device=options.device,
        transform=_law(options),
    )
    prompts = None
    if options.prompts:
        prompts = Prompts.from_ids(policy.vocabulary.encode_prompts(options.prompts))
    generator = torch.Generator().manual_seed(options.seed)
    samples = draw(policy, options.n, generator=generator, prompts=prompts)
    texts = policy.decode(samples)
    check_longest(policy, samples, texts)
    for text, log_prob in zip(texts, samples.log_prob.tolist(), strict=True):
        print(f"{log_prob:9.3f}  {printable(text)}")


def run_env() -> None:
    """Print versions and machine."""
    for name, value in environment().items():
        print(f"{name:<16}{value}")


def model_folder(model: str | None) -> str:
    """Return what `load_policy` loads: a run's policy, the model itself, or the default base.

    Parameters
    ----------
    model
        A run folder, a model folder, a hub name, or None.

    Returns
    -------
    str
        A folder or a hub name.
    """
    if model is None:
        return str(train_base(BaseConfig()))
    require_complete(Path(model))
    inside = Path(model) / "policy"
    return str(inside) if inside.is_dir() else model


def print_rows(evaluations: Sequence[dict[str, Any]]) -> None:
    """Print the headline table of a run (base, policy, by which estimator) and its warnings."""
    rows = headline_rows(evaluations)
    compared = any(Z_MARK in row["estimator"] for row in rows)
    meaning = "; z is what sampling alone gives less this, in its standard errors"
    table = new_table(f"± is one standard error{meaning if compared else ''}")
    for heading in ("quantity", "base", "policy", "estimator", *(["z"] if compared else [])):
        table.add_column(heading, no_wrap=heading not in {"quantity", "estimator"})
    for row in rows:
        estimator, _, z = row["estimator"].partition(Z_MARK)
        cells = [escape(named(row)), row["base"], row["policy"], estimator, z]
        table.add_row(*cells[: len(table.columns)])
    print_table(table)
    first, last = evaluations[0], evaluations[-1]
    print_sides(last)
    for record in [first] if first is last else [first, last]:
        for warning in record["warnings"]:
            print(f"warning, step {record['step']}: {warning}")


def _target_samples(options: EvaluateOptions, problem: Problem) -> TargetSamples | None:
    """Return the samples of the target that are named, or those of the run; None draws new ones."""
    if options.p_samples is not None:
        return read_target_samples(options.p_samples, problem)
    with suppress(OSError, ValueError):
        return stored_target_samples(options.run / FILE_NAME, problem)
    return None


def print_sides(record: dict[str, Any]) -> None:
    """Print what samples of the target and of the policy alone say of the policy."""
    rows = side_rows(record)
    if rows:
        table = new_table("from both sides; ± knows only what the samples show")
        for heading in ("quantity", "samples of the target", "of the policy alone", "z"):
            table.add_column(heading, no_wrap=heading != "quantity")
        for row in rows:
            table.add_row(*map(escape, row))
        print_table(table)
    if sentence := drawn_sentence(record):
        print(sentence)


def _law(options: SampleOptions) -> SamplingConfig:
    """Return the run's own transform, or none; keys that were given replace its own."""
    check_device(options.device)
    folder = Path(options.model)
    of_a_run = (folder / "policy").is_dir() and (folder / "config.json").is_file()
    own = read_config(folder).law if of_a_run else SamplingConfig()
    return replace(own, **options.transform)
