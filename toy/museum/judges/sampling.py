"""The judges of samplers and scorers: all probabilities sum to one; what is drawn is scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from toy.museum.records import Measurement, Oracle
from toy.sequences import TabularFamily
from toy.verify.records import ROUNDING

Function = Callable[..., Any]

# Uniforms on a grid, in place of random ones: they count the law of a sampler to 1 in 20,000.
_UNIFORMS = (np.arange(20_000) + 0.5) / 20_000


def first_end_mask(tokens: np.ndarray, end: int) -> np.ndarray:
    """Return (N, T) True up to and including the first end token of each row."""
    ends = tokens == end
    return np.cumsum(ends, axis=-1) - ends == 0


def invert(log_probs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Return the outcome at each uniform, by the inverse distribution function."""
    cumulative = np.cumsum(np.exp(log_probs))
    return np.searchsorted(cumulative, uniforms * cumulative[-1], side="right")


def _normalised(function: Function) -> Measurement:
    rng, totals = np.random.default_rng(19), []
    for max_length in (2, 3, 4):
        family = TabularFamily(vocabulary=2, max_length=max_length)
        theta = rng.normal(size=family.size)
        tokens, mask, _, _ = family.sequences
        # A model says something at padded positions too; the mask must keep it out.
        token_log_probs = np.where(mask, family.token_log_probs(theta), -0.7)
        log_probs = function(token_log_probs, tokens, family.vocabulary)
        totals.append(float(np.sum(np.exp(log_probs))))
    worst = totals[int(np.argmax(np.abs(np.array(totals) - 1)))]
    text = f"the probabilities of all sequences sum to {worst:.3g}"
    return Measurement(abs(worst - 1), ROUNDING, text)


def _sampler_is_scorer(function: Function) -> Measurement:
    rng, gaps, masses = np.random.default_rng(21), [], []
    for _ in range(5):
        logits = rng.normal(size=6)
        drawn, log_probs = function(logits, _UNIFORMS)
        _, first, counts = np.unique(drawn, return_index=True, return_counts=True)
        scored = np.exp(log_probs[first])
        gaps.append(float(np.sum(np.abs(counts / drawn.size - scored))) / 2)
        masses.append(float(np.sum(scored)))
    worst = int(np.argmax(gaps))
    text = (
        f"drawn and scored law differ by {gaps[worst]:.2g} in total variation (mean ratio "
        f"{masses[worst]:.3g})"
    )
    # A frequency on the grid may be one uniform off at each of its two ends, for six outcomes.
    return Measurement(gaps[worst], 6 / _UNIFORMS.size, text)


# f(token_log_probs (N, T), tokens (N, T), end) -> log-probabilities (N,) of all sequences.
NORMALISED = Oracle("normalisation over enumerated sequences", _normalised)
# f(logits (k,), uniforms (n,)) -> outcomes (n,), log-probabilities (n,).
SAMPLER_IS_SCORER = Oracle("sampler = scorer", _sampler_is_scorer)
