"""Sentiment by VADER: a list of words with rules for negation, capitals and punctuation."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lm.features.made_feature import Made, require_library


def sentiment() -> Made:
    """Return VADER's compound score, from -1 (most negative) to 1 (most positive); 0 is neutral.

    Some ten thousand short texts a second; English only. Needs the extra `rewards`.
    """
    require_library("vaderSentiment", "sentiment")

    def values(texts: Sequence[str]) -> np.ndarray:
        score = _analyzer().polarity_scores
        return np.array([float(score(text)["compound"]) for text in texts])

    return Made("VADER's sentiment, from -1 to 1", values, bounds=(-1.0, 1.0))


@functools.cache
def _analyzer() -> Any:
    return importlib.import_module("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer()
