"""Measures of a trained policy that cannot see what the policy dropped."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fdpg_ref import self_normalised_log_weights
from toy.museum.judges.enumeration import means_of_sample_sets
from toy.museum.records import exhibit

Draw = Callable[[np.ndarray], np.ndarray]


@exhibit(39, report="common", oracle=means_of_sample_sets("forward_kl"))
class _PolicySamples:
    """KL(p‖pi) measured on samples of the policy.

    Weights P/pi cannot bring back an outcome that was never drawn: the value is that of the part
    of the target which the policy kept, and its standard error knows nothing of the rest.
    """

    @staticmethod
    def exhibit(draw: Draw, log_policy: np.ndarray, log_target: np.ndarray) -> np.ndarray:
        drawn = draw(log_policy)
        log_weights = self_normalised_log_weights((log_target - log_policy)[drawn])
        return np.mean(np.exp(log_weights) * log_weights, axis=-1)

    @staticmethod
    def twin(draw: Draw, log_policy: np.ndarray, log_target: np.ndarray) -> np.ndarray:
        drawn = draw(log_target)
        return np.mean((log_target - log_policy)[drawn], axis=-1)
