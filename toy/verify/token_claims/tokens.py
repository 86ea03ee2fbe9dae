"""More claims about tokens (F9, F10): ends, ratios, truncated sampling, prefixes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fdpg_ref import REVERSE_KL, exact_divergence
from fdpg_ref.related import per_prefix_kl
from toy.categorical import log_probs
from toy.estimators.composition import Composition
from toy.estimators.estimates import Tokens, World
from toy.sequences import TabularFamily
from toy.verify.records import BIASED, Comparison, at_most
from toy.verify.register import Claims
from toy.verify.token_claims.sequences import Pair, pair_of, pairs

if TYPE_CHECKING:
    from jaxtyping import Float

CLAIMS = Claims("tests/toy/test_tokens.py", pairs)
# Behaviour policy of stale samples: the policy's table, moved; and a cut of the vocabulary.
_MOVED = 0.6
_KEPT = 2


def world_of(pair: Pair) -> World:
    """Return the sequences of a pair as outcomes, the stale behaviour policy as their base."""
    _, mask, _, _ = pair.family.sequences
    log_policy, log_reference = pair.log_probs()
    return World(
        log_policy=log_policy,
        log_score=log_reference,
        log_base=pair.family.log_probs(behaviour(pair)),
        scores=pair.family.score_matrix(pair.policy),
        log_z=0.0,
        tokens=Tokens(log_ratio=pair.token_ratios, scores=pair.token_scores, mask=mask),
    )


def behaviour(pair: Pair) -> np.ndarray:
    """Return the table of the policy that stale samples came from."""
    return pair.policy + _MOVED * np.cos(np.arange(pair.policy.size))


def _mean(pair: Pair, **choices: Any) -> np.ndarray:
    return Composition("reverse_kl", **choices).moments(world_of(pair)).mean


@CLAIMS.once(
    "F9",
    "reward-to-go with a leave-one-out baseline at each position is unbiased",
    "token k1, reward-to-go, LOO baseline",
    test="test_ratios",
    divergence="reverse_kl",
)
def _to_go(pair: Pair) -> Comparison:
    mean = _mean(pair, level="to_go", baseline="leave_one_out", n=2)
    return Comparison(mean, pair.gradient("reverse_kl"))


@CLAIMS.once(
    "F9",
    "off-policy, the sequence ratio pi/q keeps it unbiased",
    "token k1, stale, sequence ratio",
    test="test_ratios",
    divergence="reverse_kl",
)
def _sequence_ratio(pair: Pair) -> Comparison:
    mean = _mean(pair, level="to_go", baseline="leave_one_out", proposal="base", n=2)
    return Comparison(mean, pair.gradient("reverse_kl"))


def _token_weighted(pair: Pair, weigh: Callable[[np.ndarray], np.ndarray]) -> Comparison:
    """Return E_q[sum_t w_t score_t sum_t' u_t'] for weights made from the token ratios."""
    stale = behaviour(pair)
    log_ratios = pair.family.token_log_probs(pair.policy) - pair.family.token_log_probs(stale)
    masses = np.exp(pair.family.log_probs(stale))
    whole = np.sum(pair.token_ratios, axis=-1, keepdims=True)
    weights = weigh(log_ratios) * whole
    value = np.einsum("n,nt,ntd->d", masses, weights, pair.token_scores)
    return Comparison(value, pair.gradient("reverse_kl"))


@CLAIMS.once(
    "F9",
    "off-policy, each token's own ratio does not",
    "token k1, stale, token ratio",
    test="test_ratios",
    claimed=BIASED,
    divergence="reverse_kl",
)
def _token_ratio(pair: Pair) -> Comparison:
    return _token_weighted(pair, np.exp)


@CLAIMS.once(
    "F9",
    "off-policy, nor does the mean ratio of the tokens (geometric)",
    "token k1, stale, mean ratio",
    test="test_ratios",
    claimed=BIASED,
    divergence="reverse_kl",
)
def _mean_ratio(pair: Pair) -> Comparison:
    lengths = pair.family.sequences.lengths[:, None]

    def geometric_mean(log_ratios: np.ndarray) -> np.ndarray:
        whole = np.sum(log_ratios, axis=-1, keepdims=True) / lengths
        return np.broadcast_to(np.exp(whole), log_ratios.shape)

    return _token_weighted(pair, geometric_mean)


@CLAIMS.once(
    "F9",
    "off-policy, each k1 with the product of the ratios up to it is unbiased",
    "token k1, stale, per-decision ratio",
    test="test_ratios",
    divergence="reverse_kl",
)
def _per_decision(pair: Pair) -> Comparison:
    # Each token's k1 needs the ratio of what led to it only: prod_{s <= t} r_s.
    stale = behaviour(pair)
    log_ratios = pair.family.token_log_probs(pair.policy) - pair.family.token_log_probs(stale)
    so_far = np.exp(np.cumsum(log_ratios, axis=-1)) * pair.token_ratios
    scores_so_far = np.cumsum(pair.token_scores, axis=1)
    masses = np.exp(pair.family.log_probs(stale))
    mask = pair.family.sequences.mask
    value = np.einsum("n,nt,ntd->d", masses, so_far * mask, scores_so_far)
    return Comparison(value, pair.gradient("reverse_kl"))


@CLAIMS.once(
    "sequences",
    "ends: without the end token's factor, probabilities do not sum to one",
    "end token not scored: total mass",
    test="test_ends",
    claimed=BIASED,
    divergence="reverse_kl",
)
def _without_end(pair: Pair) -> Comparison:
    tokens, _, _, _ = pair.family.sequences
    by_token = pair.family.token_log_probs(pair.policy)
    ends = tokens == pair.family.vocabulary
    masses = np.exp(np.sum(np.where(ends, 0.0, by_token), axis=-1))
    return Comparison(np.asarray(np.sum(masses)), np.asarray(1.0))


@CLAIMS.once(
    "sequences",
    "ends: without the end token's score, the gradient is biased",
    "end token not scored: gradient",
    test="test_ends",
    claimed=BIASED,
    divergence="reverse_kl",
)
def _end_gradient(pair: Pair) -> Comparison:
    # Masked like padding, the end token has no score: the policy never learns when to stop.
    tokens, _, _, _ = pair.family.sequences
    scored = np.where((tokens == pair.family.vocabulary)[..., None], 0.0, pair.token_scores)
    whole = np.sum(pair.token_ratios, axis=-1)
    value = np.einsum("n,ntd->d", pair.probs * whole, scored)
    return Comparison(value, pair.gradient("reverse_kl"))


@CLAIMS.once(
    "F10",
    "under 1/length weights the leave-one-out baseline is biased as well",
    "1/length, LOO baseline",
    test="test_lengths",
    claimed=BIASED,
    divergence="reverse_kl",
)
def _loo_per_length(pair: Pair) -> Comparison:
    choices = {"level": "per_length", "n": 2}
    with_baseline = _mean(pair, baseline="leave_one_out", **choices)
    return Comparison(with_baseline, _mean(pair, **choices))


@CLAIMS.once(
    "F10",
    "the 1/length gradient is not parallel to grad KL",
    "1/length, no baseline, after the best scaling",
    test="test_lengths",
    claimed=BIASED,
    divergence="reverse_kl",
)
def _per_length(pair: Pair) -> Comparison:
    # Not even parallel: scaled as well as can be, a part remains.
    value, gradient = _mean(pair, level="per_length", n=1), pair.gradient("reverse_kl")
    return Comparison(value, gradient * (value @ gradient) / (gradient @ gradient))


class Cut(NamedTuple):
    """The policy sampled from its most probable tokens only, renormalised after every prefix.

    Attributes
    ----------
    masses, probs : (m,) arrays
        Of the sequences that are ever drawn: under the sampler, and under the policy.
    kept_mass : (m,) array
        Product over positions of the policy's mass on the tokens that were kept.
    scores, own_scores : (m, d) arrays
        Scores of the policy, and of the sampler itself.
    """

    masses: Float[np.ndarray, " m"]
    probs: Float[np.ndarray, " m"]
    kept_mass: Float[np.ndarray, " m"]
    scores: Float[np.ndarray, "m d"]
    own_scores: Float[np.ndarray, "m d"]


def cut_of(pair: Pair) -> Cut:
    """Return what top-k sampling of a pair's policy draws."""
    family = pair.family
    tokens, mask, prefix, _ = family.sequences
    logits = family.table(pair.policy)
    kept = logits >= np.sort(logits, axis=-1)[:, -_KEPT:][:, :1]
    own = np.where(kept, logits, -np.inf)
    row_mass = np.sum(np.exp(log_probs(logits)) * kept, axis=-1)
    drawn = np.all(kept[prefix, tokens] | ~mask, axis=-1)
    by_token = np.where(mask, log_probs(own)[prefix, tokens], 0.0)
    return Cut(
        masses=np.exp(np.sum(by_token[drawn], axis=-1)),
        probs=pair.probs[drawn],
        kept_mass=np.prod(np.where(mask, row_mass[prefix], 1.0)[drawn], axis=-1),
        scores=family.score_matrix(pair.policy)[drawn],
        own_scores=family.score_matrix(np.ravel(own))[drawn],
    )


