"""Coverage: which share of a set of texts k samples show, exactly and from samples.

For one text that a policy writes with probability pi, k samples show it with probability
1 - (1 - pi)^k: pass@k (Chen et al. 2021, arXiv 2107.03374). Its mean over a set of texts is the
coverage of the set at k. A policy that satisfies a rule often (pass@1) may cover few of the texts
that satisfy it: precision against coverage (alpha-DPG, arXiv 2512.05962).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fdpg_ref import Estimate
from lm.evaluation.entries import Estimates, entry
from lm.evaluation.statistics import z_score

# Samples of the set: where fewer are expected, the number seen is not normal.
EXPECTED_FOR_A_Z = 25


def coverage_entries(log_policy: Tensor, counts: Tensor, n: int, sizes: Sequence[int]) -> Estimates:
    """Return the share of a set of texts that k samples show, for each k: exact and sampled.

    Parameters
    ----------
    log_policy, counts
        Shape (texts,): log pi of the texts of the set, and how many of n samples show each.
    n
        Samples.
    sizes
        The numbers k.
    """
    estimates: Estimates = {}
    for k in sizes:
        exact = exact_coverage(log_policy, k)
        sampled = sampled_coverage(counts, n, k)
        seen = n * float(log_policy.exp().sum()) >= EXPECTED_FOR_A_Z
        error = largest_error(exact, len(counts), n, k) if seen else math.nan
        z = z_score(float(sampled.mean) - exact, error)
        own = entry(float(sampled.mean), float(sampled.standard_error), z=z)
        estimates[f"coverage/{k}"] = {"exact": entry(exact), "sampled": own}
    return estimates


def exact_coverage(log_policy: Tensor, k: int) -> float:
    """Return the expected share of texts that k samples show.

    Parameters
    ----------
    log_policy
        Shape (texts,), nats: log pi of every text of the set.
    k
        Number of samples.

    Returns
    -------
    float
        mean over texts of 1 - (1 - pi)^k.
    """
    return float(-torch.expm1(k * torch.log1p(-log_policy.exp().clamp(max=1.0))).mean())


def sampled_coverage(counts: Tensor, n: int, k: int) -> Estimate:
    """Estimate the same from n samples without bias, with the jackknife's standard error.

    A text that c of n samples show is missing from k of them, drawn without replacement, with
    probability C(n - c, k)/C(n, k), whose mean is (1 - pi)^k.

    Parameters
    ----------
    counts
        Shape (texts,), float64: how many of the n samples show each text of the set.
    n
        Samples, those of other texts included.
    k
        At most n - 1.

    Returns
    -------
    Estimate
        Scalars.

    Raises
    ------
    ValueError
        k is not below n.
    """
    if not k < n:
        raise ValueError(f"coverage at {k} needs more than {k} samples, there are {n}")
    without_other = _missed(counts, n - 1, k)
    # Leaving out a sample of a text changes that text's term; one of no text of the set, none.
    without_own = _missed((counts - 1).clamp(min=0.0), n - 1, k)
    total = float(without_other.sum())
    left_out = total - without_other + without_own
    others = n - float(counts.sum())
    mean = (float(counts @ left_out) + others * total) / n
    spread = float(counts @ (left_out - mean).square()) + others * (total - mean) ** 2
    texts = len(counts)
    value = 1.0 - float(_missed(counts, n, k).sum()) / texts
    error = math.sqrt((n - 1) / n * spread) / texts
    return Estimate(*torch.tensor([value, error], dtype=torch.float64))


def largest_error(coverage: float, texts: int, n: int, k: int) -> float:
    """Return a bound on the standard error of `sampled_coverage` that needs no sample.

    The jackknife cannot know of texts that no sample shows: where a policy has all but forgotten
    them, it sees no error at all. With C the coverage and M texts, the number that k samples show
    has at most the variance M C (1 - C), as the counts of different texts are negatively
    associated (Joag-Dev and Proschan 1983); and a U-statistic of order k has at most the share k/n
    of the variance of its kernel (Hoeffding 1948).

    Parameters
    ----------
    coverage
        C, exact.
    texts
        M.
    n, k
        As in `sampled_coverage`.

    Returns
    -------
    float
        sqrt(k/n C (1 - C)/M).
    """
    return math.sqrt(k / n * coverage * (1.0 - coverage) / texts)


def _missed(counts: Tensor, n: int, k: int) -> Tensor:
    """Return C(n - c, k)/C(n, k) for each count c, 0 where fewer than k samples are left."""
    left = n - counts
    fits = left >= k
    left = left.where(fits, float(k))
    log_ratio = (
        torch.lgamma(left + 1)
        - torch.lgamma(left - k + 1)
        - math.lgamma(n + 1)
        + math.lgamma(n - k + 1)
    )
    return log_ratio.exp().where(fits, 0.0)
