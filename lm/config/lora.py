"""The configuration of a low-rank adapter. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lm.config.typed import check_types
from lm.config.validation import at_least, positive, require


@dataclass(frozen=True)
class LoraConfig:
    """A low-rank adapter: W x becomes W x + (alpha / rank) B A x, and only A and B are trained."""

    rank: int = 0
    """rows of A and columns of B; 0 trains all weights instead"""
    alpha: float = 16.0
    """the adapter's product is scaled by alpha / rank"""
    targets: tuple[str, ...] = ()
    """names of the linear layers that get an adapter; by default peft's choice for the model"""

    def __post_init__(self) -> None:
        check_types(self, "lora")
        at_least("lora.rank", self.rank, 0)
        positive("lora.alpha", self.alpha)
        require(
            self.enabled or not self.targets,
            f"lora.targets is {', '.join(self.targets)}, but lora.rank is 0, which trains all "
            "weights: give lora.rank or remove lora.targets",
        )

    @property
    def enabled(self) -> bool:
        """Whether there is an adapter."""
        return self.rank > 0
