"""Claims about measuring a divergence by samples, where the policy dropped a part of the target.

Nothing is drawn: all means, errors and coverages are sums over counts (`toy.measurement.exact`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

from fdpg_ref import FORWARD_KL, JENSEN_SHANNON, TOTAL_VARIATION, FDivergence
from toy.measurement.exact import Quality, chance_to_see, quality
from toy.measurement.ways import WAYS
from toy.measurement.worlds import DROPPED, OUTSIDE, World, dropping
from toy.verify.records import BIASED, Comparison, at_most
from toy.verify.register import Claims

MEASURED = tuple(f.name for f in (FORWARD_KL, TOTAL_VARIATION, JENSEN_SHANNON))
# Shares of the target that are dropped, how often n samples of the policy show them on average,
# and n.
_SHARES, _SIGHTINGS, _SIZES = (0.1, 0.2, 0.3, 0.5), (0.03, 0.1, 0.3, 1.0), (64, 1024, 100_000)


class Measurement(NamedTuple):
    """A policy and a number of samples to measure it by."""

    world: World
    n: int

    def by(self, way: str, divergence: FDivergence) -> Quality:
        """Return the quality of the estimate that is made in this way."""
        return quality(self.world, WAYS[way], self.n, divergence=divergence)

    def sees(self, way: str) -> float:
        """Return the chance that samples made in this way show what was dropped."""
        return chance_to_see(self.world, WAYS[way], self.n, DROPPED)


def dropped(
    *, shares: tuple[float, ...] = _SHARES, sightings: tuple[float, ...] = _SIGHTINGS
) -> list[Measurement]:
    """Return the registered policies: a dropped share, seen so many times by n samples."""
    return [
        Measurement(dropping(share, seen / n), n)
        for n, share, seen in product(_SIZES, shares, sightings)
    ]


def rare() -> list[Measurement]:
    """Return policies for a hard target that the base meets rarely."""
    return [
        Measurement(dropping(share, seen / n, outside=0.05, base_rate=rate), n)
        for n, share, seen, rate in product((64, 512), (0.1, 0.3), (0.1, 1.0), (4e-3, 4e-4))
    ]


def kept() -> list[Measurement]:
    """Return policies that are off by a fifth on a part of the target and drop nothing."""
    return [
        Measurement(dropping(share, 0.8 * share), n)
        for n, share in product(_SIZES[1:], (0.2, 0.3, 0.5))
    ]


CLAIMS = Claims("tests/toy/test_measurement.py", dropped, test="test_what_is_dropped_is_not_seen")
_each: Callable[..., Callable[[Callable[..., Comparison]], Callable[..., Comparison]]] = partial(
    CLAIMS.each, "measurement", where=lambda divergence: divergence.name in MEASURED
)


@_each("a dropped mode: the mean is not D_f", "policy samples, Z from them", claimed=BIASED)
def _not_the_truth(case: Measurement, divergence: FDivergence) -> Comparison:
    found = case.by("policy", divergence)
    return Comparison(np.array(found.mean), np.array(found.truth))


@_each("... it is below D_f on every policy that drops at most half", "policy samples, Z from them")
def _below(case: Measurement, divergence: FDivergence) -> Comparison:
    found = case.by("policy", divergence)
    return at_most(found.mean, found.truth)


@_each("... and at most the largest value times the chance to see", "policy samples, Z from them")
def _below_the_chance(case: Measurement, divergence: FDivergence) -> Comparison:
    # n shares of a whole have entropies from 0 to log n, so that this KL is at most log n.
    largest = {"forward_kl": np.log(case.n), "total_variation": 1.0, "jensen_shannon": np.log(2)}
    mean = case.by("policy", divergence).mean
    return at_most(mean, case.sees("policy") * float(largest[divergence.name]))


@_each(
    "... at most D_f/2 where a fifth or more is dropped and one set in ten shows it",
    "policy samples, Z from them",
    problems=partial(dropped, shares=(0.2, 0.3, 0.5), sightings=(0.03, 0.1)),
)
def _half_at_most(case: Measurement, divergence: FDivergence) -> Comparison:
    found = case.by("policy", divergence)
    return at_most(found.mean, found.truth / 2)


@_each("value +- 2 errors covers D_f at most as often as it is seen", "policy samples, Z from them")
def _coverage(case: Measurement, divergence: FDivergence) -> Comparison:
    return at_most(case.by("policy", divergence).coverage, case.sees("policy"))


@_each("with the exact Z the mean is D_f", "policy samples, exact Z")
def _exact_z(case: Measurement, divergence: FDivergence) -> Comparison:
    return _mean_and_truth(case, "policy_exact_z", divergence)


@_each("... but it covers D_f at most as often as it is seen", "policy samples, exact Z")
def _coverage_exact_z(case: Measurement, divergence: FDivergence) -> Comparison:
    return at_most(case.by("policy_exact_z", divergence).coverage, case.sees("policy"))


@_each(
    "... and its mean standard error is at most sqrt(chance to see) of the true one",
    "policy samples, exact Z",
)
def _error(case: Measurement, divergence: FDivergence) -> Comparison:
    # By Cauchy-Schwarz: the error is zero where nothing is seen, and its square is unbiased.
    found = case.by("policy_exact_z", divergence)
    return at_most(found.error, found.deviation * case.sees("policy") ** 0.5)


@_each("the mean is D_f", "samples of p", test="test_other_samples_are_unbiased")
def _target(case: Measurement, divergence: FDivergence) -> Comparison:
    return _mean_and_truth(case, "target", divergence)


@_each(
    "... whatever the target excludes",
    "samples of p",
    problems=rare,
    test="test_other_samples_are_unbiased",
)
def _hard_target(case: Measurement, divergence: FDivergence) -> Comparison:
    return _mean_and_truth(case, "target", divergence)


@_each(
    "value +- 2 errors covers D_f with 93 % or more",
    "samples of p",
    test="test_samples_of_the_target_cover",
)
def _target_covers(case: Measurement, divergence: FDivergence) -> Comparison:
    return at_most(1 - case.by("target", divergence).coverage, 0.07)


@_each(
    "the mean is D_f",
    "samples of (p + pi)/2",
    problems=rare,
    test="test_other_samples_are_unbiased",
)
def _mixture(case: Measurement, divergence: FDivergence) -> Comparison:
    return _mean_and_truth(case, "mixture", divergence)


@_each(
    "the mean is D_f",
    "samples of (pi + a)/2",
    problems=rare,
    test="test_other_samples_are_unbiased",
)
def _with_base(case: Measurement, divergence: FDivergence) -> Comparison:
    return _mean_and_truth(case, "with_base", divergence)


@_each(
    "... but of a rare target the base shows as little: it covers at most as often as it is seen",
    "samples of (pi + a)/2",
    problems=rare,
)
def _base_coverage(case: Measurement, divergence: FDivergence) -> Comparison:
    return at_most(case.by("with_base", divergence).coverage, case.sees("with_base"))


@_each(
    "nothing dropped: the means of both differ by at most a quarter of a standard error",
    "policy samples, samples of p",
    problems=kept,
    test="test_where_nothing_is_dropped_both_agree",
)
def _agree(case: Measurement, divergence: FDivergence) -> Comparison:
    ours, theirs = (case.by(way, divergence) for way in ("policy", "target"))
    return at_most(abs(ours.mean - theirs.mean), 0.25 * ours.deviation)


@CLAIMS.once(
    "measurement",
    "a policy that drops a thousand times harder has a larger KL(p‖pi), and seems 40 times better",
    "policy samples, Z from them",
    divergence="forward_kl",
    problems=lambda: [Measurement(dropping(share, 1e-3), 1024) for share in (0.1, 0.2, 0.3, 0.5)],
    test="test_the_harder_it_drops_the_better_it_looks",
)
def _reversal(case: Measurement) -> Comparison:
    share = float(np.exp(case.world.log_target[DROPPED]))
    harder = Measurement(dropping(share, 1e-6), case.n).by("policy", FORWARD_KL)
    found = case.by("policy", FORWARD_KL)
    # Either ratio above its bound breaks the claim.
    return at_most(max(40 * harder.mean / found.mean, found.truth / harder.truth), 1.0)


@CLAIMS.once(
    "measurement",
    "no target mass in any sample: undefined, with probability pi(outside)^n",
    "policy samples, Z from them",
    divergence="forward_kl",
    problems=rare,
    test="test_without_target_mass_the_estimate_is_undefined_and_covers_nothing",
)
def _undefined(case: Measurement) -> Comparison:
    outside = np.exp(case.world.log_policy[OUTSIDE])
    # Small powers of a small mass: relative to one, as a probability is.
    found = case.by("policy", FORWARD_KL).undefined
    return Comparison(np.array(found), outside**case.n, scale=1.0)


def _mean_and_truth(case: Measurement, way: str, divergence: FDivergence) -> Comparison:
    found = case.by(way, divergence)
    return Comparison(np.array(found.mean), np.array(found.truth))
