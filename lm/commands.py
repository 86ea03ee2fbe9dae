"""What the commands do, once their words are checked: torch is imported from here on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lm.base import read_facts, train_base
from lm.base_config import BaseConfig
from lm.checks import check_vocabulary
from lm.config import RunConfig
from lm.environment import environment
from lm.errors import RunError
from lm.evaluate import Evaluator
from lm.files import write_atomic
from lm.models import ModelFolderError
from lm.policy import load_policy
from lm.problem import build_problem
from lm.progress import base_progress, run_progress
from lm.records import read_records
from lm.report import finish_run, headline_rows
from lm.run_folder import read_config
from lm.train import load_base, train
from lm.vocabulary import CharVocabulary, VocabularyError

# Beside those of lm.cli: what a user can put right.
USER_ERRORS = (ModelFolderError, VocabularyError)


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `python -m lm evaluate`."""

    run: Path
    samples: int
    seed: int
    json: Path | None


def run_train(config: RunConfig) -> None:
    """Train, then print the headline table and where the report is."""
    with run_progress(config) as (on_base, on_step):
        folder = train(config, on_step=on_step, on_base=on_base)
    print_rows(read_records(folder, "evaluation"))
    print(f"report: {folder / 'report.html'}")


def run_base(config: BaseConfig) -> None:
    """Train a base model, or find it in the cache, and print its exact figures."""
    with base_progress() as on_base:
        folder = train_base(config, progress=on_base)
    facts = read_facts(folder)
    source = facts.source_nats_per_character
    print(f"{facts.nats_per_character:.4f} nats per character (entropy of the source {source:.4f})")
    for name, value in facts.moments.items():
        print(f"E[{name}] = {value:.5f}")
    print(f"model: {folder}")


def run_evaluate(options: EvaluateOptions) -> None:
    """Measure a finished run's policy on new samples, beside its base."""
    config = read_config(options.run)
    try:
        evaluation = replace(config.evaluation, samples=options.samples)
    except ValueError as error:
        raise RunError(str(error)) from error
    problem = build_problem(config, load_base(config))
    evaluator = Evaluator(problem, evaluation, divergence=config.divergence, seed=options.seed)
    policy = load_policy(options.run / "policy")
    drawn = config.steps * config.batch_size
    before = evaluator.measure(problem.base, step=0, samples=0).record
    after = evaluator.measure(policy, step=config.steps, samples=drawn).record
    print_rows([before, after])
    if options.json is not None:
        write_atomic(options.json, (json.dumps(after, indent=2) + "\n").encode("utf-8"))


def run_sample(folder: Path, *, n: int, seed: int) -> None:
    """Print samples of a run's policy or of a model folder, with log-probabilities in nats."""
    inside = folder / "policy"
    model = inside if inside.is_dir() else folder
    policy = load_policy(model)
    vocabulary = CharVocabulary(check_vocabulary(policy.ids.letters, model))
    samples = policy.sample(n, generator=torch.Generator().manual_seed(seed))
    texts = vocabulary.decode(samples.tokens, samples.mask)
    for text, log_prob in zip(texts, samples.log_prob.tolist(), strict=True):
        print(f"{text:<16}{log_prob:9.3f}")


def run_report(folder: Path) -> None:
    """Draw a run's figures and report again from its records."""
    read_config(folder)
    print(f"report: {finish_run(folder)}")


def run_env() -> None:
    """Print versions and machine."""
    for name, value in environment().items():
        print(f"{name:<16}{value}")


def print_rows(evaluations: Sequence[dict[str, Any]]) -> None:
    """Print the headline table of a run: base, policy, and by which estimator."""
    table = Table(title="± is one standard error", title_justify="left", title_style="dim")
    for heading in ("quantity", "base", "policy", "estimator"):
        table.add_column(heading)
    for row in headline_rows(evaluations):
        quantity = f"{row['quantity']} {row['unit']}".strip()
        table.add_row(escape(quantity), row["base"], row["policy"], row["estimator"])
    Console().print(table)
