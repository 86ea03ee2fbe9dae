"""Named small problems, and random ones with large, asymmetric log-ratios.

A problem is a base, a target given by its unnormalised log-score, and a family of policies with a
starting point. The outcomes are few, so every expectation is a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from fdpg_ref import (
    constrained,
    exact_log_partition,
    exponential_family,
    fit_multipliers,
    log_softmax,
    reward_tilted,
)
from toy.families import Family, GaussianFamily, SoftmaxFamily, TiltFamily
from toy.sequences import TabularFamily

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Problem:
    """A target to be met by a family of policies over k outcomes.

    Attributes
    ----------
    name, description : str
        The key in `PROBLEMS`, and one sentence.
    family : Family
        The policies; theta has ``family.size`` entries.
    start : (d,) array
        Parameters of the first policy.
    log_base : (k,) array, nats
        Log-probabilities of the base a.
    log_score : (k,) array, nats
        log P, unnormalised; -inf excludes an outcome.
    labels : tuple of str
        A name for each outcome.
    feature : (k,) array or None
        phi, whose mean under the policy is the alignment; None where there is none.
    feature_name : str
        The meaning of phi.
    """

    name: str
    description: str
    family: Family
    start: Float[np.ndarray, " d"]
    log_base: Float[np.ndarray, " k"]
    log_score: Float[np.ndarray, " k"]
    labels: tuple[str, ...]
    feature: Float[np.ndarray, " k"] | None = None
    feature_name: str = ""

    @property
    def log_z(self) -> float:
        """Logarithm of the partition function Z = sum of P, in nats."""
        return float(exact_log_partition(self.log_score))

    @property
    def log_target(self) -> Float[np.ndarray, " k"]:
        """Normalised log p = log P - log Z, in nats."""
        return self.log_score - self.log_z


def random_problem(
    rng: np.random.Generator,
    *,
    outcomes: int = 4,
    spread: float = 2.0,
    holes: int = 0,
    parameters: int | None = None,
) -> Problem:
    """Draw a problem with asymmetric, large log-ratios between policy, base and target.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the problem.
    outcomes : int
        Number k of outcomes, at least 2.
    spread : float, nats
        Scale of every log-probability. The target is exponential, hence skewed, and its Z is not 1.
    holes : int
        Number of outcomes that the target excludes, less than ``outcomes``.
    parameters : int or None
        None for the full softmax family; else the dimension of a random tilt family, in which the
        target lies only by accident.

    Returns
    -------
    Problem
        Policy at the start, base and target are unrelated.

    Raises
    ------
    ValueError
        If no outcome would be left in the target, or there is no choice of outcome.
    """
    if outcomes < 2 or not 0 <= holes < outcomes:
        raise ValueError(
            f"outcomes is {outcomes} and holes is {holes}: this needs at least two outcomes and at "
            "least one that the target allows"
        )

    # Target and base, unrelated to each other.
    log_score = 1.0 - spread * rng.exponential(size=outcomes)
    log_score[rng.permutation(outcomes)[:holes]] = -np.inf
    log_base = log_softmax(0.5 * spread * rng.normal(size=outcomes))

    # The policies, and where they start.
    family: Family
    if parameters is None:
        family, start = SoftmaxFamily(outcomes), spread * rng.normal(size=outcomes)
    else:
        family = TiltFamily(log_base, rng.normal(size=(outcomes, parameters)))
        start = spread * rng.normal(size=parameters)
    return Problem(
        name="random",
        description="policy, base and target drawn at random, far apart",
        family=family,
        start=start,
        log_base=log_base,
        log_score=log_score,
        labels=tuple(f"x{index}" for index in range(outcomes)),
    )


def _coin() -> Problem:
    log_base = np.log(np.array([0.5, 0.5]))
    log_score = np.log(np.array([1.8, 0.2]))
    return Problem(
        name="coin",
        description="a fair coin learns to show heads nine times out of ten",
        family=SoftmaxFamily(2),
        start=log_base,
        log_base=log_base,
        log_score=log_score,
        labels=("heads", "tails"),
        feature=np.array([1.0, 0.0]),
        feature_name="share of heads",
    )


def _bimodal() -> Problem:
    points = np.linspace(-6.0, 6.0, 61)
    family = GaussianFamily(points)
    start = np.array([0.5, np.log(2.0)])
    modes = [
        np.log(0.6) + family.log_probs(np.array([-2.5, np.log(0.7)])),
        np.log(0.4) + family.log_probs(np.array([2.5, np.log(0.5)])),
    ]
    return Problem(
        name="bimodal",
        description="one Gaussian must settle with two modes: sit on one or span both",
        family=family,
        start=start,
        log_base=family.log_probs(start),
        log_score=np.logaddexp(*modes) + 0.7,
        labels=tuple(f"{point:.1f}" for point in points),
        feature=(points < 0).astype(float),
        feature_name="mass left of zero",
    )


def _tilt() -> Problem:
    log_base = np.log(np.array([0.05, 0.10, 0.20, 0.30, 0.20, 0.10, 0.04, 0.01]))
    ranks = np.linspace(-1.0, 1.0, 8)
    return Problem(
        name="tilt",
        description="one knob that shifts mass up or down a scale, against a target with two ends",
        family=TiltFamily(log_base, ranks[:, None]),
        start=np.zeros(1),
        log_base=log_base,
        log_score=np.log(np.array([0.30, 0.10, 0.03, 0.02, 0.03, 0.07, 0.25, 0.20])),
        labels=tuple("ABCDEFGH"),
        feature=(ranks > 0).astype(float),
        feature_name="mass above the middle",
    )


# A dozen outcomes; the four that satisfy the constraint have 0.6 % of the base between them.
_RARE_BASE = np.array([0.3, 0.2, 0.15, 0.12, 0.1, 0.07, 0.04, 0.014, 0.003, 0.002, 0.0009, 0.0001])
_RARE_FEATURE = (np.arange(12) >= 8).astype(float)


def _rare() -> Problem:
    log_base = np.log(_RARE_BASE)
    fit = fit_multipliers(log_base, _RARE_FEATURE[:, None], np.array([0.95]))
    return Problem(
        name="rare",
        description="a feature with 0.6 % of the base is to hold in 95 % of the samples",
        family=SoftmaxFamily(12),
        start=log_base,
        log_base=log_base,
        log_score=exponential_family(log_base, _RARE_FEATURE[:, None], fit.multipliers),
        labels=tuple("abcdefghIJKL"),
        feature=_RARE_FEATURE,
        feature_name="constraint satisfied",
    )


def _hard() -> Problem:
    log_base = np.log(_RARE_BASE)
    return Problem(
        name="hard",
        description="the same rare feature as an absolute rule: the target excludes all the rest",
        family=SoftmaxFamily(12),
        start=log_base,
        log_base=log_base,
        log_score=constrained(log_base, _RARE_FEATURE > 0),
        labels=tuple("abcdefghIJKL"),
        feature=_RARE_FEATURE,
        feature_name="constraint satisfied",
    )


def _distributional() -> Problem:
    log_base = np.log(np.array([0.30, 0.20, 0.12, 0.08, 0.05, 0.12, 0.06, 0.04, 0.02, 0.01]))
    female = (np.arange(10) >= 5).astype(float)
    fit = fit_multipliers(log_base, female[:, None], np.array([0.5]))
    return Problem(
        name="distributional",
        description="a feature with a quarter of the base is to reach one half, no more",
        family=SoftmaxFamily(10),
        start=log_base,
        log_base=log_base,
        log_score=exponential_family(log_base, female[:, None], fit.multipliers),
        labels=("m1", "m2", "m3", "m4", "m5", "f1", "f2", "f3", "f4", "f5"),
        feature=female,
        feature_name="share of the feature",
    )


def _rlhf() -> Problem:
    log_base = np.log(np.array([0.40, 0.25, 0.15, 0.10, 0.06, 0.03, 0.01]))
    reward = np.array([0.0, 0.3, -0.5, 0.8, 1.0, 0.6, 2.0])
    return Problem(
        name="rlhf",
        description="a reward with a KL penalty of 0.5: the tilted target of RLHF",
        family=SoftmaxFamily(7),
        start=log_base,
        log_base=log_base,
        log_score=reward_tilted(log_base, reward, beta=0.5),
        labels=tuple(f"r={value:g}" for value in reward),
        feature=reward,
        feature_name="mean reward",
    )


def _sequences() -> Problem:
    family = TabularFamily(vocabulary=2, max_length=4)
    # One row for every prefix: a base without memory, which the target then gives it.
    start = np.tile(np.array([1.0, -0.5, -0.2]), family.prefixes)
    log_base = family.log_probs(start)
    contains = np.array([float("ba" in label) for label in family.labels()])
    fit = fit_multipliers(log_base, contains[:, None], np.array([0.8]))
    return Problem(
        name="sequences",
        description="all sequences of a and b up to length 4; 80 % of them shall contain ba",
        family=family,
        start=start,
        log_base=log_base,
        log_score=exponential_family(log_base, contains[:, None], fit.multipliers),
        labels=family.labels(),
        feature=contains,
        feature_name='contains "ba"',
    )


PROBLEMS: Mapping[str, Callable[[], Problem]] = MappingProxyType(
    {
        "coin": _coin,
        "bimodal": _bimodal,
        "tilt": _tilt,
        "rare": _rare,
        "hard": _hard,
        "distributional": _distributional,
        "rlhf": _rlhf,
        "sequences": _sequences,
    }
)
