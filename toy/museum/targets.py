"""Rewards and partition functions that stand for another divergence, or another size of step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fdpg_ref import leave_one_out, logsumexp
from fdpg_ref.custom import from_generator
from toy.museum.judges.enumeration import descends
from toy.museum.judges.targets import HAS_ONE_SIZE, leads_to_the_gradient
from toy.museum.records import exhibit

# KL from the policy to the mixture of it and the reference, half and half.
_TO_THE_MIXTURE = from_generator(
    "KL_to_the_mixture",
    lambda t, xp: t * xp.log(2 * t / (1 + t)),
    lambda t, xp: xp.log(2 * t / (1 + t)) + 1 / (1 + t),
    value_at_zero=0.5,
    slope_at_infinity=float(np.log(2)) - 0.5,
    curvature=0.25,
)


@exhibit(40, report="common", oracle=descends("jensen_shannon"))
class _ValueAsAdvantage:
    """The value of an f-divergence as a detached advantage.

    The value of a sample is f(t)/t, but what multiplies the score is f'(t): the mean of the values
    is right, and descending it sample by sample descends no divergence at all.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        t = torch.exp(log_policy - log_reference)
        value = (torch.log(2 * t / (t + 1)) + torch.log(2 / (t + 1)) / t) / 2
        return value.detach() * log_policy

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        t = torch.exp(log_policy - log_reference)
        slope = torch.log(2 * t / (t + 1)) / 2
        return slope.detach() * log_policy


@exhibit(41, report="common", oracle=descends(_TO_THE_MIXTURE))
class _SkewedTeacher:
    """A skewed teacher's log-ratio as the reward, called KL to the mixture.

    The mixture (p + pi)/2 moves with the policy, which a detached reward log((p/pi + 1)/2) leaves
    out: what is descended is twice Jensen-Shannon.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        rho = torch.exp(log_reference - log_policy)
        cost = -torch.log((rho + 1) / 2)
        return cost.detach() * log_policy

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        rho = torch.exp(log_reference - log_policy)
        cost = -torch.log((rho + 1) / 2) + rho / (rho + 1)
        return cost.detach() * log_policy


@exhibit(42, report="common", oracle=leads_to_the_gradient("jensen_shannon"))
class _MeanReward:
    """The mean reward in place of log Z.

    log Z is the log of the mean of e^(r/beta) under the base. The mean of r/beta is less, by all
    that the best outcomes are worth.
    """

    @staticmethod
    def exhibit(log_base: np.ndarray, log_score: np.ndarray) -> float:
        scaled_reward = log_score - log_base
        return float(np.exp(log_base) @ scaled_reward)

    @staticmethod
    def twin(log_base: np.ndarray, log_score: np.ndarray) -> float:
        scaled_reward = log_score - log_base
        return float(logsumexp(log_base + scaled_reward))


@exhibit(43, report="arXiv 2512.05962", oracle=HAS_ONE_SIZE)
class _GroupPassRate:
    """Z of a verifier as the pass rate of the same few samples.

    Among the groups that show a success at all the weights always sum to the size of the group, so
    a hard prompt is hardly learned from: its groups rarely show one. A cap on the weights does
    nothing from the size of the group (4) on; one of 2 leaves the direction, and 0.917 and 0.04 of
    the size at the two pass rates.
    """

    @staticmethod
    def exhibit(passes: np.ndarray, pass_rate: float) -> np.ndarray:
        z = np.mean(passes)
        weights = np.divide(passes, z, out=np.zeros(passes.shape), where=z > 0)
        return -(weights - leave_one_out(weights))

    @staticmethod
    def twin(passes: np.ndarray, pass_rate: float) -> np.ndarray:
        z = pass_rate
        weights = np.divide(passes, z, out=np.zeros(passes.shape), where=z > 0)
        return -(weights - leave_one_out(weights))
