"""The configuration of a run, checked before anything is loaded."""

from lm.config.run import (
    BaselineConfig,
    BaselineKind,
    CheckpointConfig,
    EvaluationConfig,
    LoraConfig,
    OptimizerConfig,
    PartitionConfig,
    PartitionPolicy,
    PromptsConfig,
    ProposalConfig,
    ProposalKind,
    RunConfig,
    SamplingConfig,
    TargetConfig,
    TargetKind,
    resolve,
)

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
