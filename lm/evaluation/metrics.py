"""Statistics of one evaluation, each with its estimator's name and standard error.

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
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fdpg_ref import Estimate, mean_and_standard_error
from fdpg_ref.display import divergence_called
from lm.surrogate import surrogate_loss

Number = float | str | None
# One estimator's entry in a record: value, and where they exist standard_error, z and reason.
Entry = dict[str, Number]
Tokens = Sequence[Sequence[int]]
BLEU_ORDER = 4
# Nats: a float32 log-probability of a text carries about this much.
ROUNDING = 1e-6
# Of third absolute moments to variance: 25 ones expected of a share.
LARGEST_RATIO = 0.2
# Below it a standard error from groups is itself too uncertain for a z-score.
GROUPS_FOR_A_Z = 20


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


def entry(
    value: float,
    standard_error: float | None = None,
    *,
    z: float | None = None,
    reason: str | None = None,
) -> Entry:
    """Return one estimator's entry: numbers that JSON can hold, an infinity as the word inf."""
    fields: Entry = {"value": value if math.isfinite(value) else str(value)}
    if standard_error is not None and math.isfinite(standard_error):
        fields["standard_error"] = standard_error
    if z is not None and math.isfinite(z):
        fields["z"] = z
    if reason is not None:
        fields["reason"] = reason
    return fields


def estimate_entry(estimate: Estimate, *, against: Estimate | float | None = None) -> Entry:
    """Return the entry of a core `Estimate`, with its z-score against a better or exact value."""
    mean, error = float(estimate.mean), float(estimate.standard_error)
    if against is None:
        return entry(mean, error)
    known = Estimate(against, 0.0) if isinstance(against, (int, float)) else against
    z = z_score(mean - float(known.mean), math.hypot(error, float(known.standard_error)))
    return entry(mean, error, z=z)


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
    then. For a share of 0 or 1 the rule is that some 25 ones are expected (Lyapunov's ratio, which
    bounds the distance from the normal law, is one over the root of that number).

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
        variance += float(probability @ terms.square()) - float(probability @ terms) ** 2
        third += float(probability @ terms.abs() ** 3)
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


def gradient_signal_to_noise(
    log_policy: Tensor, coefficients: Tensor, parameters: Sequence[Tensor]
) -> float | None:
    """Estimate |E gradient| over the standard deviation of the batch gradient, from its two halves.

    The halves' gradients are (nearly, with a shared baseline) independent: their inner product
    estimates |E gradient|^2, a quarter of their squared distance the variance of the batch's.

    Parameters
    ----------
    log_policy
        Shape (n,), differentiable; its graph is kept.
    coefficients
        Shape (n,).
    parameters
        What is differentiated.

    Returns
    -------
    float or None
        0 where the inner product is negative: the direction is lost in the noise. None where the
        halves agree entirely, as they do where every coefficient is 0: the ratio is undefined.
    """
    half = len(log_policy) // 2
    halves = [
        torch.autograd.grad(
            surrogate_loss(log_policy[part], coefficients[part]), parameters, retain_graph=True
        )
        for part in (slice(None, half), slice(half, 2 * half))
    ]
    pairs = list(zip(*halves, strict=True))
    signal = sum(float((one * other).sum()) for one, other in pairs)
    noise = sum(float((one - other).square().sum()) for one, other in pairs) / 4
    return math.sqrt(max(signal, 0.0) / noise) if noise > 0 else None


def over_groups(
    sequences: Tokens, group: int, statistic: Callable[[Tokens], float], *, contexts: int = 1
) -> Estimate:
    """Return the mean of a statistic over groups of equal size, with its standard error.

    Statistics of diversity depend on how many samples they see, so the size of the group is part
    of what is estimated; the groups are independent, which makes the standard error honest. A group
    never mixes contexts: what differs between prompts is no diversity.

    Parameters
    ----------
    sequences
        Tokens of independent samples, context by context, equally many of each. Those beyond a
        context's last full group are left out.
    group
        Samples in a group. A single context needs at least two groups.
    statistic
        Of one group.
    contexts
        How many there are.

    Returns
    -------
    Estimate
        Mean over groups, or over contexts where there are several.
    """
    size = len(sequences) // contexts
    values = [
        [
            statistic(sequences[start : start + group])
            for start in range(first, first + size - group + 1, group)
        ]
        for first in range(0, contexts * size, size)
    ]
    table = torch.tensor(values, dtype=torch.float64)
    return mean_and_standard_error(table[0] if contexts == 1 else table.mean(-1))


