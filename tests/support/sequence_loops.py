"""Tabular policies over sequences, walked token by token with loops."""

from __future__ import annotations

import itertools
import math

import numpy as np

from toy.sequences import TabularFamily
from toy.verify.token_claims import sequences as claims

SMALL = TabularFamily(vocabulary=2, max_length=3)
PAIR = claims.pairs()[0]


def rows_of(family: TabularFamily, theta: np.ndarray) -> dict[tuple[int, ...], list[float]]:
    """Return the next-token probabilities by prefix, from the table, by a loop."""
    prefixes = [
        body
        for length in range(family.max_length)
        for body in itertools.product(range(family.vocabulary), repeat=length)
    ]
    result = {}
    for prefix, logits in zip(prefixes, family.table(theta), strict=True):
        highest = max(logits)
        weights = [math.exp(x - highest) for x in logits]
        result[prefix] = [w / math.fsum(weights) for w in weights]
    return result


def walk(family: TabularFamily) -> list[list[tuple[tuple[int, ...], int]]]:
    """Return each sequence as its list of (prefix, token), the end token included."""
    tokens, mask, _, _ = family.sequences
    return [
        [(tuple(row[:t].tolist()), int(row[t])) for t in range(int(np.sum(kept)))]
        for row, kept in zip(tokens, mask, strict=True)
    ]
