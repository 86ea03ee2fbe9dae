"""The conformance test for any trainer: it says what a training step descends.

A tiny model whose every completion is known, a step of your trainer on it, and the exact gradients
of all that it could have descended. docs/conformance.md has worked examples.
"""

from lm.conformance.problem import TinyProblem
from lm.conformance.verdict import Verdict, assert_descends_on_model, descends_on_model

__all__ = ["TinyProblem", "Verdict", "assert_descends_on_model", "descends_on_model"]
