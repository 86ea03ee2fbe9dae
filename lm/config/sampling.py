"""The sampling transform of a policy, as a configuration states it. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lm.config.typed import check_types
from lm.config.validation import at_least, positive, require, share


@dataclass(frozen=True)
class SamplingConfig:
    """How next-token probabilities are changed before a token is drawn; by default, not at all.

    The order is temperature, top_k, top_p, min_p, as in transformers.
    """

    temperature: float = 1.0
    """divides the logits"""
    top_k: int = 0
    """keep the k most probable tokens; 0 keeps all"""
    top_p: float = 1.0
    """keep the smallest set of most probable tokens that holds this mass; 1 keeps all"""
    min_p: float = 0.0
    """keep tokens of at least this share of the largest probability; 0 keeps all"""

    def __post_init__(self) -> None:
        check_types(self, "sampling")
        positive("sampling.temperature", self.temperature)
        at_least("sampling.top_k", self.top_k, 0)
        share("sampling.top_p", self.top_p)
        require(0 <= self.min_p <= 1, f"sampling.min_p is {self.min_p}: it must be in [0, 1]")

    @property
    def is_identity(self) -> bool:
        """Whether the transform changes nothing."""
        return self == SamplingConfig()

    @property
    def truncates(self) -> bool:
        """Whether some tokens get probability zero."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0
