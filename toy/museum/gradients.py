"""Losses whose gradient is not the gradient of what they are called.

Each is a loss as ``audit`` takes it: it is differentiated in log_policy, log_reference and
log_behavior are constants, and where it is placed in the reward it is the penalty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toy.museum.judges.enumeration import descends
from toy.museum.records import exhibit


@exhibit(1, report="huggingface/trl#4638, open-instruct#530", oracle=descends("reverse_kl"))
class _K1InTheLoss:
    """k1 in the loss.

    The gradient of log pi - log ref is the bare score, whose mean under the policy is zero.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        log_ratio = log_policy - log_reference
        return log_ratio

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        log_ratio = log_policy - log_reference
        return log_ratio.detach() * log_policy


@exhibit(
    2,
    report="huggingface/trl#4638, huggingface/trl#6503, volcengine/verl#2953",
    oracle=descends("reverse_kl"),
)
class _K3InTheLoss:
    """k3 in the loss called reverse KL.

    Its value estimates KL(pi‖ref), but its gradient is that of KL(ref‖pi): the samples depend on
    the policy, and the gradient ignores that.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        log_ratio = log_policy - log_reference
        k3 = torch.exp(-log_ratio) - 1 + log_ratio
        return k3

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        log_ratio = log_policy - log_reference
        k3 = torch.exp(-log_ratio) - 1 + log_ratio
        return torch.exp(log_policy - log_policy.detach()) * k3


@exhibit(3, report="huggingface/trl#7086", oracle=descends("reverse_kl", placement="reward"))
class _K3InTheReward:
    """k3 in the reward.

    As a penalty in the reward k3 descends KL(pi‖ref) - KL(ref‖pi).
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        log_ratio = log_policy - log_reference
        return torch.exp(-log_ratio) - 1 + log_ratio

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        log_ratio = log_policy - log_reference
        return log_ratio


@exhibit(4, report="NVIDIA-NeMo/RL#2506", oracle=descends("reverse_kl", samples="stale"))
class _WeightedK2:
    """K2 times a differentiable importance ratio.

    A differentiable ratio makes the gradient that of the mean value: right for k1 and k3, whose
    mean is the KL, and wrong for k2.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor, log_behavior: Tensor) -> Tensor:
        ratio = torch.exp(log_policy - log_behavior)
        return ratio * (log_policy - log_reference) ** 2 / 2

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor, log_behavior: Tensor) -> Tensor:
        ratio = torch.exp(log_policy - log_behavior)
        return ratio * (log_policy - log_reference)


@exhibit(5, report='volcengine/verl kl_penalty "abs"', oracle=descends("reverse_kl"))
class _AbsoluteRatio:
    """The absolute log-ratio in the loss.

    The gradient of abs(u) is the sign of u times the score, which is that of twice the total
    variation.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        return torch.abs(log_policy - log_reference)

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        return (log_policy - log_reference) ** 2 / 2


@exhibit(7, report="open-instruct#530", oracle=descends("reverse_kl"))
class _NoGradient:
    """The KL penalty computed under no_grad.

    The penalty changes the value of the loss and not its gradient.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        with torch.no_grad():
            return (log_policy - log_reference) ** 2 / 2

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        with torch.enable_grad():
            return (log_policy - log_reference) ** 2 / 2


@exhibit(8, report="conditional DPG reference code", oracle=descends("forward_kl"))
class _AttachedAdvantage:
    """Advantage not detached.

    The weight P/pi is differentiated too, so that each sample is scaled by 1 - log pi, which is 41
    at log pi = -40.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        weight = torch.exp(log_reference - log_policy)
        return -weight * log_policy

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        weight = torch.exp(log_reference - log_policy).detach()
        return -weight * log_policy


@exhibit(24, report="torchforge#571", oracle=descends("reverse_kl", samples="stale"))
class _MissingWeights:
    """Missing importance weights on stale samples.

    Samples of an older policy are used as if the current one had drawn them.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor, log_behavior: Tensor) -> Tensor:
        signal = log_policy - log_reference
        return signal.detach() * log_policy

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor, log_behavior: Tensor) -> Tensor:
        signal = torch.exp(log_policy - log_behavior) * (log_policy - log_reference)
        return signal.detach() * log_policy


@exhibit(25, report="torchforge#571", oracle=descends("reverse_kl", samples="stale"))
class _RatioToItself:
    """An importance ratio of the policy to itself.

    exp(log pi - log pi.detach()) has the right gradient and always the value 1: it corrects nothing
    on stale samples.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor, log_behavior: Tensor) -> Tensor:
        ratio = torch.exp(log_policy - log_policy.detach())
        return ratio * (log_policy - log_reference).detach()

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor, log_behavior: Tensor) -> Tensor:
        ratio = torch.exp(log_policy - log_behavior)
        return ratio * (log_policy - log_reference).detach()


@exhibit(26, report="volcengine/verl clamps", oracle=descends("reverse_kl"))
class _ClampedPenalty:
    """A clamp inside the differentiated loss.

    Where the penalty is clamped its gradient is zero, just where the policy is furthest away.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        log_ratio = torch.clamp(log_policy - log_reference, -1.0, 1.0)
        return log_ratio**2 / 2

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        log_ratio = log_policy - log_reference
        return log_ratio**2 / 2


@exhibit(36, report="fla#1076", oracle=descends("reverse_kl"))
class _DoublyNegated:
    """A doubly negated loss.

    The advantage is already minus the cost; with its sign dropped in the loss, the policy moves
    away.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        advantage = -(log_policy - log_reference).detach()
        return advantage * log_policy

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor) -> Tensor:
        advantage = -(log_policy - log_reference).detach()
        return -advantage * log_policy
