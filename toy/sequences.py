"""Tabular autoregressive policies with every sequence up to a length enumerated.

Tokens are 0 .. V-1 and the end-of-sequence token V. A policy is a table: one row of V + 1 logits
for every prefix that can be continued. A sequence is *complete* when it ends in the end token
within T positions, of which that token takes one, and *cut off* when T tokens pass without it; the
masses of the two kinds sum to one. Sequences are the outcomes of the toy, so all of its machinery
applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from toy import categorical

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Sequences(NamedTuple):
    """All N sequences of a space, padded to T positions.

    Attributes
    ----------
    tokens : (N, T) array of int
        Token at each position, the end token V included; padding repeats the end token.
    mask : (N, T) array of bool
        True up to and including the first end token.
    prefix : (N, T) array of int
        Row of the table from which the token at each position was drawn; 0 where masked.
    complete : (N,) array of bool
        Whether the sequence ends in the end token.
    """

    tokens: Int[np.ndarray, "N T"]
    mask: Bool[np.ndarray, "N T"]
    prefix: Int[np.ndarray, "N T"]
    complete: Bool[np.ndarray, " N"]

    @property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """Number of tokens of each sequence, the end token included."""
        return np.sum(self.mask, axis=-1)


def enumerate_sequences(vocabulary: int, max_length: int) -> Sequences:
    """Enumerate every sequence over ``vocabulary`` tokens and an end token.

    Parameters
    ----------
    vocabulary : int
        Number V of ordinary tokens.
    max_length : int
        Number T of positions; the end token takes one.

    Returns
    -------
    Sequences
        The complete sequences, shorter ones first, then the V^T that are cut off.
    """
    letters = range(vocabulary)
    prefixes = [body for length in range(max_length) for body in product(letters, repeat=length)]
    row = {body: index for index, body in enumerate(prefixes)}
    complete = [(*body, vocabulary) for body in prefixes]
    cut_off = list(product(letters, repeat=max_length))
    sequences = complete + cut_off
    tokens = np.full((len(sequences), max_length), vocabulary)
    mask = np.zeros(tokens.shape, dtype=bool)
    prefix = np.zeros(tokens.shape, dtype=int)
    for index, sequence in enumerate(sequences):
        tokens[index, : len(sequence)] = sequence
        mask[index, : len(sequence)] = True
        prefix[index, : len(sequence)] = [row[sequence[:t]] for t in range(len(sequence))]
    ends = np.arange(len(sequences)) < len(complete)
    return Sequences(tokens=tokens, mask=mask, prefix=prefix, complete=ends)


@dataclass(frozen=True)
class TabularFamily:
    """All autoregressive policies over a space of sequences; the parameters are the table.

    The parameter vector is the table of logits, of shape (prefixes, V + 1), row after row.

    Attributes
    ----------
    vocabulary : int
        Number V of ordinary tokens.
    max_length : int
        Number T of positions.
    """

    vocabulary: int
    max_length: int

    @cached_property
    def sequences(self) -> Sequences:
        """Every sequence, in the order of all arrays of this family."""
        return enumerate_sequences(self.vocabulary, self.max_length)

    @property
    def prefixes(self) -> int:
        """Number of prefixes that can be continued: rows of the table."""
        return int(np.sum(self.sequences.complete))

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.prefixes * (self.vocabulary + 1)

    def table(self, theta: Float[np.ndarray, " d"]) -> Float[np.ndarray, "prefixes tokens"]:
        """Return the logits as a table, one row per prefix."""
        return theta.reshape(self.prefixes, self.vocabulary + 1)

    def token_log_probs(self, theta: Float[np.ndarray, " d"]) -> Float[np.ndarray, "N T"]:
        """Return log pi(token | prefix) at every position, 0 where masked, in nats."""
        _, mask, prefix, _ = self.sequences
        table = categorical.log_probs(self.table(theta))
        return np.where(mask, table[prefix, self.sequences.tokens], 0.0)

    def log_probs(self, theta: Float[np.ndarray, " d"]) -> Float[np.ndarray, " N"]:
        """Return the log-probability of every sequence, the sum over its tokens, in nats."""
        return np.sum(self.token_log_probs(theta), axis=-1)

    def token_scores(self, theta: Float[np.ndarray, " d"]) -> Float[np.ndarray, "N T d"]:
        """Return grad_theta log pi(token | prefix) at every position, 0 where masked.

        A token moves only the row of its own prefix, by the softmax score of that row.
        """
        tokens, mask, prefix, _ = self.sequences
        within_row = categorical.score_matrix(self.table(theta))[prefix, tokens]
        of_row = np.eye(self.prefixes)[prefix] * mask[..., None]
        scores = of_row[..., :, None] * within_row[..., None, :]
        return scores.reshape(*tokens.shape, self.size)

    def score_matrix(self, theta: Float[np.ndarray, " d"]) -> Float[np.ndarray, "N d"]:
        """Return grad_theta log pi of every sequence, the sum over its tokens."""
        return np.sum(self.token_scores(theta), axis=1)

    def labels(self) -> tuple[str, ...]:
        """Return each sequence as letters; "." is the end token and "~" marks a cut-off one."""
        return tuple(
            "".join(chr(ord("a") + token) for token in tokens[mask] if token < self.vocabulary)
            + ("." if complete else "~")
            for tokens, mask, _, complete in zip(*self.sequences, strict=True)
        )
