"""Batches of policies: B problems of one shape, evaluated and differentiated together.

Every family of the study is a *table of rows*. A row is a softmax over its entries, an outcome is a
product of entries, and the logits are linear in the parameters. One row whose entries are the
outcomes is a categorical policy. With one row per prefix it is an autoregressive policy, whose
outcomes are all sequences; with one row per last token, a bigram policy, which cannot express most
targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import log_softmax
from toy.sequences import enumerate_sequences

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Policy(NamedTuple):
    """Policies of a batch at one parameter vector each.

    Attributes
    ----------
    log_rows : (B, rows, entries) array, nats
        Normalised log-probabilities within each row of the tables.
    log_probs : (B, k) array, nats
        Log-probabilities of the outcomes.
    """

    log_rows: Float[np.ndarray, "B rows entries"]
    log_probs: Float[np.ndarray, "B k"]


@dataclass(frozen=True, eq=False)
class RowFamilies:
    """B families of one shape; theta = 0 is the base of each.

    Attributes
    ----------
    base : (B, rows, entries) array, nats
        Logits of the table at theta = 0.
    features : (B, rows * entries, d) array or None
        The logits are base + features . theta; None stands for the identity, one parameter a logit.
    uses : (k, rows * entries) array or None
        How often an outcome uses an entry: log pi = uses . log rows. None for the identity.
    """

    base: Float[np.ndarray, "B rows entries"]
    features: Float[np.ndarray, "B logits d"] | None = None
    uses: Float[np.ndarray, "k logits"] | None = None

    @property
    def size(self) -> int:
        """Number d of parameters."""
        if self.features is not None:
            return self.features.shape[-1]
        return self.base.shape[1] * self.base.shape[2]

    @property
    def start(self) -> Float[np.ndarray, "B d"]:
        """The parameters of the base."""
        return np.zeros((len(self.base), self.size))

    def take(self, index: Int[np.ndarray, " C"]) -> RowFamilies:
        """Return the families at these places of the batch, repeated where an index is."""
        features = None if self.features is None else self.features[index]
        return replace(self, base=self.base[index], features=features)

    def policy(self, theta: Float[np.ndarray, "B d"]) -> Policy:
        """Return the policies at theta."""
        shift = theta if self.features is None else _times(self.features, theta)
        log_rows = log_softmax(self.base + shift.reshape(self.base.shape))
        flat = log_rows.reshape(len(theta), -1)
        return Policy(log_rows, flat if self.uses is None else flat @ self.uses.T)

    def contract(
        self, policy: Policy, weights: Float[np.ndarray, "B k"]
    ) -> Float[np.ndarray, "B d"]:
        """Return sum_x weights(x) grad log pi(x), the scores never written out.

        In the logits of a row the score is (uses of the entry) - (uses of the row) pi(entry).
        """
        used = weights if self.uses is None else weights @ self.uses
        by_row = used.reshape(policy.log_rows.shape)
        expected = np.sum(by_row, axis=-1, keepdims=True) * np.exp(policy.log_rows)
        in_logits = (by_row - expected).reshape(len(weights), -1)
        if self.features is None:
            return in_logits
        return _times(np.swapaxes(self.features, 1, 2), in_logits)

    def scores(self, policy: Policy) -> Float[np.ndarray, "B k d"]:
        """Return grad log pi of every outcome, one per row."""
        batch, rows, entries = self.base.shape
        uses = np.eye(rows * entries) if self.uses is None else self.uses
        by_row = uses.reshape(1, -1, rows, entries)
        probs = np.exp(policy.log_rows)[:, None]
        in_logits = by_row - np.sum(by_row, axis=-1, keepdims=True) * probs
        flat = in_logits.reshape(batch, len(uses), -1)
        return flat if self.features is None else flat @ self.features


def sequence_uses(
    vocabulary: int, max_length: int, *, bigram: bool
) -> tuple[int, Float[np.ndarray, "k logits"]]:
    """Return the number of rows and the uses of all sequences, one row per prefix or last token.

    Parameters
    ----------
    vocabulary, max_length : int
        As in `toy.sequences.enumerate_sequences`, whose order of outcomes is kept.
    bigram : bool
        Whether prefixes that end in the same token share a row. The empty prefix has its own.

    Returns
    -------
    int and (k, rows * (vocabulary + 1)) array
        Rows of the table, and how often a sequence uses each of its entries.
    """
    tokens, mask, prefix, complete = enumerate_sequences(vocabulary, max_length)
    if bigram:
        rows = vocabulary + 1
        row = np.concatenate([np.full((len(tokens), 1), vocabulary), tokens[:, :-1]], axis=1)
    else:
        rows, row = int(np.sum(complete)), prefix
    uses = np.zeros((len(tokens), rows * (vocabulary + 1)))
    sequence, position = np.nonzero(mask)
    entry = row[sequence, position] * (vocabulary + 1) + tokens[sequence, position]
    np.add.at(uses, (sequence, entry), 1.0)
    return rows, uses


def _times(
    matrices: Float[np.ndarray, "B m n"], vectors: Float[np.ndarray, "B n"]
) -> Float[np.ndarray, "B m"]:
    return (matrices @ vectors[..., None])[..., 0]
