"""Baselines and partition functions that look at the very sample they are applied to.

Coefficients multiply grad log pi. A batch is the last axis; ``past`` holds log(P/pi) of two earlier
samples, from which a partition function may be estimated without touching the batch.
"""

from __future__ import annotations

import numpy as np

from fdpg_ref import FORWARD_KL, PEARSON_CHI2, REVERSE_KL, leave_one_out, log_mean_exp, score_signal
from toy.museum.judges.enumeration import all_batches
from toy.museum.records import exhibit


@exhibit(13, report="common", oracle=all_batches("reverse_kl"))
class _BatchMean:
    """Batch-mean baseline called unbiased.

    Each sample is compared with a mean that it is part of, which shrinks the gradient by (n-1)/n.
    """

    @staticmethod
    def exhibit(log_policy: np.ndarray, log_score: np.ndarray, past: np.ndarray) -> np.ndarray:
        signal = score_signal(log_policy, log_score, divergence=REVERSE_KL)
        return signal - np.mean(signal, axis=-1, keepdims=True)

    @staticmethod
    def twin(log_policy: np.ndarray, log_score: np.ndarray, past: np.ndarray) -> np.ndarray:
        signal = score_signal(log_policy, log_score, divergence=REVERSE_KL)
        return signal - leave_one_out(signal)


@exhibit(14, report="NVIDIA-NeMo/RL#1518, NVIDIA-NeMo/RL#4158", oracle=all_batches("reverse_kl"))
class _StandardisedAdvantages:
    """Advantages divided by their standard deviation.

    Dividing by the standard deviation of the batch changes scale and direction, and divides by zero
    when all rewards of a group are equal.
    """

    @staticmethod
    def exhibit(log_policy: np.ndarray, log_score: np.ndarray, past: np.ndarray) -> np.ndarray:
        signal = score_signal(log_policy, log_score, divergence=REVERSE_KL)
        advantage = signal - leave_one_out(signal)
        return advantage / np.std(signal, axis=-1, keepdims=True)

    @staticmethod
    def twin(log_policy: np.ndarray, log_score: np.ndarray, past: np.ndarray) -> np.ndarray:
        signal = score_signal(log_policy, log_score, divergence=REVERSE_KL)
        advantage = signal - leave_one_out(signal)
        return advantage


@exhibit(15, report="own finding", oracle=all_batches("pearson_chi2", past=2, up_to_scale=True))
class _SharedPartition:
    """Leave-one-out baseline with a shared estimate of Z.

    The peers' signals depend on the sample through the common Z, so that the leave-one-out baseline
    is no longer independent of it.
    """

    @staticmethod
    def exhibit(log_policy: np.ndarray, log_score: np.ndarray, past: np.ndarray) -> np.ndarray:
        log_z = log_mean_exp(log_score - log_policy)[..., None]
        signal = score_signal(log_policy, log_score - log_z, divergence=PEARSON_CHI2)
        return signal - leave_one_out(signal)

    @staticmethod
    def twin(log_policy: np.ndarray, log_score: np.ndarray, past: np.ndarray) -> np.ndarray:
        log_z = log_mean_exp(past)[..., None]
        signal = score_signal(log_policy, log_score - log_z, divergence=PEARSON_CHI2)
        return signal - leave_one_out(signal)


@exhibit(16, report="common", oracle=all_batches("forward_kl", past=2, up_to_scale=True))
class _SameBatchPartition:
    """Z estimated on the batch it normalises.

    Z estimated on the same batch is correlated with every signal: a bias O(1/n), not only of scale.
    """

    @staticmethod
    def exhibit(log_policy: np.ndarray, log_score: np.ndarray, past: np.ndarray) -> np.ndarray:
        log_z = log_mean_exp(log_score - log_policy)[..., None]
        return score_signal(log_policy, log_score - log_z, divergence=FORWARD_KL)

    @staticmethod
    def twin(log_policy: np.ndarray, log_score: np.ndarray, past: np.ndarray) -> np.ndarray:
        log_z = log_mean_exp(past)[..., None]
        return score_signal(log_policy, log_score - log_z, divergence=FORWARD_KL)
