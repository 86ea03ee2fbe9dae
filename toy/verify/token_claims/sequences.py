"""Claims about whole sequences and their tokens: F9 and F10, on tabular autoregressive policies."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import DIVERGENCES, FORWARD_KL, FDivergence, exact_divergence, score_signal
from toy.exact import exact_gradient
from toy.oracle import definition_gradient, probabilities
from toy.sequences import TabularFamily
from toy.verify.records import BIASED, EXACT, PROPORTIONAL, Comparison, at_most
from toy.verify.register import Claims

if TYPE_CHECKING:
    from jaxtyping import Float

_SEED = 20130405
_PROBLEM_COUNT = 5
_BASELINE = 0.7


class Pair(NamedTuple):
    """A policy and a reference over all sequences of two tokens and an end, up to length 3.

    Attributes
    ----------
    family : TabularFamily
        The space.
    policy, reference : (d,) arrays
        Their tables.
    token_ratios : (N, T) array, nats
        u_t = log pi - log ref of each token, 0 where masked.
    token_scores : (N, T, d) array
        Scores of each token under the policy.
    probs : (N,) array
        pi of each sequence.
    """

    family: TabularFamily
    policy: Float[np.ndarray, " d"]
    reference: Float[np.ndarray, " d"]
    token_ratios: Float[np.ndarray, "N T"]
    token_scores: Float[np.ndarray, "N T d"]
    probs: Float[np.ndarray, " N"]

    def log_probs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (log_policy, log_reference) of every sequence."""
        return self.family.log_probs(self.policy), self.family.log_probs(self.reference)

    def gradient(self, name: str) -> np.ndarray:
        """Return grad D_f(pi||ref) over sequences, from the definition."""
        target = probabilities(self.family, self.reference)
        return definition_gradient(self.family, self.policy, target, divergence=name)


@cache
def pairs() -> tuple[Pair, ...]:
    """Return random policies and references, far from each other."""
    rng = np.random.default_rng(_SEED)
    family = TabularFamily(vocabulary=2, max_length=3)
    return tuple(
        pair_of(family, rng.normal(size=family.size), 1.5 * rng.normal(size=family.size))
        for _ in range(_PROBLEM_COUNT)
    )


def pair_of(family: TabularFamily, policy: np.ndarray, reference: np.ndarray) -> Pair:
    """Return the pair of two tables of a family."""
    return Pair(
        family=family,
        policy=policy,
        reference=reference,
        token_ratios=family.token_log_probs(policy) - family.token_log_probs(reference),
        token_scores=family.token_scores(policy),
        probs=np.exp(family.log_probs(policy)),
    )


CLAIMS = Claims("tests/toy/test_sequences.py", pairs)


@CLAIMS.each(
    "F1",
    "on whole sequences E_pi[g'(pi/p) score] = grad D_f",
    "one whole sequence",
    test="test_gradient_over_sequences",
)
def _one_sequence(pair: Pair, divergence: FDivergence) -> Comparison:
    scores = pair.family.score_matrix(pair.policy)
    value = exact_gradient(*pair.log_probs(), scores, divergence=divergence)
    return Comparison(value, pair.gradient(divergence.name))


@CLAIMS.each(
    "F9",
    "the chain rule over tokens (prefixes from pi) holds for reverse KL alone",
    "sum of token divergences",
    test="test_chain_rule",
    claimed=lambda name: EXACT if name == "reverse_kl" else BIASED,
)
def _chain_rule(pair: Pair, divergence: FDivergence) -> Comparison:
    value = pair.probs @ _prefix_divergences(pair, divergence)
    return Comparison(value, exact_divergence(*pair.log_probs(), divergence=divergence))


@CLAIMS.once(
    "F9",
    "for forward KL the chain rule holds with prefixes from p",
    "sum of token divergences, prefixes of p",
    test="test_chain_rule",
    divergence="forward_kl",
)
def _forward_chain_rule(pair: Pair) -> Comparison:
    log_policy, log_reference = pair.log_probs()
    value = np.exp(log_reference) @ _prefix_divergences(pair, FORWARD_KL)
    return Comparison(value, exact_divergence(log_policy, log_reference, divergence=FORWARD_KL))


def _prefix_divergences(pair: Pair, divergence: FDivergence) -> np.ndarray:
    """Return, for each sequence, the sum of D_f(pi(.|prefix)||ref(.|prefix)) over its prefixes."""
    family = pair.family
    tables = [np.log(_rows(family, theta)) for theta in (pair.policy, pair.reference)]
    of_row = exact_divergence(*tables, divergence=divergence)
    _, mask, prefix, _ = family.sequences
    return np.sum(np.where(mask, of_row[prefix], 0.0), axis=-1)


def _rows(family: TabularFamily, theta: np.ndarray) -> np.ndarray:
    weights = np.exp(family.table(theta))
    return weights / np.sum(weights, axis=-1, keepdims=True)


