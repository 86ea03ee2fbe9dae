"""The configuration of a run, checked before anything is loaded."""

from lm.config.lora import LoraConfig
from lm.config.parts import (
    BaselineConfig,
    BaselineKind,
    CheckpointConfig,
    EvaluationConfig,
    OptimizerConfig,
    PartitionConfig,
    PartitionPolicy,
    PromptsConfig,
    ProposalConfig,
    ProposalKind,
)
from lm.config.run import RunConfig, resolve
from lm.config.sampling import SamplingConfig
from lm.config.target import TargetConfig, TargetKind

__all__ = [
    "BaselineConfig",
    "BaselineKind",
    "CheckpointConfig",
    "EvaluationConfig",
    "LoraConfig",
    "OptimizerConfig",
    "PartitionConfig",
    "PartitionPolicy",
    "PromptsConfig",
    "ProposalConfig",
    "ProposalKind",
    "RunConfig",
    "SamplingConfig",
    "TargetConfig",
    "TargetKind",
    "resolve",
]
