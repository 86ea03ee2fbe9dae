"""Means of samples with their standard errors, and what they are compared with.

A sum over all texts is split in two wherever it can be: the listed names are summed exactly and
only the rest is estimated, from base and policy samples in equal parts (their balanced mixture is
the proposal, whose importance weights never exceed two over either of them). A model without a
list has no such split: everything is estimated.

Values of samples have shape (contexts, n). With several contexts, as prompts make them, each one's
mean is one value, and the standard error is that of the mean over contexts: prompts stand for
others like them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fdpg_ref import Estimate, mean_and_standard_error
from lm.run.records import ROUNDING

# Of central third absolute moments to variance: 25 ones, and 25 zeros, expected of a share.
LARGEST_RATIO = 0.2


class SplitSum(NamedTuple):
    """A sum over all texts by two estimators, and the z-score that compares them.

    Attributes
    ----------
    combined
        Listed names exactly, the rest by importance sampling; None where there is no list.
    sampled
        Everything by importance sampling.
    z
        Sampled listed part against the exact one, in standard errors (the rest is common to both);
        NaN where there is no list.
    """

    combined: Estimate | None
    sampled: Estimate
    z: float

    @property
    def best(self) -> Estimate:
        """The better of the two."""
        return self.sampled if self.combined is None else self.combined


def over_contexts(estimates: Estimate) -> Estimate:
    """Return the mean over contexts of each one's estimate, and its standard error.

    Parameters
    ----------
    estimates
        Tensors of shape (contexts,). A single context keeps its own standard error.

    Returns
    -------
    Estimate
        Scalars.
    """
    if len(estimates.mean) == 1:
        return Estimate(estimates.mean[0], estimates.standard_error[0])
    return mean_and_standard_error(estimates.mean)


def sample_mean(values: Tensor) -> Estimate:
    """Return the mean of values of samples, shape (contexts, n), over samples and contexts."""
    return over_contexts(mean_and_standard_error(values))


def two_strata(base_terms: Tensor, policy_terms: Tensor) -> Estimate:
    """Return the mean of terms over two samples of equal size, one of the base, one of the policy.

    Parameters
    ----------
    base_terms, policy_terms
        Shape (contexts, n): t(x)/m(x) with m = (a + pi)/2, the balanced mixture.

    Returns
    -------
    Estimate
        Of sum_x t(x), averaged over contexts.
    """
    base, policy = mean_and_standard_error(base_terms), mean_and_standard_error(policy_terms)
    error = torch.hypot(base.standard_error, policy.standard_error) / 2
    return over_contexts(Estimate((base.mean + policy.mean) / 2, error))


def split_sum(
    list_terms: Tensor,
    base_terms: Tensor,
    policy_terms: Tensor,
    *,
    base_listed: Tensor,
    policy_listed: Tensor,
    listed_error: float,
) -> SplitSum:
    """Sum a quantity over all texts: the list exactly, the rest from two samples.

    sum_x t(x) = sum_listed t(x) + E_m[1(x unlisted) t(x)/m(x)],  m = (a + pi)/2.

    Parameters
    ----------
    list_terms
        Shape (listed,): t of the listed names.
    base_terms, policy_terms
        Shape (1, n): t(x)/m(x) of n samples of the base and of n samples of the policy.
    base_listed, policy_listed
        Shape (1, n), bool: whether the sample is a listed name.
    listed_error
        The standard error of the listed part's estimate (`exact_error`).

    Returns
    -------
    SplitSum
        Both estimates; standard errors of a mean over two strata of equal size.
    """
    zero = torch.zeros((), dtype=base_terms.dtype)
    rest = two_strata(
        torch.where(base_listed, zero, base_terms), torch.where(policy_listed, zero, policy_terms)
    )
    listed = two_strata(
        torch.where(base_listed, base_terms, zero), torch.where(policy_listed, policy_terms, zero)
    )
    exact = float(list_terms.sum())
    z = z_score(float(listed.mean) - exact, listed_error)
    return SplitSum(
        Estimate(exact + rest.mean, rest.standard_error),
        two_strata(base_terms, policy_terms),
        z,
    )


def exact_error(terms: Tensor, log_probs: Sequence[Tensor], n: int) -> float:
    """Return the exact standard error of an estimate of a sum over the list, or NaN.

    Samples that miss what is rare also miss its variance, so that a z-score with their own error
    would be large just where there is least to see. On the list, the variance is a finite sum.
    Where few samples carry the estimate it is not normal, whatever its variance; there is no error
    then. For a share the rule is that some 25 ones are expected, and some 25 zeros (Lyapunov's
    ratio, which bounds the distance from the normal law, is one over the root of that number).

    Parameters
    ----------
    terms
        Shape (names,): what a listed name adds if it is drawn; other texts add nothing.
    log_probs
        Of each law that n samples are drawn from, shape (names,), nats; the estimate is the mean
        over the laws of their samples' means.
    n
        Samples of each.

    Returns
    -------
    float
        sqrt(sum over the laws of Var[term]/n) over their number.
    """
    variance = third = 0.0
    for log_prob in log_probs:
        probability = log_prob.exp()
        mean = float(probability @ terms)
        # Moments about the mean, which a text that is not listed misses by the whole of it.
        rest, distance = max(0.0, 1.0 - float(probability.sum())), (terms - mean).abs()
        variance += float(probability @ distance**2) + rest * mean**2
        third += float(probability @ distance**3) + rest * abs(mean) ** 3
    if variance <= 0.0 or third > LARGEST_RATIO * math.sqrt(n) * variance**1.5:
        return math.nan
    return math.sqrt(variance / n) / len(log_probs)


def z_score(difference: float, standard_error: float) -> float:
    """Return a difference in standard errors; NaN where there is none.

    Differences of log-probabilities in float32 carry rounding beside the sampling's error.
    """
    error = math.hypot(standard_error, ROUNDING)
    return difference / error if standard_error > 0 else math.nan


def effective_share(log_weights: Tensor) -> Estimate:
    """Return ESS/n = (mean w)^2 / mean w^2 with the standard error of the delta method.

    Parameters
    ----------
    log_weights
        Shape (contexts, n): log importance weights, of which some may be -inf but not all of a
        context's.

    Returns
    -------
    Estimate
        A share in (0, 1], averaged over contexts.
    """
    weights = torch.exp(log_weights - log_weights.amax(-1, keepdim=True))
    first, second = weights.mean(-1, keepdim=True), weights.square().mean(-1, keepdim=True)
    share = first.square() / second
    influence = 2 * share * weights / first - share * weights.square() / second
    error = influence.std(-1) / math.sqrt(weights.shape[-1])
    return over_contexts(Estimate(share.squeeze(-1), error))


def ratio_of_means(numerator: Tensor, denominator: Tensor) -> Estimate:
    """Return mean(numerator)/mean(denominator) with the standard error of the delta method.

    Parameters
    ----------
    numerator, denominator
        Shape (contexts, n). Several contexts enter by their means, as clusters.

    Returns
    -------
    Estimate
        The ratio.
    """
    several = len(numerator) > 1
    top, bottom = (x.mean(-1) if several else x[0] for x in (numerator, denominator))
    ratio = top.mean() / bottom.mean()
    residual = (top - ratio * bottom) / bottom.mean()
    return Estimate(ratio, residual.std() / math.sqrt(len(residual)))
