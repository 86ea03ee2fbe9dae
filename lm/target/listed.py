"""Exact sums over the listed names: one forward pass instead of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lm.features.census import census_names
from lm.features.registry import feature_values, get_feature
from lm.models.vocabulary import CharVocabulary, VocabularyError
from lm.phases import each
from lm.policy.protocol import Policy
from lm.target.decoded import Reading

# Rows scored at once: bounds memory, and keeps a group's states in the processor's cache.
CHUNK_ROWS = 512
# Each float32 log-probability carries up to about 1e-6 nats of rounding, hence the list's mass too.
MASS_TOLERANCE = 1e-5


class ListedSupport:
    """The listed names as a finite support with a few features.

    Parameters
    ----------
    feature_names
        Keys of `FEATURES` that live on the list.
    vocabulary
        How the names become tokens.

    Attributes
    ----------
    names
        The texts, in the order of `census_names`.
    tokens, mask
        Shape (names, longest + 1), as `Policy.log_prob` takes them.
    features
        Shape (names, features), float64.

    Raises
    ------
    ValueError
        A feature is unknown or does not live on the list: sums over the list would miss a part.
    """

    def __init__(
        self, feature_names: Sequence[str], vocabulary: CharVocabulary | None = None
    ) -> None:
        for name in feature_names:
            if not get_feature(name).lives_on_list:
                raise ValueError(
                    f"feature {name!r} is not zero for unlisted texts, so that sums over the list "
                    "are not exact; estimate it from samples instead"
                )
        self.feature_names = tuple(feature_names)
        self.vocabulary = CharVocabulary() if vocabulary is None else vocabulary
        self.names = census_names().names
        self.tokens, self.mask = self.vocabulary.encode(self.names)
        self.features = torch.from_numpy(feature_values(self.feature_names, self.names))

    def reading(self, features: Sequence[str]) -> Reading:
        """Return the names as texts, with features that need not live on the list.

        Parameters
        ----------
        features
            Names of features; none gives no columns.

        Returns
        -------
        Reading
            Its features are float64 on the CPU.
        """
        texts, pairs = list(self.names), zip(self.tokens, self.mask, strict=True)
        tokens = [row[real].tolist() for row, real in pairs]
        values = torch.zeros(len(texts), 0, dtype=torch.float64)
        if features:
            values = torch.from_numpy(feature_values(features, texts, tokens=tokens))
        everything = torch.ones(len(texts), dtype=torch.bool)
        return Reading(texts, [""] * len(texts), texts, tokens, values, everything, {})

    @torch.no_grad()
    def log_prob(self, policy: Policy) -> Tensor:
        """Return log pi(x) of every listed name.

        Parameters
        ----------
        policy
            A policy over this vocabulary whose limit holds the longest name and its end.

        Returns
        -------
        Tensor
            Shape (names,), nats, float64 on the CPU (the values have the policy's precision).

        Raises
        ------
        VocabularyError
            The policy has another vocabulary.
        """
        if policy.vocabulary != self.vocabulary:
            raise VocabularyError(
                f"the policy's letters {policy.ids.letters!r} are not the list's "
                f"{self.vocabulary.letters!r}; use a base trained by `python -m lm base`"
            )
        by_length = torch.argsort(self.mask.sum(-1), stable=True)
        parts = each("scoring the listed names", by_length.split(CHUNK_ROWS))
        chunks = [policy.log_prob(self.tokens[c], self.mask[c]) for c in parts]
        return torch.cat(chunks)[torch.argsort(by_length)].double().cpu()

    def exact_moments(self, log_prob: Tensor) -> Tensor:
        """Return E_pi[features], exact because the features vanish off the list.

        Parameters
        ----------
        log_prob
            Shape (..., names), nats, as `log_prob` returns it.

        Returns
        -------
        Tensor
            Shape (..., features).
        """
        return log_prob.exp() @ self.features

    def with_remainder(self, log_prob: Tensor) -> Tensor:
        """Append one atom that holds the mass of all unlisted sequences together.

        Its log-mass is log1p(-mass of the list). That mass is a sum of given log-probabilities, so
        that a remainder is known to the policy's rounding (1e-6 in float32, not relative to
        itself) and is -inf where the list holds everything within that rounding.

        Parameters
        ----------
        log_prob
            Shape (..., names), nats.

        Returns
        -------
        Tensor
            Shape (..., names + 1), nats.

        Raises
        ------
        ValueError
            The list's mass exceeds one by more than rounding.
        """
        log_mass = torch.logsumexp(log_prob, dim=-1, keepdim=True)
        largest = float(log_mass.max())
        if not largest <= MASS_TOLERANCE:
            raise ValueError(
                f"the listed names have total probability exp({largest:.3g}); a distribution's is "
                "at most 1, so these are not log-probabilities of the names"
            )
        return torch.cat([log_prob, torch.log(-torch.expm1(log_mass.clamp(max=0.0)))], dim=-1)


class Listing(NamedTuple):
    """The listed names as the base and the target see them.

    Attributes
    ----------
    support
        The names.
    log_base
        Shape (names,), float64: log a on the list, in nats.
    reading
        The names as texts, with the target's features (names, features), float64.
    """

    support: ListedSupport
    log_base: Tensor
    reading: Reading

    def with_remainder(self) -> tuple[Tensor, Tensor]:
        """Return log a and features of the names and, last, of all unlisted texts as one atom.

        Returns
        -------
        log_base, features : Tensor
            Shape (names + 1,), nats, and (names + 1, features): zero off the list.
        """
        features = self.reading.features
        atoms = torch.cat([features, features.new_zeros(1, features.shape[1])])
        return self.support.with_remainder(self.log_base), atoms


def find_support(policy: Policy) -> ListedSupport | None:
    """Return the listed names as a support of this policy, if it can write them all.

    Parameters
    ----------
    policy
        Any policy.

    Returns
    -------
    ListedSupport or None
        None for a model with a tokenizer, with other letters, or with too short a limit.
    """
    letters = policy.ids.letters
    if letters is None or not set("".join(census_names().names)) <= set(letters):
        return None
    if policy.max_new_tokens <= max(map(len, census_names().names)):
        return None
    return ListedSupport(("listed",), CharVocabulary(letters))
