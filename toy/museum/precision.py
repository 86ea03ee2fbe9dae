"""Formulas that are right on paper and wrong in floating point."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fdpg_ref import FORWARD_KL, REVERSE_KL, score_signal
from toy.checks import check_support
from toy.museum.judges.invariances import (
    FINITE_GRADIENTS,
    MATCHES_FLOAT64,
    PRECISION_LADDER,
    RECOVERS_FROM_HOLES,
    SURVIVES_SHIFTS,
)
from toy.museum.records import exhibit


@exhibit(27, report="OpenRLHF#1335, huggingface/trl#7221", oracle=FINITE_GRADIENTS)
class _NanBehindWhere:
    """A finite value with a NaN gradient.

    `where` hides 0 * inf from the value, but the gradient still passes through the branch that was
    not taken.
    """

    @staticmethod
    def exhibit(logits: Tensor) -> Tensor:
        log_probs = torch.log_softmax(logits, dim=-1)
        probs = torch.exp(log_probs)
        zero = torch.zeros_like(probs)
        return -torch.sum(torch.where(probs > 0, probs * log_probs, zero))

    @staticmethod
    def twin(logits: Tensor) -> Tensor:
        log_probs = torch.log_softmax(logits, dim=-1)
        probs = torch.exp(log_probs)
        zero = torch.zeros_like(probs)
        return -torch.sum(probs * torch.where(probs > 0, log_probs, zero))


@exhibit(28, report="unsloth-zoo#1240", oracle=MATCHES_FLOAT64)
class _CancellingK3:
    """k3 by its formula in float32.

    e^{-u} - 1 + u subtracts numbers of size 1 to get one of size u^2/2, which comes out as zero or
    negative.
    """

    @staticmethod
    def exhibit(log_ratio: np.ndarray) -> np.ndarray:
        return np.exp(-log_ratio) - 1 + log_ratio

    @staticmethod
    def twin(log_ratio: np.ndarray) -> np.ndarray:
        return FORWARD_KL.generator(-log_ratio)


@exhibit(29, report="maxtext#5231, genlm-backend#66", oracle=PRECISION_LADDER)
class _HalfPrecisionLogSoftmax:
    """Log-softmax in bfloat16.

    A log-probability between -16 and -32 sits on a bfloat16 grid of 1/8 nat: logits must be
    widened before the log-softmax, not its result.
    """

    @staticmethod
    def exhibit(logits: Tensor) -> Tensor:
        return torch.log_softmax(logits, dim=-1).float()

    @staticmethod
    def twin(logits: Tensor) -> Tensor:
        return torch.log_softmax(logits.float(), dim=-1)


@exhibit(30, report="naver/disco", oracle=SURVIVES_SHIFTS)
class _HalfPrecisionWeights:
    """Exp of ratios in float16.

    float16 ends at 65,504, which is 11.1 nats: one larger weight makes the estimate of Z infinite.
    """

    @staticmethod
    def exhibit(log_weights: Tensor) -> Tensor:
        weights = torch.exp(log_weights.half())
        return torch.log(torch.mean(weights))

    @staticmethod
    def twin(log_weights: Tensor) -> Tensor:
        log_total = torch.logsumexp(log_weights, dim=-1)
        return log_total - math.log(log_weights.shape[-1])


@exhibit(31, report="naver/disco", oracle=RECOVERS_FROM_HOLES)
class _PoisonedBaseline:
    """Reverse KL where the target has no mass.

    One sample with p(x) = 0 has an infinite signal, and the running baseline never becomes finite
    again.
    """

    @staticmethod
    def exhibit(
        state: float, log_policy: np.ndarray, log_target: np.ndarray
    ) -> tuple[np.ndarray, float]:
        signal = score_signal(log_policy, log_target, divergence=REVERSE_KL)
        return signal - state, 0.9 * state + 0.1 * float(np.mean(signal))

    @staticmethod
    def twin(
        state: float, log_policy: np.ndarray, log_target: np.ndarray
    ) -> tuple[np.ndarray, float]:
        check_support(log_policy, log_target, divergence=REVERSE_KL)
        signal = score_signal(log_policy, log_target, divergence=REVERSE_KL)
        return signal - state, 0.9 * state + 0.1 * float(np.mean(signal))
