"""Estimators as loops over Python numbers, for the tests of the toy.

Nothing here imports fdpg_ref or toy. A slow estimator maps one batch of outcomes to one coefficient
a sample; `slow_mean` runs it over all batches, one at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# f'(t) - f'(1), as in a paper's table.
SIGNALS: dict[str, Callable[[float], float]] = {
    "forward_kl": lambda t: 1 - 1 / t,
    "reverse_kl": math.log,
    "total_variation": lambda t: (t > 1) / 2 - (t < 1) / 2,
    "jensen_shannon": lambda t: math.log(2 * t / (t + 1)) / 2,
    "pearson_chi2": lambda t: 2 * (t - 1),
    "neyman_chi2": lambda t: 1 - 1 / t**2,
    "squared_hellinger": lambda t: 1 - 1 / math.sqrt(t),
    "jeffreys": lambda t: math.log(t) + 1 - 1 / t,
    "le_cam": lambda t: 1 - 4 / (t + 1) ** 2,
}
ALPHA = {
    "forward_kl": 0.0,
    "reverse_kl": 1.0,
    "squared_hellinger": 0.5,
    "pearson_chi2": 2.0,
    "neyman_chi2": -1.0,
}


class World(NamedTuple):
    """Probabilities of k outcomes: policy, unnormalised target, base, and scores (k, d)."""

    policy: list[float]
    unnormalised: list[float]
    base: list[float]
    scores: list[list[float]]

    @property
    def z(self) -> float:
        return math.fsum(self.unnormalised)

    @property
    def target(self) -> list[float]:
        return [weight / self.z for weight in self.unnormalised]


# From (world, signal, proposal, batch, past) to one coefficient a sample, weights not included.
Coefficients = Callable[[World, Callable, Sequence[float], Sequence[int], Sequence[int]], list]


def world_of(case) -> World:
    """Return the world of a case (of toy.verify.cases) as lists of numbers."""
    columns = (np.exp(log).tolist() for log in (case.log_policy, case.log_score, case.log_base))
    return World(*columns, scores=case.scores.tolist())


def gradient(world: World, name: str) -> np.ndarray:
    """Return the sum of pi f'(pi/p) score over the outcomes, one at a time."""
    total = np.zeros(len(world.scores[0]))
    for pi, p, score in zip(world.policy, world.target, world.scores, strict=True):
        total += pi * SIGNALS[name](pi / p) * np.array(score)
    return total


def slow_mean(
    coefficients: Coefficients,
    world: World,
    name: str,
    *,
    n: int,
    past: int = 0,
    off_policy: bool = False,
) -> np.ndarray:
    """Return the mean over all batches of (1/n) sum_i w_i c_i s_i."""
    proposal = world.base if off_policy else world.policy
    total = np.zeros(len(world.scores[0]))
    outcomes = range(len(world.policy))
    for before in itertools.product(outcomes, repeat=past):
        for batch in itertools.product(outcomes, repeat=n):
            mass = math.prod(world.base[x] for x in before)
            mass *= math.prod(proposal[x] for x in batch)
            c = coefficients(world, SIGNALS[name], proposal, batch, before)
            for x, value in zip(batch, c, strict=True):
                weight = world.policy[x] / proposal[x]
                total += mass * weight * value / n * np.array(world.scores[x])
    return total


def mean_ratio(world: World, proposal: Sequence[float], batch: Sequence[int]) -> float:
    """Return Zhat, the mean of P/q over a batch."""
    return math.fsum(world.unnormalised[x] / proposal[x] for x in batch) / len(batch)


def partition_factor(world: World, proposal: Sequence[float], n: int, alpha: float) -> float:
    """Return E[(Zhat/Z)^(alpha - 1)] over all batches of n."""
    return math.fsum(
        math.prod(proposal[x] for x in batch)
        * (mean_ratio(world, proposal, batch) / world.z) ** (alpha - 1)
        for batch in itertools.product(range(len(proposal)), repeat=n)
    )


def _others(values: Sequence, i: int) -> list:
    return [value for j, value in enumerate(values) if j != i]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _centred(signals: list[float]) -> list[float]:
    return [own - _mean(_others(signals, i)) for i, own in enumerate(signals)]


def _with_z(world: World, signal: Callable, batch: Sequence[int], z: float) -> list[float]:
    return [signal(world.policy[x] * z / world.unnormalised[x]) for x in batch]


def plain(world, signal, proposal, batch, past):
    return _with_z(world, signal, batch, world.z)


def constant_baseline(world, signal, proposal, batch, past):
    return [own - 0.7 for own in plain(world, signal, proposal, batch, past)]


def leave_one_out(world, signal, proposal, batch, past):
    return _centred(plain(world, signal, proposal, batch, past))


def weighted_leave_one_out(world, signal, proposal, batch, past):
    own = plain(world, signal, proposal, batch, past)
    weighted = [world.policy[x] / proposal[x] * c for x, c in zip(batch, own, strict=True)]
    return [c - _mean(_others(weighted, i)) for i, c in enumerate(own)]


def batch_mean(world, signal, proposal, batch, past):
    own = plain(world, signal, proposal, batch, past)
    return [c - _mean(own) for c in own]


def weighted_batch_mean(world, signal, proposal, batch, past):
    own = plain(world, signal, proposal, batch, past)
    weighted = [world.policy[x] / proposal[x] * c for x, c in zip(batch, own, strict=True)]
    return [c - _mean(weighted) for c in own]


def self_normalised(world, signal, proposal, batch, past):
    mean_weight = _mean([world.policy[x] / proposal[x] for x in batch])
    return [c / mean_weight for c in plain(world, signal, proposal, batch, past)]


def same_batch_z(world, signal, proposal, batch, past):
    return _with_z(world, signal, batch, mean_ratio(world, proposal, batch))


def same_batch_z_leave_one_out(world, signal, proposal, batch, past):
    return _centred(same_batch_z(world, signal, proposal, batch, past))


def leave_one_out_z(world, signal, proposal, batch, past):
    return [
        _with_z(world, signal, [x], mean_ratio(world, proposal, _others(batch, i)))[0]
        for i, x in enumerate(batch)
    ]


def leave_one_out_z_leave_one_out(world, signal, proposal, batch, past):
    return _centred(leave_one_out_z(world, signal, proposal, batch, past))


def frozen_z(world, signal, proposal, batch, past):
    return _with_z(world, signal, batch, mean_ratio(world, world.base, past))


def frozen_z_leave_one_out(world, signal, proposal, batch, past):
    return _centred(frozen_z(world, signal, proposal, batch, past))


def past_and_current_z(world, signal, proposal, batch, past):
    ratios = [world.unnormalised[x] / world.base[x] for x in past]
    ratios += [world.unnormalised[x] / proposal[x] for x in batch]
    return _with_z(world, signal, batch, _mean(ratios))


def wrong_z(world, signal, proposal, batch, past):
    return _with_z(world, signal, batch, world.z * math.exp(0.7))
