"""The configuration of a run: frozen dataclasses, one line per field, checked when made.

Importing and validating a configuration never imports torch or transformers, so that a wrong key
or a meaningless combination is refused in a fraction of a second, before any model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from fdpg_ref import find_divergence
from lm.config.base import BaseConfig
from lm.config.combinations import check_combinations
from lm.config.lora import LoraConfig
from lm.config.parts import (
    BaselineConfig,
    CheckpointConfig,
    EvaluationConfig,
    OptimizerConfig,
    PartitionConfig,
    PromptsConfig,
    ProposalConfig,
)
from lm.config.sampling import SamplingConfig
from lm.config.target import TargetConfig
from lm.config.typed import check_types
from lm.config.validation import at_least, require


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run: base, target, divergence, estimator, optimiser and measurement."""

    name: str = "run"
    """first part of the run folder's name and title of the report"""
    output: str | None = None
    """run folder; by default runs/NAME-DIVERGENCE-seedSEED"""
    overwrite: bool = False
    """replace an existing run folder"""
    resume: bool = False
    """continue from the last checkpoint of a run that was interrupted, if there is one"""
    seed: int = 0
    """every random number of the run follows from it"""
    divergence: str = "jensen_shannon"
    """the f-divergence D_f(policy, target) that is descended: a name, or alpha_A, as alpha_0.5"""
    model: str | None = None
    """model to start from: a folder, smollm2 (see lm fetch) or a hub name; by default the base"""
    base: BaseConfig = field(default_factory=BaseConfig)
    """the base model that the project trains itself"""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """a low-rank adapter to train in place of the whole model"""
    max_new_tokens: int | None = None
    """length limit of a sample; by default the model folder's own"""
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    """contexts of a conditional model"""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """transform of the next-token probabilities, which is part of the policy and of the base"""
    off_policy: bool = False
    """draw with the transform, train the policy without it: importance weights make up for it"""
    target: TargetConfig
    """the distribution that the policy shall become"""
    measure: TargetConfig | None = None
    """another target to measure the policy against; by default the one it shall become"""
    steps: int = 200
    """batches; each is one optimiser step, or updates_per_batch of them"""
    batch_size: int = 256
    """samples of each step, all prompts and processes together"""
    updates_per_batch: int = 1
    """optimiser steps on each batch; importance weights from the second on"""
    micro_batch_size: int | None = None
    """samples of one forward and backward pass in a process; by default all of the batch"""
    proposal: ProposalConfig = field(default_factory=ProposalConfig)
    """from which distribution samples are drawn"""
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    """where Z comes from"""
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    """what is subtracted from the signal"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Adam and its learning rate"""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """when and on how many samples the run is measured"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """when the run is saved so that it can be continued"""
    precision: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    """of the forward passes; bfloat16 and float16 keep float32 weights and log-probabilities"""
    activation_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, one forward pass more"""
    score_chunk: int | None = None
    """tokens whose logits are held in memory at a time while scoring; by default all"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one"""
    tracker: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] = "none"
    """who else gets the records: TensorBoard (inside the run folder), W&B, trackio or MLflow"""
    plan: bool = False
    """measure how fast the model is here, print what the run will take, and stop"""
    report: bool = True
    """draw figures and the report at the end; python -m lm report RUN draws them later, too"""

    def __post_init__(self) -> None:
        check_types(self)
        find_divergence(self.divergence)  # raises, naming those there are
        require(
            bool(self.name) and "/" not in self.name,
            f"name is {self.name!r}: it becomes part of a folder's name, so no '/', not empty",
        )
        at_least("seed", self.seed, 0)
        at_least("steps", self.steps, 1)
        at_least("batch_size", self.batch_size, 2)
        at_least("updates_per_batch", self.updates_per_batch, 1)
        for name in ("max_new_tokens", "micro_batch_size", "score_chunk"):
            value = getattr(self, name)
            if value is not None:
                at_least(name, value, 1)
        check_combinations(self)

    @property
    def contexts(self) -> int:
        """Contexts of each step: its prompts, or the one empty context."""
        return self.prompts.per_step

    @property
    def samples_per_context(self) -> int:
        """Samples that each context gets in a step."""
        return self.batch_size // self.contexts

    @property
    def halves(self) -> bool:
        """Whether forward passes compute in 16 bits."""
        return self.precision in {"bfloat16", "float16"}

    @property
    def law(self) -> SamplingConfig:
        """The transform that policy and base own: none where it shapes the proposal alone."""
        return SamplingConfig() if self.off_policy else self.sampling


def resolve(config: RunConfig) -> RunConfig:
    """Return the configuration with every automatic choice made, which is what gets recorded.

    Parameters
    ----------
    config
        A valid configuration; ``partition.policy``, ``output`` and numbers of samples may still be
        automatic.

    Returns
    -------
    RunConfig
        The same run, spelled out. Resolving twice changes nothing.
    """
    policy = config.partition.policy
    if policy == "auto":
        on_list = config.target.on_list and not config.prompts.given
        exact = on_list or config.target.is_normalised
        policy = "exact" if exact else "frozen"
    output = config.output or f"runs/{config.name}-{config.divergence}-seed{config.seed}"
    drawn = config.steps * config.batch_size
    return replace(
        config,
        partition=replace(config.partition.for_run(drawn), policy=policy),
        evaluation=config.evaluation.for_run(drawn, config.steps),
        output=output,
    )
