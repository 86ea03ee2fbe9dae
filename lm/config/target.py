"""The target of a run, as a configuration states it. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from lm.config.typed import check_types
from lm.config.validation import positive, require
from lm.features.registry import check_feature, check_score_name, lives_on_list

TargetKind = Literal[
    "exponential_family", "constrained", "reward_tilted", "custom", "teacher", "reward"
]

# The one option that each kind is given by.
NEEDED: dict[str, str] = {
    "exponential_family": "moments",
    "constrained": "constraints",
    "reward_tilted": "reward",
    "custom": "score",
    "teacher": "teacher",
    "reward": "reward",
}


@dataclass(frozen=True)
class TargetConfig:
    """The distribution that the policy shall become, in terms of the base and of features."""

    kind: TargetKind = "exponential_family"
    """exponential_family (moments), constrained (hard), reward_tilted (RLHF), custom (score),
    teacher (another model), or reward alone: no penalty, so no target, measured against another"""
    moments: dict[str, float | Literal["base"]] = field(default_factory=dict)
    """exponential_family: wanted E_p of each feature; the word base keeps the base's own value"""
    constraints: tuple[str, ...] = ()
    """constrained: features that must all be non-zero; everything else gets probability 0"""
    reward: dict[str, float] = field(default_factory=dict)
    """reward_tilted, reward: the reward is the sum of these weights times the features"""
    beta: float = 0.1
    """reward_tilted: price of one nat of KL(policy, base) in units of reward"""
    score: str | None = None
    """custom: log P(x) of texts, any target: a name given by lm.features.score, or file.py:name"""
    teacher: str | None = None
    """teacher: the model whose distribution is the target, a folder or a hub name"""
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    """least and largest value of features of your own, which samples of the target need to be drawn
    by rejection (evaluation.target_samples); those of the project's features are known"""

    def __post_init__(self) -> None:
        check_types(self, "target")
        options = {
            "moments": self.moments,
            "constraints": self.constraints,
            "reward": self.reward,
            "score": self.score or "",
            "teacher": self.teacher or "",
        }

        # Its own option, and no other kind's.
        option = NEEDED[self.kind]
        require(
            len(options[option]) > 0,
            f"target.kind {self.kind} needs target.{option}, which is empty",
        )
        for other, unused in options.items():
            kinds = " or ".join(kind for kind, needed in NEEDED.items() if needed == other)
            require(
                other == option or not unused,
                f"target.{other} belongs to target.kind {kinds}, but target.kind is {self.kind}: "
                f"remove target.{other} or change the kind",
            )

        # Names that exist, and finite numbers.
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

        for name, (low, high) in self.bounds.items():
            require(
                name in self.features,
                f"target.bounds names {name!r}, which is no feature of this target: there are "
                f"{', '.join(self.features) or 'none'}",
            )
            require(
                math.isfinite(low) and math.isfinite(high) and low <= high,
                f"target.bounds.{name} is [{low}, {high}]: give a finite least and largest value",
            )

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that define this target, in a fixed order."""
        return tuple(self.moments) or tuple(self.constraints) or tuple(self.reward)

    @property
    def on_list(self) -> bool:
        """Whether every feature is zero outside the listed names, which makes Z an exact sum."""
        return len(self.features) > 0 and all(map(lives_on_list, self.features))

    @property
    def is_normalised(self) -> bool:
        """Whether Z is known without a sum: a model's distribution, or no target at all."""
        return self.kind in {"teacher", "reward"}
