"""What a run is told: frozen dataclasses, one line of doc per field, checked at construction.

Importing and validating a configuration never imports torch or transformers, so that a wrong key
or a meaningless combination is refused in a fraction of a second, before any model is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from fdpg_ref import DIVERGENCES, InfiniteDivergence
from lm.base_config import BaseConfig
from lm.features import FEATURES

TargetKind = Literal["exponential_family", "constrained", "reward_tilted"]
PartitionPolicy = Literal["auto", "exact", "frozen", "past_only", "leave_one_out", "same_batch"]
BaselineKind = Literal["leave_one_out", "running", "constant", "none"]


@dataclass(frozen=True)
class TargetConfig:
    """The distribution that the policy shall become, in terms of the base and of features."""

    kind: TargetKind = "exponential_family"
    """exponential_family (moments), constrained (hard) or reward_tilted (RLHF)"""
    moments: dict[str, float | Literal["base"]] = field(default_factory=dict)
    """exponential_family: wanted E_p of each feature; the word base keeps the base's own value"""
    constraints: tuple[str, ...] = ()
    """constrained: features that must all be non-zero; everything else gets probability 0"""
    reward: dict[str, float] = field(default_factory=dict)
    """reward_tilted: the reward is the sum of these weights times the features"""
    beta: float = 0.1
    """reward_tilted: price of one nat of KL(policy, base) in units of reward"""

    def __post_init__(self) -> None:
        needed = {
            "exponential_family": ("moments", self.moments),
            "constrained": ("constraints", self.constraints),
            "reward_tilted": ("reward", self.reward),
        }
        option, value = needed[self.kind]
        _require(len(value) > 0, f"target.kind {self.kind} needs target.{option}, which is empty")
        for kind, (other, unused) in needed.items():
            _require(
                kind == self.kind or not unused,
                f"target.{other} belongs to target.kind {kind}, but target.kind is {self.kind}: "
                f"remove target.{other} or change the kind",
            )
        for name in self.features:
            known = ", ".join(sorted(FEATURES))
            _require(name in FEATURES, f"target names the feature {name!r}; there are: {known}")
        _positive("target.beta", self.beta)
        numbers = [*self.moments.values(), *self.reward.values()]
        for number in numbers:
            _require(
                isinstance(number, str) or math.isfinite(number),
                f"a moment or reward of the target is {number}: it must be finite",
            )

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that define this target, in a fixed order."""
        return tuple(self.moments) or tuple(self.constraints) or tuple(self.reward)

    @property
    def on_list(self) -> bool:
        """Whether every feature is zero outside the listed names, which makes Z an exact sum."""
        return all(FEATURES[name].lives_on_list for name in self.features)


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
        _at_least("partition.samples", self.samples, 2)
        _share("partition.forgetting", self.forgetting)


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
        _require(
            self.kind == "constant" or self.value == 0.0,
            f"baseline.value is {self.value}, but baseline.kind {self.kind} does not use it: "
            "remove it or set baseline.kind constant",
        )
        _require(math.isfinite(self.value), f"baseline.value is {self.value}: must be finite")
        _share("baseline.forgetting", self.forgetting)


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
    clip_norm: float | None = None
    """largest gradient norm; none by default, for clipping favours the divergences unequally"""

    def __post_init__(self) -> None:
        _positive("optimizer.lr", self.lr)
        _positive("optimizer.eps", self.eps)
        _at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        for beta in self.betas:
            _require(0 <= beta < 1, f"optimizer.betas is {self.betas}: each must be in [0, 1)")
        if self.clip_norm is not None:
            _positive("optimizer.clip_norm", self.clip_norm)


@dataclass(frozen=True)
class EvaluationConfig:
    """When and on how many samples the run is measured."""

    every: int = 25
    """steps between two evaluations; the first and the last step are always evaluated"""
    early: tuple[int, ...] = ()
    """further steps to evaluate after, where curves are steep"""
    samples: int = 2048
    """samples from the policy, and as many from the base, of each evaluation"""
    group: int = 256
    """diversity (distinct share, Distinct-n, Self-BLEU) is measured within groups of this size"""
    texts: int = 24
    """sample texts kept before and after training"""

    def __post_init__(self) -> None:
        _at_least("evaluation.every", self.every, 1)
        for step in self.early:
            _at_least("evaluation.early", step, 1)
        _at_least("evaluation.group", self.group, 2)
        _at_least("evaluation.texts", self.texts, 1)
        _require(
            self.samples >= 2 * self.group,
            f"evaluation.samples is {self.samples}, which is less than two groups of "
            f"evaluation.group = {self.group}: a standard error needs at least two",
        )
        _require(
            self.texts <= self.samples,
            f"evaluation.texts is {self.texts}, more than evaluation.samples = {self.samples}",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run: base, target, divergence, estimator, optimiser and measurement."""

    name: str = "run"
    """first part of the run folder's name and title of the report"""
    output: str | None = None
    """run folder; by default runs/NAME-DIVERGENCE-seedSEED"""
    overwrite: bool = False
    """replace an existing run folder"""
    seed: int = 0
    """every random number of the run follows from it"""
    divergence: str = "jensen_shannon"
    """the f-divergence D_f(policy, target) that is descended"""
    model: str | None = None
    """local model folder to start from; by default the base below, trained once and cached"""
    base: BaseConfig = field(default_factory=BaseConfig)
    """the base model that the project trains itself"""
    target: TargetConfig
    """the distribution that the policy shall become"""
    steps: int = 200
    """optimiser steps"""
    batch_size: int = 256
    """samples from the policy in each step"""
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    """where Z comes from"""
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    """what is subtracted from the signal"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Adam and its learning rate"""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """when and on how many samples the run is measured"""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """autocast of the forward passes; weights and log-probabilities stay float32"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one"""

    def __post_init__(self) -> None:
        known = ", ".join(sorted(DIVERGENCES))
        _require(
            self.divergence in DIVERGENCES,
            f"divergence is {self.divergence!r}; there are: {known}",
        )
        _require(
            bool(self.name) and "/" not in self.name,
            f"name is {self.name!r}: it becomes part of a folder's name, so no '/', not empty",
        )
        _at_least("seed", self.seed, 0)
        _at_least("steps", self.steps, 1)
        _at_least("batch_size", self.batch_size, 2)
        self._require_finite_divergence()
        self._require_meaningful_estimator()

    def _require_finite_divergence(self) -> None:
        slope = DIVERGENCES[self.divergence].slope_at_infinity
        if self.target.kind == "constrained" and math.isinf(slope):
            finite = sorted(k for k, v in DIVERGENCES.items() if math.isfinite(v.slope_at_infinity))
            raise InfiniteDivergence(
                f"{self.divergence} to a hard constraint is infinite: a language model keeps some "
                "probability on everything, also where this target has none. Soften the constraint "
                "(target.kind exponential_family with a moment of 0.95, say) or choose a "
                f"divergence that stays finite there: {', '.join(finite)}"
            )

    def _require_meaningful_estimator(self) -> None:
        _require(
            self.partition.policy != "exact" or self.target.on_list,
            "partition.policy exact needs features that live on the listed names, but the target "
            f"uses {', '.join(self.target.features)}: choose partition.policy frozen",
        )
        _require(
            self.optimizer.warmup_steps <= self.steps,
            f"optimizer.warmup_steps is {self.optimizer.warmup_steps}, more than steps = "
            f"{self.steps}: the learning rate would never be reached",
        )
        _require(
            self.precision != "float16" or self.device == "cuda",
            f"precision float16 with device {self.device} is refused: without a gradient scaler "
            "its gradients underflow, and accelerate has none on a CPU. Choose bfloat16, or set "
            "device cuda",
        )


def resolve(config: RunConfig) -> RunConfig:
    """Return the configuration with every automatic choice made, which is what gets recorded.

    Parameters
    ----------
    config
        A valid configuration; ``partition.policy`` and ``output`` may still be automatic.

    Returns
    -------
    RunConfig
        The same run, spelled out. Resolving twice changes nothing.
    """
    policy = config.partition.policy
    if policy == "auto":
        policy = "exact" if config.target.on_list else "frozen"
    output = config.output or f"runs/{config.name}-{config.divergence}-seed{config.seed}"
    return replace(config, partition=replace(config.partition, policy=policy), output=output)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _positive(name: str, value: float) -> None:
    _require(0 < value < math.inf, f"{name} is {value}: it must be positive and finite")


def _at_least(name: str, value: int, least: int) -> None:
    _require(value >= least, f"{name} is {value}: it must be at least {least}")


def _share(name: str, value: float) -> None:
    _require(0 < value <= 1, f"{name} is {value}: it must be in (0, 1]")