@CLAIMS.once(
    "sequences",
    "complete and cut-off sequences together have mass one",
    test="test_masses_sum_to_one",
)
def _masses(pair: Pair) -> Comparison:
    return Comparison(np.asarray(np.sum(pair.probs)), np.asarray(1.0))


def _mean_over_tokens(pair: Pair, weights: np.ndarray) -> np.ndarray:
    """Return E_pi[sum_t weight_t score_t]."""
    return np.einsum("n,nt,ntd->d", pair.probs, weights, pair.token_scores)


@CLAIMS.once(
    "F9",
    "token k1 with the whole return is the gradient of the sequence KL",
    "token k1, whole return",
    test="test_token_k1",
    divergence="reverse_kl",
)
def _whole_return(pair: Pair) -> Comparison:
    whole = np.sum(pair.token_ratios, axis=-1, keepdims=True)
    weights = np.broadcast_to(whole, pair.token_ratios.shape)
    return Comparison(_mean_over_tokens(pair, weights), pair.gradient("reverse_kl"))


@CLAIMS.once(
    "F9",
    "token k1 with the reward-to-go is the same gradient",
    "token k1, reward-to-go",
    test="test_token_k1",
    divergence="reverse_kl",
)
def _reward_to_go(pair: Pair) -> Comparison:
    to_go = np.cumsum(pair.token_ratios[:, ::-1], axis=-1)[:, ::-1]
    return Comparison(_mean_over_tokens(pair, to_go), pair.gradient("reverse_kl"))


@CLAIMS.once(
    "F9",
    "token k1 with the immediate token only is not",
    "token k1, immediate",
    test="test_token_k1",
    claimed=BIASED,
    divergence="reverse_kl",
)
def _immediate(pair: Pair) -> Comparison:
    return Comparison(_mean_over_tokens(pair, pair.token_ratios), pair.gradient("reverse_kl"))


@CLAIMS.once(
    "F9",
    "per-token k3 in the loss is not the gradient of the sequence forward KL",
    "token k3 in the loss",
    test="test_token_k3",
    claimed=BIASED,
    divergence="forward_kl",
)
def _token_k3(pair: Pair) -> Comparison:
    # d/du (e^{-u} - 1 + u) = 1 - e^{-u}, for every token of a sample that is held fixed.
    slopes = -np.expm1(-pair.token_ratios)
    return Comparison(_mean_over_tokens(pair, slopes), pair.gradient("forward_kl"))


@CLAIMS.once(
    "F9",
    "the Rao-Blackwell KL per prefix has the mean of the sum of k1",
    "KL per prefix",
    test="test_rao_blackwell",
    divergence="reverse_kl",
)
def _rao_blackwell_mean(pair: Pair) -> Comparison:
    per_prefix = _prefix_divergences(pair, DIVERGENCES["reverse_kl"])
    whole = np.sum(pair.token_ratios, axis=-1)
    return Comparison(pair.probs @ per_prefix, pair.probs @ whole)


@CLAIMS.once(
    "F9",
    "... and on these problems at most its variance (not always: see per_prefix_kl)",
    "KL per prefix: variance",
    test="test_rao_blackwell",
    divergence="reverse_kl",
)
def _rao_blackwell_variance(pair: Pair) -> Comparison:
    per_prefix = _prefix_divergences(pair, DIVERGENCES["reverse_kl"])
    whole = np.sum(pair.token_ratios, axis=-1)
    mean = pair.probs @ whole
    variances = [float(pair.probs @ (values - mean) ** 2) for values in (per_prefix, whole)]
    return at_most(*variances)


@CLAIMS.once(
    "F10",
    "under 1/length weights a constant baseline moves the mean",
    "1/length, constant baseline",
    test="test_length_weights",
    claimed=BIASED,
    divergence="reverse_kl",
)
def _length_weighted(pair: Pair) -> Comparison:
    lengths = pair.family.sequences.lengths
    return Comparison(_with_baseline(pair, lengths, _BASELINE), _with_baseline(pair, lengths, 0.0))


@CLAIMS.once(
    "F10",
    "a constant divisor only scales the gradient (T = 3)",
    "1/T, constant baseline",
    test="test_length_weights",
    claimed=PROPORTIONAL,
    divergence="reverse_kl",
)
def _constant_divisor(pair: Pair) -> Comparison:
    longest = pair.family.max_length
    value = _with_baseline(pair, np.full(len(pair.probs), longest), _BASELINE)
    return Comparison(value, pair.gradient("reverse_kl"), factor=1 / longest)


def _with_baseline(pair: Pair, divisors: np.ndarray, baseline: float) -> np.ndarray:
    signal = score_signal(*pair.log_probs(), divergence=DIVERGENCES["reverse_kl"])
    scores = pair.family.score_matrix(pair.policy)
    return (pair.probs * (signal - baseline) / divisors) @ scores
