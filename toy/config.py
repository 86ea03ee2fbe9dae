"""The settings of a descent: one frozen record, refused at once where it means nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fdpg_ref import DIVERGENCES
from toy.checks import check_choice
from toy.estimators.partition import PARTITION_POLICIES
from toy.problems import PROBLEMS


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one descent, checked when they are made.

    Attributes
    ----------
    divergence : str
        Which divergence to descend, by its name in the library.
    problem : str
        Which problem, by its name in toy.problems.
    gradient : str
        "exact" sums over all outcomes, "sampled" draws batches.
    partition : str
        Where a sampled gradient takes log Z from: "exact", "frozen", "past_only",
        "past_and_current", "leave_one_out" or "same_batch".
    proposal : str
        The distribution of the batches: "policy", or "base" with importance weights.
    learning_rate : float
        Step length, in units of theta per unit of gradient.
    steps : int
        Number of updates.
    batch_size : int
        Samples per step of a sampled gradient, at least 2 for the leave-one-out baseline.
    seed : int
        Seed of the numpy generator.
    """

    divergence: str = "jensen_shannon"
    problem: str = "bimodal"
    gradient: str = "exact"
    partition: str = "exact"
    proposal: str = "policy"
    learning_rate: float = 0.2
    steps: int = 1000
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing, naming the value."""
        check_choice("divergence", self.divergence, DIVERGENCES)
        check_choice("problem", self.problem, PROBLEMS)
        check_choice("gradient", self.gradient, ("exact", "sampled"))
        check_choice("partition", self.partition, PARTITION_POLICIES)
        check_choice("proposal", self.proposal, ("policy", "base"))
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be positive")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}: it must be at least 1")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}: leave-one-out needs at least 2")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it must not be negative")