@CLAIMS.once(
    "sequences",
    "truncated sampling: pi over the sampler is the kept mass, prefix by prefix",
    "top-k samples: ratio",
    test="test_truncated_sampling",
    divergence="reverse_kl",
)
def _cut_ratio(pair: Pair) -> Comparison:
    cut = cut_of(pair)
    return Comparison(cut.probs / cut.masses, cut.kept_mass)


@CLAIMS.once(
    "sequences",
    "truncated sampling: the mean ratio is the mass of pi on what is ever drawn",
    "top-k samples: mean ratio",
    test="test_truncated_sampling",
    divergence="reverse_kl",
)
def _cut_mean_ratio(pair: Pair) -> Comparison:
    cut = cut_of(pair)
    # The mean over the sampler of the kept mass of each prefix.
    return Comparison(cut.masses @ cut.kept_mass, np.asarray(np.sum(cut.probs)))


@CLAIMS.once(
    "sequences",
    "truncated sampling: so the mean ratio is not one",
    "top-k samples: mean ratio against one",
    test="test_truncated_sampling",
    claimed=BIASED,
    divergence="reverse_kl",
)
def _cut_unit(pair: Pair) -> Comparison:
    cut = cut_of(pair)
    return Comparison(cut.masses @ (cut.probs / cut.masses), np.asarray(1.0))


