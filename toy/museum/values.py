"""Estimates of a divergence that are estimates of something else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from toy.museum.judges.enumeration import equals, estimates, names_their_divergence
from toy.museum.records import exhibit


@exhibit(6, report="natolambert/rlhf-book#489", oracle=estimates("reverse_kl"))
class _ReversedRatio:
    """k3 with the log-ratio reversed.

    With the ratio upside down the mean of k3 is chi2 - KL; near zero the two look alike.
    """

    @staticmethod
    def exhibit(
        log_policy: np.ndarray, log_target: np.ndarray, log_proposal: np.ndarray
    ) -> np.ndarray:
        log_ratio = log_policy - log_target
        return np.exp(log_ratio) - 1 - log_ratio

    @staticmethod
    def twin(
        log_policy: np.ndarray, log_target: np.ndarray, log_proposal: np.ndarray
    ) -> np.ndarray:
        log_ratio = log_target - log_policy
        return np.exp(log_ratio) - 1 - log_ratio


@exhibit(
    9,
    report="areal-project/AReaL#408, an optimiser option elsewhere",
    oracle=names_their_divergence(
        ("forward_kl", "reverse_kl", "squared_hellinger", "total_variation")
    ),
)
class _FallsThrough:
    """If, if, else: every option but one falls through to the last.

    The `else` belongs to the last `if` alone, and overwrites the choice of an earlier one.
    """

    @staticmethod
    def exhibit(name: str, log_ratio: np.ndarray) -> np.ndarray:
        if name == "forward_kl":
            signal = 1 - np.exp(-log_ratio)
        if name == "reverse_kl":
            signal = log_ratio
        elif name == "squared_hellinger":
            signal = 1 - np.exp(-log_ratio / 2)
        else:
            signal = np.sign(log_ratio) / 2
        return signal

    @staticmethod
    def twin(name: str, log_ratio: np.ndarray) -> np.ndarray:
        if name == "forward_kl":
            signal = 1 - np.exp(-log_ratio)
        elif name == "reverse_kl":
            signal = log_ratio
        elif name == "squared_hellinger":
            signal = 1 - np.exp(-log_ratio / 2)
        else:
            signal = np.sign(log_ratio) / 2
        return signal


@exhibit(
    10, report="naver/disco history", oracle=names_their_divergence(("pearson_chi2", "neyman_chi2"))
)
class _SwappedChiSquared:
    """The two chi-squared losses swapped.

    Each of the two names gives its dual, so that a coverage-seeking loss becomes mode-seeking, and
    vice versa.
    """

    @staticmethod
    def exhibit(name: str, log_ratio: np.ndarray) -> np.ndarray:
        signals: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "pearson_chi2": lambda u: 1 - np.exp(-2 * u),
            "neyman_chi2": lambda u: 2 * (np.exp(u) - 1),
        }
        return signals[name](log_ratio)

    @staticmethod
    def twin(name: str, log_ratio: np.ndarray) -> np.ndarray:
        signals: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "neyman_chi2": lambda u: 1 - np.exp(-2 * u),
            "pearson_chi2": lambda u: 2 * (np.exp(u) - 1),
        }
        return signals[name](log_ratio)


@exhibit(11, report="NVIDIA-NeMo/RL#1420", oracle=estimates("jensen_shannon"))
class _UnboundedJensenShannon:
    """A Jensen-Shannon divergence beyond log 2.

    The half KL(p‖m) is estimated by e^x - x - 1 on samples of the policy, not of p.
    """

    @staticmethod
    def exhibit(
        log_policy: np.ndarray, log_target: np.ndarray, log_proposal: np.ndarray
    ) -> np.ndarray:
        log_mixture = np.logaddexp(log_policy, log_target) - np.log(2)
        x, y = log_mixture - log_policy, log_mixture - log_target
        of_policy, of_target = np.exp(x) - x - 1, np.exp(y) - y - 1
        return (of_policy + of_target) / 2

    @staticmethod
    def twin(
        log_policy: np.ndarray, log_target: np.ndarray, log_proposal: np.ndarray
    ) -> np.ndarray:
        log_mixture = np.logaddexp(log_policy, log_target) - np.log(2)
        x, y = log_mixture - log_policy, log_mixture - log_target
        of_policy, of_target = np.exp(x) - x - 1, np.exp(y) - y - 1
        return (of_policy + np.exp(log_target - log_policy) * of_target) / 2


@exhibit(12, report="naver/disco metrics", oracle=estimates("jensen_shannon", off_policy=True))
class _WrongDenominator:
    """Jensen-Shannon metric weighted by the mixture, sampled from the proposal.

    Samples of the proposal are weighted as if they had been drawn from the mixture of policy and
    target.
    """

    @staticmethod
    def exhibit(
        log_policy: np.ndarray, log_target: np.ndarray, log_proposal: np.ndarray
    ) -> np.ndarray:
        log_mixture = np.logaddexp(log_policy, log_target) - np.log(2)
        of_policy = np.exp(log_policy) * (log_policy - log_mixture)
        of_target = np.exp(log_target) * (log_target - log_mixture)
        return (of_policy + of_target) / 2 / np.exp(log_mixture)

    @staticmethod
    def twin(
        log_policy: np.ndarray, log_target: np.ndarray, log_proposal: np.ndarray
    ) -> np.ndarray:
        log_mixture = np.logaddexp(log_policy, log_target) - np.log(2)
        of_policy = np.exp(log_policy) * (log_policy - log_mixture)
        of_target = np.exp(log_target) * (log_target - log_mixture)
        return (of_policy + of_target) / 2 / np.exp(log_proposal)


@exhibit(35, report="huggingface/trl#4935, twinkle#112", oracle=equals("reverse_kl"))
class _ArgumentOrder:
    """The argument order of kl_div.

    torch's kl_div(a, b) is KL(b‖a): read as KL(a‖b) it gives the other direction.
    """

    @staticmethod
    def exhibit(log_policy: np.ndarray, log_target: np.ndarray) -> Tensor:
        policy, target = torch.from_numpy(log_policy), torch.from_numpy(log_target)
        return functional.kl_div(policy, target, reduction="sum", log_target=True)

    @staticmethod
    def twin(log_policy: np.ndarray, log_target: np.ndarray) -> Tensor:
        policy, target = torch.from_numpy(log_policy), torch.from_numpy(log_target)
        return functional.kl_div(target, policy, reduction="sum", log_target=True)
