"""Numbers of the report that are no claims: bias against batch size, noise, signal to noise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import DIVERGENCES, REVERSE_KL, exact_divergence, score_signal
from toy.estimators.composition import Composition, world_of
from toy.estimators.estimates import World
from toy.exact import estimator_moments, signal_to_noise
from toy.problems import Problem, random_problem
from toy.verify.cases import cases

if TYPE_CHECKING:
    from jaxtyping import Float

SIZES = (2, 4, 8, 16, 32)
# Divergences shown in the figures: one of each kind of verdict.
SHOWN = ("reverse_kl", "pearson_chi2", "forward_kl", "jensen_shannon", "total_variation")
BASELINES = ("none", "optimal", "running", "leave_one_out")
# Of the way from the target to the policy, in log-probabilities.
DISTANCES = (1.0, 0.5, 0.1)
_BATCH = 5


class Noise(NamedTuple):
    """What one sample of the gradient is worth, at one distance from the target.

    Attributes
    ----------
    signal_to_noise : float
        |E ghat| / sqrt(trace Cov) of a batch of five with leave-one-out baseline, the median over
        the problems.
    samples : float
        How many samples without baseline make the ratio one: (noise / signal)^2.
    rarest : float
        Share of the noise E|c s|^2 that comes from the outcome which the policy draws least.
    """

    signal_to_noise: float
    samples: float
    rarest: float


def bias_problem() -> Problem:
    """Return the problem of the bias figure: three outcomes, so that n = 32 is 561 multisets."""
    return random_problem(np.random.default_rng(7), outcomes=3, spread=1.5)


def relative_bias(composition: Composition, world: World) -> float:
    """Return |E ghat - g| / |g|, over all batches.

    Parameters
    ----------
    composition : Composition
        The estimator.
    world : World
        The outcomes.

    Returns
    -------
    float
        Zero, to rounding, for an unbiased one.
    """
    log_target = world.log_score - world.log_z
    signal = score_signal(
        world.log_policy, log_target, divergence=DIVERGENCES[composition.divergence]
    )
    truth = estimator_moments(world.log_policy, signal, world.scores).mean
    mean = composition.moments(world).mean
    return float(np.linalg.norm(mean - truth) / np.linalg.norm(truth))


@cache
def bias_curves() -> Mapping[str, Mapping[str, Float[np.ndarray, " sizes"]]]:
    """Return the relative bias at each batch size, by Z policy (and baseline) and divergence.

    The past has as many samples of the policy as the batch, or two where the batch joins it.
    """
    world = world_of(bias_problem())
    choices = {
        "same batch": lambda name, n: Composition(name, partition="same_batch", n=n),
        "same batch, LOO baseline": lambda name, n: Composition(
            name, partition="same_batch", baseline="leave_one_out", n=n
        ),
        "leave-one-out": lambda name, n: Composition(name, partition="leave_one_out", n=n),
        # A past Z meets every sample in the same way: one sample of each past will do.
        "past-only": lambda name, n: Composition(name, partition="past_only", n=1, past=n),
        "past and current": lambda name, n: Composition(
            name, partition="past_and_current", n=n, past=2
        ),
    }
    return {
        title: {
            name: np.array([relative_bias(make(name, n), world) for n in SIZES]) for name in SHOWN
        }
        for title, make in choices.items()
    }


@cache
def noise_of_baselines() -> Mapping[str, Mapping[str, float]]:
    """Return the trace of the covariance over that without baseline, by baseline and divergence.

    The median over the problems of the claims, for batches of five, all of them.
    """
    traces = {
        (baseline, name): np.array(
            [
                np.trace(
                    Composition(name, baseline=baseline, n=_BATCH, past=_BATCH)
                    .moments(case.world())
                    .covariance
                )
                for case in cases()
            ]
        )
        for baseline in BASELINES
        for name in DIVERGENCES
    }

    return {
        baseline: {
            name: float(np.median(traces[baseline, name] / traces["none", name]))
            for name in DIVERGENCES
        }
        for baseline in BASELINES
    }


@cache
def noise_of_divergences() -> Mapping[str, Mapping[float, Noise]]:
    """Return the signal-to-noise ratios, by divergence and distance from the target."""
    return {
        name: {distance: _noise(name, distance) for distance in DISTANCES} for name in DIVERGENCES
    }


@cache
def missing_mode() -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
    """Return the policy's mass on a mode it misses, and each divergence's signal to noise there.

    The target has 0.45, 0.45 and 0.1; the policy has eps on the first and shares the rest as the
    target does, but for a factor of 1.5. Batches of five, leave-one-out baseline.
    """
    masses = np.logspace(-4, np.log10(0.4), 13)
    ratios = {name: [] for name in DIVERGENCES}
    for mass in masses:
        policy = np.array([mass, 1.0, 1.0 / 6.75])
        policy[1:] *= (1 - mass) / np.sum(policy[1:])
        world = World(
            log_policy=np.log(policy),
            log_score=np.log([0.45, 0.45, 0.1]),
            log_base=np.log(policy),
            scores=np.eye(3) - policy,
            log_z=0.0,
        )
        for name, values in ratios.items():
            found = Composition(name, baseline="leave_one_out", n=_BATCH).moments(world)
            values.append(signal_to_noise(found))
    return masses, {name: np.array(values) for name, values in ratios.items()}


def distance_in_nats(distance: float) -> float:
    """Return the median KL(pi||p) at one of `DISTANCES`."""
    values = [
        exact_divergence(world.log_policy, world.log_score, divergence=REVERSE_KL)
        for world in _worlds(distance)
    ]
    return float(np.median(values))


def _worlds(distance: float) -> tuple[World, ...]:
    """Return the full softmax problems with the policy moved towards the target."""
    worlds = []
    for case in cases():
        logits = case.log_target + distance * (case.log_policy - case.log_target)
        log_policy = logits - np.log(np.sum(np.exp(logits)))
        scores = np.eye(logits.size) - np.exp(log_policy)
        worlds.append(World(log_policy, case.log_target, case.log_base, scores, 0.0))
    return tuple(worlds)


def _noise(name: str, distance: float) -> Noise:
    ratios, samples, shares = [], [], []
    for world in _worlds(distance):
        batch = Composition(name, baseline="leave_one_out", n=_BATCH).moments(world)
        single = Composition(name, n=1).moments(world)
        signal = score_signal(world.log_policy, world.log_score, divergence=DIVERGENCES[name])
        noise = np.exp(world.log_policy) * signal**2 * np.sum(world.scores**2, axis=-1)
        ratios.append(signal_to_noise(batch))
        samples.append(1 / signal_to_noise(single) ** 2)
        shares.append(noise[np.argmin(world.log_policy)] / np.sum(noise))
    return Noise(*(float(np.median(values)) for values in (ratios, samples, shares)))