@CLAIMS.once(
    "sequences",
    "truncated sampling: under the full softmax the mean score is not zero",
    "top-k samples: E[score of pi]",
    test="test_truncated_sampling",
    claimed=BIASED,
    divergence="reverse_kl",
)
def _cut_score(pair: Pair) -> Comparison:
    cut = cut_of(pair)
    return Comparison(cut.masses @ cut.scores, np.zeros(pair.policy.size), scale=1.0)


@CLAIMS.once(
    "sequences",
    "truncated sampling: scored by the law it was drawn from, it is",
    "top-k samples: E[score of the sampler]",
    test="test_truncated_sampling",
    divergence="reverse_kl",
)
def _cut_own_score(pair: Pair) -> Comparison:
    cut = cut_of(pair)
    return Comparison(cut.masses @ cut.own_scores, np.zeros(pair.policy.size), scale=1.0)


def _prefix_values(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Return the core's per-prefix KL of each sequence, and the sum of its k1."""
    family = pair.family
    _, mask, prefix, _ = family.sequences
    policy, reference = (
        log_probs(family.table(theta))[prefix] for theta in (pair.policy, pair.reference)
    )
    return per_prefix_kl(policy, reference, mask), np.sum(pair.token_ratios, axis=-1)


def variance_ratio(pair: Pair) -> float:
    """Return the variance of the per-prefix KL over that of the sum of k1."""
    mean = pair.probs @ _prefix_values(pair)[0]
    per_prefix, whole = (pair.probs @ (v - mean) ** 2 for v in _prefix_values(pair))
    return float(per_prefix / whole)


@cache
def counterexamples() -> tuple[Pair, ...]:
    """Return pairs whose tokens offset each other: a gain of the first is a loss of the second.

    After "a", which the reference likes better, the policy insists on what the reference dislikes;
    after "b", which it likes less, both agree. The sum of k1 is then nearly a constant, while the
    per-prefix KL still tells "a" from "b".
    """
    family = TabularFamily(vocabulary=2, max_length=2)
    never = -12.0
    found = []
    for liking in (1.0, 1.5, 2.0):
        first = [[0.0, 0.0, never], [liking, -liking, never]]
        # What "a" gains over "b" in the first token is what the second one costs after "a".
        gap = 2 * liking
        rest = -np.expm1(-gap)
        after_a = [[0.0, never, never], [-gap, np.log(rest), never]]
        same = [[0.0, 0.3, never]] * 2
        tables = [np.concatenate(rows) for rows in zip(first, after_a, same, strict=True)]
        policy, reference = (table.astype(float) for table in tables)
        found.append(pair_of(family, policy, reference))
    return tuple(found)


@CLAIMS.once(
    "F9",
    "the core's per-prefix KL has mean KL(pi||p)",
    "per_prefix_kl",
    test="test_per_prefix_kl",
    divergence="reverse_kl",
    problems=lambda: (*pairs(), *counterexamples()),
)
def _prefix_mean(pair: Pair) -> Comparison:
    per_prefix, _ = _prefix_values(pair)
    truth = exact_divergence(*pair.log_probs(), divergence=REVERSE_KL)
    return Comparison(pair.probs @ per_prefix, truth)


@CLAIMS.once(
    "F9",
    "its variance is at most that of the sum of k1: false where tokens offset each other",
    "per_prefix_kl: variance, counterexample",
    test="test_per_prefix_kl",
    claimed=BIASED,
    divergence="reverse_kl",
    problems=counterexamples,
)
def _prefix_variance(pair: Pair) -> Comparison:
    return at_most(variance_ratio(pair), 1.0)
