"""Diversity of samples: how many are different, how many n-grams, how alike they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fdpg_ref import Estimate, mean_and_standard_error
from lm.evaluation.entries import Entry, Estimates, estimate_entry
from lm.evaluation.evidence import Evidence, Points
from lm.evaluation.statistics import SplitSum

Tokens = Sequence[Sequence[int]]
BLEU_ORDER = 4
# Below it a standard error from groups is itself too uncertain for a z-score.
GROUPS_FOR_A_Z = 20


def diversity_entries(evidence: Evidence, group: int) -> Estimates:
    """Return the distinct share, Distinct-n and Self-BLEU over tokens, within groups of samples.

    Parameters
    ----------
    evidence
        Of the evaluation.
    group
        Samples in a group; all of a context's samples where these are fewer.

    Returns
    -------
    dict
        The estimates.
    """
    contexts, n = evidence.prefix_kl.shape
    size = min(group, n)

    def within(statistic: Callable[..., float]) -> dict[str, Entry]:
        found = over_groups(evidence.sequences, size, statistic, contexts=contexts)
        return {"sampled": estimate_entry(found)}

    estimates: Estimates = {
        "distinct_share": within(distinct_share),
        "self_bleu": within(self_bleu),
    }
    if evidence.on_list is not None:
        split = _distinct_sum(evidence, size)
        sampled = over_groups(evidence.sequences, size, distinct_share)
        comparable = n // size >= GROUPS_FOR_A_Z
        estimates["distinct_share"] = {
            "list_and_remainder": estimate_entry(split.best),
            "sampled": estimate_entry(sampled, against=split.best if comparable else None),
        }
    for n_gram in (1, 2, 3):
        statistic = within(lambda part, n_gram=n_gram: distinct_n(part, n_gram))
        estimates[f"distinct_{n_gram}"] = statistic
    return estimates


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


def _distinct_sum(evidence: Evidence, group: int) -> SplitSum:
    # The expected number of different texts among m samples is sum_x [1 - (1 - pi(x))^m].
    def share(log_policy: Tensor) -> Tensor:
        return -torch.expm1(group * torch.log1p(-log_policy.exp().clamp(max=1.0))) / group

    def terms(points: Points) -> Tensor:
        return share(points.log_policy) * torch.exp(-points.log_proposal)

    return evidence.sum_over_texts(lambda on_list: share(on_list.log_policy), terms)


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