def distinct_share(sequences: Tokens) -> float:
    """Return the number of different sequences over the number of sequences."""
    return len({tuple(sequence) for sequence in sequences}) / len(sequences)


def distinct_n(sequences: Tokens, n: int) -> float:
    """Return Distinct-n over tokens: different n-grams over all n-grams (Li et al. 2016)."""
    counts = Counter(gram for sequence in sequences for gram in _ngrams(sequence, n))
    return len(counts) / counts.total() if counts else 0.0


def self_bleu(sequences: Tokens) -> float:
    """Return Self-BLEU over tokens: the mean BLEU of each sequence against all others.

    BLEU with orders 1 to 4 (fewer for a sequence that is shorter), equal weights, no smoothing and
    the closest reference length (Papineni et al. 2002; Zhu et al. 2018). An n-gram's largest count
    among the *others* follows from the two largest counts overall, so the cost is linear.

    Parameters
    ----------
    sequences
        Two or more token sequences, none empty.

    Returns
    -------
    float
        In [0, 1]; 1 where every sequence repeats another one.
    """
    log_precisions = [0.0] * len(sequences)
    for n in range(1, BLEU_ORDER + 1):
        counts = [Counter(_ngrams(sequence, n)) for sequence in sequences]
        largest, runner_up = _two_largest(counts)
        for row, (sequence, own) in enumerate(zip(sequences, counts, strict=True)):
            if own:
                clipped = sum(
                    min(count, runner_up[gram] if largest[gram] == count else largest[gram])
                    for gram, count in own.items()
                )
                precision = clipped / own.total()
                order = min(BLEU_ORDER, len(sequence))
                log_precisions[row] += math.log(precision) / order if precision else -math.inf
    penalties = _log_brevity_penalties([len(sequence) for sequence in sequences])
    scores = [math.exp(p + b) for p, b in zip(log_precisions, penalties, strict=True)]
    return sum(scores) / len(scores)


def bound_warnings(estimates: dict[str, dict[str, Any]]) -> list[str]:
    """Return what lies outside its mathematical bounds; an exact value outside raises.

    Parameters
    ----------
    estimates
        ``estimates[quantity][estimator]`` entries, as in a record.

    Returns
    -------
    list of str
        One sentence for each importance estimate more than 5 standard errors out of bounds.

    Raises
    ------
    ArithmeticError
        An exact value is out of bounds beyond rounding: the computation itself is wrong.
    """
    warnings = []
    for quantity, entries in estimates.items():
        divergence = divergence_called(quantity)
        if divergence is None or math.isinf(divergence.upper_bound):
            continue
        highest = divergence.upper_bound
        for estimator, fields in entries.items():
            value, slack = float(fields["value"]), 5 * float(fields.get("standard_error", 0.0))
            excess = max(-value, value - highest)
            message = f"{quantity} ({estimator}) is {value:.6g}, outside [0, {highest:.6g}]"
            if estimator == "exact" and excess > 1e-6:
                raise ArithmeticError(message)
            if excess > max(slack, 1e-6):
                warnings.append(f"{message} by more than 5 standard errors")
    return warnings


def _ngrams(sequence: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(sequence[start : start + n]) for start in range(len(sequence) - n + 1)]


def _two_largest(
    counts: Sequence[Counter[tuple[int, ...]]],
) -> tuple[Counter[tuple[int, ...]], Counter[tuple[int, ...]]]:
    largest: Counter[tuple[int, ...]] = Counter()
    runner_up: Counter[tuple[int, ...]] = Counter()
    for own in counts:
        for gram, count in own.items():
            if count > largest[gram]:
                runner_up[gram], largest[gram] = largest[gram], count
            elif count > runner_up[gram]:
                runner_up[gram] = count
    return largest, runner_up


def _log_brevity_penalties(lengths: Sequence[int]) -> list[float]:
    numbers = Counter(lengths)
    penalty = {}
    for own in numbers:
        others = [other for other, number in numbers.items() if number > (other == own)]
        closest = min(others, key=lambda other: (abs(other - own), other))
        penalty[own] = min(0.0, 1.0 - closest / own)
    return [penalty[length] for length in lengths]
