"""What one evaluation has in hand: log-probabilities on the list, of samples and along prefixes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor

from lm.evaluation.statistics import SplitSum, exact_error, split_sum, two_strata
from lm.phases import each
from lm.policy.protocol import Policy
from lm.policy.samples import Samples

# Laws of next tokens held at once, two models and their intermediate values: 256 MiB each.
LAW_ELEMENTS = 2**26
# More rows than this at once gain nothing.
CHUNK_ROWS = 256


class Points(NamedTuple):
    """Texts with their log-probabilities in nats, float64: samples (contexts, n), or the list (m,).

    The proposal of both samples is their balanced mixture (a + pi)/2.
    """

    log_policy: Tensor
    log_base: Tensor
    log_target: Tensor
    log_proposal: Tensor
    listed: Tensor

    @classmethod
    def mixed(
        cls, log_policy: Tensor, log_base: Tensor, log_target: Tensor, listed: Tensor
    ) -> Self:
        """Return points with the balanced mixture of base and policy as their proposal."""
        mixture = torch.logaddexp(log_policy, log_base) - math.log(2.0)
        return cls(log_policy, log_base, log_target, mixture, listed)


class Evidence(NamedTuple):
    """Everything one evaluation has in hand, of c contexts with n samples each.

    Attributes
    ----------
    on_list
        The listed names; None where there is no list.
    from_base, from_policy
        Samples of the base and of the policy.
    features
        Shape (c, n, features): the target's features of the policy's samples.
    sequences
        Tokens of the policy's c x n samples, without padding.
    prefix_kl, prefix_entropy
        Shape (c, n), nats: sums over the positions of each policy sample of KL(pi||a) and of the
        entropy of the next token given the prefix (their means are the sequence's own, by the
        chain rule: Rao-Blackwell).
    log_kept_mass
        Shape (c, n), nats: what a truncating transform kept along each sample; None without one.
    """

    on_list: Points | None
    from_base: Points
    from_policy: Points
    features: Tensor
    sequences: list[list[int]]
    prefix_kl: Tensor
    prefix_entropy: Tensor
    log_kept_mass: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """Shape (c, n), float64: tokens of each policy sample."""
        lengths = [len(sequence) for sequence in self.sequences]
        return torch.tensor(lengths, dtype=torch.float64).reshape(self.prefix_kl.shape)

    def with_points(self, change: Callable[[Points], Points]) -> Evidence:
        """Return the same evidence with its points changed, the list's and the samples'."""
        return self._replace(
            on_list=None if self.on_list is None else change(self.on_list),
            from_base=change(self.from_base),
            from_policy=change(self.from_policy),
        )

    def sum_over_texts(
        self, list_terms: Callable[[Points], Tensor], terms: Callable[[Points], Tensor]
    ) -> SplitSum:
        """Sum a quantity t over all texts.

        Parameters
        ----------
        list_terms
            Returns t of the listed names.
        terms
            Returns t(x)/m(x) of samples, with m their proposal.
        """
        base, policy = terms(self.from_base), terms(self.from_policy)
        if self.on_list is None:
            return SplitSum(None, two_strata(base, policy), math.nan)
        points = self.on_list
        on_list = list_terms(points)
        # (a + pi)/2 is not zero where a term is not, so this needs no care.
        drawn = on_list * torch.exp(-points.log_proposal)
        error = exact_error(drawn, [points.log_base, points.log_policy], base.shape[-1])
        return split_sum(
            on_list,
            base,
            policy,
            base_listed=self.from_base.listed,
            policy_listed=self.from_policy.listed,
            listed_error=error,
        )


def prefix_sums(policy: Policy, base: Policy, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
    """Return log a(x) and two sums over the prefixes of policy samples, from one pass each.

    Given a prefix, KL and entropy of the next token are sums over the vocabulary; only prefixes
    are sampled, so the variance is far below that of log pi - log a (Rao-Blackwell, finding F9).

    Parameters
    ----------
    policy, base
        Models over the same vocabulary.
    samples
        n samples of the policy.

    Returns
    -------
    log_base, kl, entropy : Tensor
        Shape (n,), nats: log a(x); sum over positions of KL(pi||a) and of the policy's entropy.
        Where the base's transform cuts off what the policy's keeps, the KL is infinite.
    """
    lengths = samples.mask.sum(-1)
    order = torch.argsort(lengths, stable=True)
    parts = []
    blocks = order.split(laws_at_once(samples.tokens.shape[1], policy.vocabulary_size))
    for rows in each("comparing policy and base, token by token", blocks):
        longest = int(lengths[rows].max())
        some = samples.rows(rows)
        some = some._replace(tokens=some.tokens[:, :longest], mask=some.mask[:, :longest])
        parts.append(_prefix_sums(policy.token_log_probs(some), base.token_log_probs(some), some))
    back = torch.argsort(order)
    log_base, kl, entropy = (torch.cat(part)[back] for part in zip(*parts, strict=True))
    return log_base, kl, entropy


def _prefix_sums(
    log_policy: Tensor, log_base: Tensor, samples: Samples
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, mask = samples.tokens, samples.mask
    chosen = log_base.gather(-1, tokens[..., None]).squeeze(-1)
    # 0 log 0 = 0: a token that the policy's transform cuts off costs nothing.
    ratio = (log_policy - log_base).where(log_policy > -torch.inf, 0.0)
    kl = (log_policy.exp() * ratio).sum(-1)
    entropy = torch.special.entr(log_policy.exp()).sum(-1)
    return (
        chosen.where(mask, 0.0).sum(-1),
        kl.where(mask, 0.0).sum(-1),
        entropy.where(mask, 0.0).sum(-1),
    )


def laws_at_once(length: int, vocabulary_size: int) -> int:
    """Return how many samples of a length have the laws of all their tokens in memory at once."""
    return max(1, min(CHUNK_ROWS, LAW_ELEMENTS // (length * vocabulary_size)))
