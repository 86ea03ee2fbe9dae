"""A language model as a distribution over whole sequences: it samples and it scores."""

from lm.policy.causal import CausalPolicy, SamplerMismatch, load_policy

__all__ = ["CausalPolicy", "SamplerMismatch", "load_policy"]
