"""Mean, spread, reported error and coverage of an estimate: exact sums over counts.

How many of n samples fall in each class has a multinomial law, and the estimate is a function of
these counts alone. The sums leave out the counts of a class that are further from their mean than
all but 1e-18 of the mass, which is less than the rounding of a sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import FDivergence, logsumexp
from toy.measurement.ways import Way
from toy.measurement.worlds import World, check_finite

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Of the mass of the counts of a class.
LEFT_OUT = 1e-18
# Counts of all classes but two that are held in memory with those of the others at once.
_BLOCK = 64
# A reported error of zero beside the exact value is right: both carry the rounding of a sum of at
# most a few terms near 1.
_ROUNDING = 1e-12


class Estimates(NamedTuple):
    """Every sample set that matters, with what it reports.

    Attributes
    ----------
    masses : (sets,) array
        Its probability.
    values, errors : (sets,) arrays, nats
        The estimate and its reported standard error; NaN where no sample has any target mass and Z
        is to be estimated from them: the estimate is undefined, and nothing is put in its place.
    """

    masses: Float[np.ndarray, " sets"]
    values: Float[np.ndarray, " sets"]
    errors: Float[np.ndarray, " sets"]


class Quality(NamedTuple):
    """How good an estimate is.

    Attributes
    ----------
    truth : float, nats
        D_f(pi||p).
    mean, deviation, error : float, nats
        Mean and standard deviation of the estimate, and the mean of the standard error that it
        reports, over the sample sets for which it is defined; NaN if there are none.
    coverage : float
        Probability that the truth lies within two reported standard errors of the estimate. An
        undefined estimate covers nothing.
    undefined : float
        Probability that the estimate is undefined.
    """

    truth: float
    mean: float
    deviation: float
    error: float
    coverage: float
    undefined: float

    @property
    def bias(self) -> float:
        """The mean less the truth, in nats."""
        return self.mean - self.truth


def quality(world: World, way: Way, n: int, *, divergence: FDivergence) -> Quality:
    """Return how good the estimate of D_f(pi||p) from n samples is, exactly.

    Parameters
    ----------
    world : World
        Policy, target and base.
    way : Way
        Where the samples and Z come from.
    n : int
        Number of samples, at least 2.
    divergence : FDivergence
        Which f.

    Returns
    -------
    Quality
        Its mean, spread, reported error and coverage.

    Raises
    ------
    ValueError
        For a single sample, which has no standard error; `InfiniteDivergence` where the truth is
        infinite.

    Examples
    --------
    >>> from fdpg_ref import FORWARD_KL
    >>> from toy.measurement.exact import quality
    >>> from toy.measurement.ways import WAYS
    >>> from toy.measurement.worlds import dropping
    >>> found = quality(dropping(0.2, 1e-4), WAYS["policy"], 1024, divergence=FORWARD_KL)
    >>> round(found.truth, 2), round(found.mean, 2), round(found.coverage, 2)
    (1.34, 0.42, 0.1)
    """
    check_finite(world, divergence)
    masses, values, errors = estimates(world, way, n, divergence=divergence)
    truth = world.divergence(divergence)

    # Moments where there is an estimate.
    defined = ~np.isnan(values)
    share = float(np.sum(masses[defined]))
    undefined = float(np.sum(masses[~defined]))
    if not share:
        return Quality(truth, np.nan, np.nan, np.nan, 0.0, undefined)
    weights, known, reported = masses[defined] / share, values[defined], errors[defined]
    mean = float(weights @ known)
    deviation = float(np.sqrt(weights @ (known - mean) ** 2))

    rounding = _ROUNDING * max(1.0, truth)
    covers = np.abs(known - truth) <= 2 * reported + rounding
    coverage = float(np.sum(masses[defined][covers]))
    return Quality(truth, mean, deviation, float(weights @ reported), coverage, undefined)


def estimates(world: World, way: Way, n: int, *, divergence: FDivergence) -> Estimates:
    """Return the estimate of every sample set, with its probability; see `quality`."""
    if n < 2:
        raise ValueError(f"n is {n}: a standard error needs at least 2 samples")
    log_proposal = way.log_proposal(world)
    drawn = log_proposal > -np.inf
    log_weights = world.log_target[drawn] - log_proposal[drawn]

    blocks = []
    for counts, masses in sample_sets(np.exp(log_proposal[drawn]), n):
        log_z = np.zeros(1)
        if way.estimated_z:
            with np.errstate(divide="ignore"):  # nothing drawn of a class is log 0
                log_z = logsumexp(np.log(counts / n) + log_weights)
        # Without any target mass Zhat is zero, and so is p: 0/0.
        log_z = np.where(log_z == -np.inf, np.nan, log_z)
        terms = way.terms(world, log_z, divergence=divergence)

        # `mean_and_standard_error` of samples that come as often as the counts say.
        values = np.sum(counts * terms, axis=-1) / n
        squares = np.sum(counts * (terms - values[:, None]) ** 2, axis=-1)
        blocks.append((masses, values, np.sqrt(squares / (n - 1) / n)))
    return Estimates(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def median_report(
    world: World, way: Way, n: int, *, divergence: FDivergence
) -> tuple[float, float]:
    """Return the estimate that half of the sample sets do not exceed, and its reported error.

    Undefined estimates count as the largest ones; both are NaN if the median is one of them.
    """
    masses, values, errors = estimates(world, way, n, divergence=divergence)
    order = np.argsort(values)  # NaN comes last
    place = order[np.searchsorted(np.cumsum(masses[order]), 0.5 * np.sum(masses))]
    return float(values[place]), float(errors[place])


def chance_to_see(world: World, way: Way, n: int, place: int) -> float:
    """Return the probability that n samples show a class at all."""
    mass = np.exp(way.log_proposal(world)[place])
    return float(-np.expm1(n * np.log1p(-mass)))


def sample_sets(
    probs: Float[np.ndarray, " k"], n: int
) -> Iterator[tuple[Int[np.ndarray, "sets k"], Float[np.ndarray, " sets"]]]:
    """Yield blocks of counts (sets, k) with their multinomial masses (sets,).

    The rarest class comes first: it has the fewest counts that matter.
    """
    order = np.argsort(probs)
    inverse, ordered = np.argsort(order), probs[order]
    odds = ordered / np.cumsum(ordered[::-1])[::-1]  # of a class among those that are left

    counts, masses = np.empty((1, 0), dtype=int), np.ones(1)
    for prob in odds[:-2]:
        counts, masses = _extended(counts, masses, n, prob)
    for start in range(0, len(counts), _BLOCK):
        block, given = counts[start : start + _BLOCK], masses[start : start + _BLOCK]
        if odds.size > 1:
            block, given = _extended(block, given, n, odds[-2])
        last = n - np.sum(block, axis=-1, keepdims=True)
        yield np.concatenate([block, last], axis=-1)[:, inverse], given


def _extended(
    counts: np.ndarray, masses: np.ndarray, n: int, prob: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return every row of counts with every count of the next class, and their masses."""
    # Half a second to import, which the commands without such sums need not pay.
    from scipy.stats import binom  # noqa: PLC0415

    left = n - np.sum(counts, axis=-1)
    low, high = _window(prob, left)

    # One row for each count from low to high.
    lengths = high - low + 1
    rows = np.repeat(np.arange(len(counts)), lengths)
    starts = np.cumsum(lengths) - lengths
    new = low[rows] + np.arange(rows.size) - starts[rows]

    given = masses[rows] * binom.pmf(new, left[rows], prob)
    return np.concatenate([counts[rows], new[:, None]], axis=-1), given


def _window(prob: float, n: Int[np.ndarray, " rows"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and largest counts between which binomials have all but `LEFT_OUT`.

    By Bernstein's inequality, P(abs(k - np) >= t) <= 2 exp(-t^2 / (2 np(1 - p) + 2t/3)).
    """
    log_share = np.log(2 / LEFT_OUT)
    variance = n * prob * (1 - prob)
    reach = log_share / 3 + np.sqrt((log_share / 3) ** 2 + 2 * log_share * variance)
    low, high = np.floor(n * prob - reach), np.ceil(n * prob + reach)
    return np.maximum(low, 0).astype(int), np.minimum(high, n).astype(int)
