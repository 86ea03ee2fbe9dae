"""The family of causal language models, which sample token by token and score in one pass."""

from lm.policy.causal.policy import CausalPolicy

__all__ = ["CausalPolicy"]
