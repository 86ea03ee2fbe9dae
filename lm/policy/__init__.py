"""A language model as a distribution over whole sequences: it samples and it scores."""

from lm.policy.causal import CausalPolicy
from lm.policy.load import load_policy
from lm.policy.protocol import Policy, SamplerMismatch

__all__ = ["CausalPolicy", "Policy", "SamplerMismatch", "load_policy"]
