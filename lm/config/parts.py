"""The groups of a run's configuration that say how it estimates, steps, measures and saves.

Like all configurations, they need no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lm.config.typed import check_types
from lm.config.validation import at_least, positive, require, share

PartitionPolicy = Literal["auto", "exact", "frozen", "past_only", "leave_one_out", "same_batch"]
BaselineKind = Literal["leave_one_out", "running", "constant", "none"]
ProposalKind = Literal["policy", "kl_adaptive"]


@dataclass(frozen=True)
class PromptsConfig:
    """Where the contexts of a conditional model come from; without a file there is none."""

    file: str | None = None
    """one prompt per line, or .jsonl with the key "prompt" """
    per_step: int = 1
    """prompts of each step; each gets batch_size / per_step samples"""

    def __post_init__(self) -> None:
        check_types(self, "prompts")
        at_least("prompts.per_step", self.per_step, 1)
        require(self.file != "", "prompts.file is empty: name a file, or leave the key out")
        require(
            self.file is not None or self.per_step == 1,
            f"prompts.per_step is {self.per_step}, but there is no prompts.file to take prompts "
            "from: name one, or remove prompts.per_step",
        )


@dataclass(frozen=True)
class ProposalConfig:
    """From which distribution a step's samples are drawn."""

    kind: ProposalKind = "policy"
    """policy (the one being trained) or kl_adaptive (a copy, renewed when it has become better)"""
    every: int = 10
    """kl_adaptive: steps between two comparisons of policy and copy"""

    def __post_init__(self) -> None:
        check_types(self, "proposal")
        at_least("proposal.every", self.every, 1)
        require(
            self.kind == "kl_adaptive" or self.every == 10,
            f"proposal.every is {self.every}, but proposal.kind {self.kind} compares nothing: "
            "remove it or set proposal.kind kl_adaptive",
        )


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved so that it can be continued."""

    every: int = 100
    """steps between two checkpoints"""
    keep: int = 2
    """how many of the newest are kept"""

    def __post_init__(self) -> None:
        check_types(self, "checkpoint")
        at_least("checkpoint.every", self.every, 1)
        at_least("checkpoint.keep", self.keep, 1)


@dataclass(frozen=True)
class PartitionConfig:
    """Where the partition function Z of the target comes from."""

    policy: PartitionPolicy = "auto"
    """auto is exact when the features live on the list, else frozen"""
    samples: int = 10_000
    """base samples behind the frozen estimate, or behind the start of past_only"""
    forgetting: float = 1.0
    """past_only: weight of the past at each step; 1 keeps everything"""

    def __post_init__(self) -> None:
        check_types(self, "partition")
        at_least("partition.samples", self.samples, 2)
        share("partition.forgetting", self.forgetting)


@dataclass(frozen=True)
class BaselineConfig:
    """What is subtracted from the signal to reduce its variance."""

    kind: BaselineKind = "leave_one_out"
    """leave_one_out, running (past batches only), constant or none"""
    value: float = 0.0
    """constant: the number that is subtracted"""
    forgetting: float = 0.9
    """running: weight of the past at each step; 1 keeps everything"""

    def __post_init__(self) -> None:
        check_types(self, "baseline")
        require(
            self.kind == "constant" or self.value == 0.0,
            f"baseline.value is {self.value}, but baseline.kind {self.kind} does not use it: "
            "remove it or set baseline.kind constant",
        )
        require(math.isfinite(self.value), f"baseline.value is {self.value}: must be finite")
        share("baseline.forgetting", self.forgetting)


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its learning rate."""

    lr: float = 3e-4
    """learning rate of Adam after the warm-up"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """how the rate goes to zero over the run, if at all"""
    warmup_steps: int = 0
    """steps over which the rate rises linearly from zero"""
    betas: tuple[float, float] = (0.9, 0.999)
    """decay of Adam's first and second moment"""
    eps: float = 1e-8
    """added to the root of Adam's second moment"""
    average: float | None = None
    """weight of the past in a running mean of the weights, which is then what is measured and
    saved; none by default"""
    clip_norm: float | None = None
    """largest gradient norm; none by default, for clipping favours the divergences unequally"""

    def __post_init__(self) -> None:
        check_types(self, "optimizer")
        positive("optimizer.lr", self.lr)
        positive("optimizer.eps", self.eps)
        at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        for beta in self.betas:
            require(0 <= beta < 1, f"optimizer.betas is {self.betas}: each must be in [0, 1)")
        if self.average is not None:
            require(
                0 < self.average < 1,
                f"optimizer.average is {self.average}: it must lie strictly between 0 and 1",
            )
        if self.clip_norm is not None:
            positive("optimizer.clip_norm", self.clip_norm)


@dataclass(frozen=True)
class EvaluationConfig:
    """When and on how many samples the run is measured."""

    every: int = 25
    """steps between two evaluations; the first and the last step are always evaluated"""
    early: tuple[int, ...] = ()
    """further steps to evaluate after, where curves are steep"""
    samples: int = 2048
    """samples from the policy, and as many from the base, of each evaluation"""
    target_samples: int = 256
    """samples of the target itself, drawn once a run by rejection from the base (a teacher is
    sampled): they see what the policy has dropped. 0 draws none"""
    target_draws: int = 4096
    """most base samples that are drawn for them"""
    group: int = 256
    """diversity (distinct share, Distinct-n, Self-BLEU) is measured within groups of this size"""
    texts: int = 24
    """sample texts kept before and after training"""
    coverage: str | None = None
    """a feature: which share of the listed names that have it do so many samples show?"""
    coverage_at: tuple[int, ...] = (1, 16, 256)
    """numbers of samples that coverage is stated for"""
    contexts: int = 32
    """with prompts: up to so many, chosen at random once, share the samples of an evaluation"""

    def __post_init__(self) -> None:
        check_types(self, "evaluation")
        at_least("evaluation.every", self.every, 1)
        for step in self.early:
            at_least("evaluation.early", step, 1)
        at_least("evaluation.target_samples", self.target_samples, 0)
        require(
            self.target_samples != 1,
            "evaluation.target_samples is 1: a standard error needs two, and 0 draws none",
        )
        at_least("evaluation.target_draws", self.target_draws, 2)
        at_least("evaluation.group", self.group, 2)
        at_least("evaluation.texts", self.texts, 1)
        at_least("evaluation.contexts", self.contexts, 1)
        for number in self.coverage_at:
            at_least("evaluation.coverage_at", number, 1)

        # There must be samples enough for every figure.
        require(
            self.coverage is None or 2 * max(self.coverage_at) <= self.samples,
            f"evaluation.coverage_at goes to {max(self.coverage_at, default=0)}, which needs twice "
            f"as many evaluation.samples for a standard error; there are {self.samples}",
        )
        require(
            self.samples >= 2 * self.group,
            f"evaluation.samples is {self.samples}, which is less than two groups of "
            f"evaluation.group = {self.group}: a standard error needs at least two",
        )
        require(
            self.texts <= self.samples,
            f"evaluation.texts is {self.texts}, more than evaluation.samples = {self.samples}",
        )
