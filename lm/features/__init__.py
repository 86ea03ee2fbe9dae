"""Features of a text: named functions that a target raises, lowers, rewards or holds fixed."""

from lm.features.registry import feature, score

__all__ = ["feature", "score"]
