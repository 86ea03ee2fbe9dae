"""Which runs the demonstration makes: two targets, four divergences, two seeds, one budget.

The settings were chosen once, from the sweep of `benchmarks.demo_sweep` on another seed, by the
worst of the four divergences: one learning rate a target, nothing tuned for a single divergence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lm.config.base import BaseConfig
from lm.config.run import EvaluationConfig, OptimizerConfig, RunConfig, TargetConfig
from lm.run.records import FOUR


@dataclass(frozen=True)
class DemoTarget:
    """One of the targets that the demonstration aims at.

    Parameters
    ----------
    key
        First word of its run folders.
    title, sentence
        For people.
    feature
        The feature on the alignment axis.
    target
        As a run's configuration states it.
    learning_rate
        Common to all divergences.
    """

    key: str
    title: str
    sentence: str
    feature: str
    target: TargetConfig
    learning_rate: float


RARE = DemoTarget(
    key="rare",
    title="(i) Rare: names that end in i",
    sentence="Listed names that end in i are rare under the base; the target wants them in 95 % of "
    "the samples and is otherwise as close to the base as it can be.",
    feature="ends_in_i",
    target=TargetConfig(moments={"ends_in_i": 0.95}),
    learning_rate=3e-4,
)
BALANCE = DemoTarget(
    key="balance",
    title="(ii) Distributional: half of the names female",
    sentence="A fifth of the base's samples are female names; the target wants a half and keeps "
    "the share of listed names. No single sample is right or wrong: only the mix is.",
    feature="female",
    target=TargetConfig(moments={"female": 0.5, "listed": "base"}),
    learning_rate=3e-4,
)
TARGETS = (RARE, BALANCE)
HARD_TARGET = TargetConfig(kind="constrained", constraints=("ends_in_i",))


@dataclass(frozen=True)
class DemoConfig:
    """The size of the demonstration; its targets, divergences and learning rates are fixed."""

    output: str = "runs/demo"
    """folder of all runs, figures and the page"""
    seeds: tuple[int, ...] = (0, 1)
    """each divergence is run once a seed"""
    steps: int = 320
    """optimiser steps of each run"""
    batch_size: int = 768
    """samples of each step"""
    warmup_steps: int = 10
    """steps over which the learning rate rises; it then falls along a cosine"""
    betas: tuple[float, float] = (0.9, 0.95)
    """of Adam: a second moment that forgets the large gradients of the first steps"""
    workers: int = 2
    """processes, one thread each; the numbers do not depend on it"""
    base: BaseConfig = field(default_factory=BaseConfig)
    """the base model, trained once and cached"""
    evaluation: EvaluationConfig = field(
        default_factory=lambda: EvaluationConfig(every=40, early=(5, 10, 15, 20, 30), samples=1024)
    )
    """when and on how many samples each run is measured"""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}: name at least one, none twice")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}: it must be at least 1")
        if not self.output:
            raise ValueError("output is empty: name a folder")
        for _ in run_configs(self):
            pass  # building each run's configuration checks the rest

    @property
    def folder(self) -> Path:
        """The folder of all runs, figures and the page."""
        return Path(self.output)


def run_configs(config: DemoConfig) -> Iterator[RunConfig]:
    """Yield the configuration of every run, seeds outermost, so that a first look comes early.

    Parameters
    ----------
    config
        The demonstration.

    Yields
    ------
    RunConfig
        Named ``TARGET-DIVERGENCE-seedSEED`` below the demonstration's folder.
    """
    for seed in config.seeds:
        for target in TARGETS:
            for divergence in FOUR:
                yield run_config(config, target, divergence, seed)


def run_config(
    config: DemoConfig,
    target: DemoTarget,
    divergence: str,
    seed: int,
    *,
    learning_rate: float | None = None,
) -> RunConfig:
    """Return the configuration of one run.

    Parameters
    ----------
    config
        The demonstration.
    target, divergence, seed
        Which run.
    learning_rate
        In place of the target's own; for the sweep.

    Returns
    -------
    RunConfig
        The same but for these.
    """
    return RunConfig(
        name=target.key,
        output=str(run_folder(config, target.key, divergence, seed)),
        overwrite=True,
        seed=seed,
        divergence=divergence,
        base=config.base,
        target=target.target,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=OptimizerConfig(
            lr=target.learning_rate if learning_rate is None else learning_rate,
            schedule="cosine",
            warmup_steps=min(config.warmup_steps, config.steps),
            betas=config.betas,
        ),
        evaluation=config.evaluation,
        device="cpu",
    )


def hard_config(config: DemoConfig, divergence: str) -> RunConfig:
    """Return the hard version of target (i): the base restricted to names that end in i.

    Parameters
    ----------
    config
        The demonstration.
    divergence
        What would be descended.

    Returns
    -------
    RunConfig
        To measure policies with; nothing is trained on it.

    Raises
    ------
    InfiniteDivergence
        The divergence is infinite on a hard constraint, as reverse KL is.
    """
    return RunConfig(
        name="hard",
        seed=config.seeds[0],
        divergence=divergence,
        base=config.base,
        target=HARD_TARGET,
        evaluation=config.evaluation,
        device="cpu",
    )


def run_folder(config: DemoConfig, target: str, divergence: str, seed: int) -> Path:
    """Return where a run of the demonstration is written."""
    return config.folder / f"{target}-{divergence}-seed{seed}"
