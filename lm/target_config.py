"""The target of a run, as a configuration states it. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from lm.features import check_feature, check_score_name, lives_on_list
from lm.validation import positive, require

TargetKind = Literal["exponential_family", "constrained", "reward_tilted", "custom"]


@dataclass(frozen=True)
class TargetConfig:
    """The distribution that the policy shall become, in terms of the base and of features."""

    kind: TargetKind = "exponential_family"
    """exponential_family (moments), constrained (hard), reward_tilted (RLHF) or custom (score)"""
    moments: dict[str, float | Literal["base"]] = field(default_factory=dict)
    """exponential_family: wanted E_p of each feature; the word base keeps the base's own value"""
    constraints: tuple[str, ...] = ()
    """constrained: features that must all be non-zero; everything else gets probability 0"""
    reward: dict[str, float] = field(default_factory=dict)
    """reward_tilted: the reward is the sum of these weights times the features"""
    beta: float = 0.1
    """reward_tilted: price of one nat of KL(policy, base) in units of reward"""
    score: str | None = None
    """custom: log P(x) of texts, any target: a name given by lm.features.score, or file.py:name"""

    def __post_init__(self) -> None:
        needed = {
            "exponential_family": ("moments", self.moments),
            "constrained": ("constraints", self.constraints),
            "reward_tilted": ("reward", self.reward),
            "custom": ("score", self.score or ""),
        }
        option, value = needed[self.kind]
        require(len(value) > 0, f"target.kind {self.kind} needs target.{option}, which is empty")
        for kind, (other, unused) in needed.items():
            require(
                kind == self.kind or not unused,
                f"target.{other} belongs to target.kind {kind}, but target.kind is {self.kind}: "
                f"remove target.{other} or change the kind",
            )
        for name in self.features:
            check_feature(name)
        if self.score is not None:
            check_score_name(self.score)
        positive("target.beta", self.beta)
        numbers = [*self.moments.values(), *self.reward.values()]
        for number in numbers:
            require(
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
        return self.kind != "custom" and all(map(lives_on_list, self.features))
