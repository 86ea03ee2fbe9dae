"""The features that come with the project: functions of texts, one number a text.

The first four look a text up in the census's list of first names and are zero for any other text.
The general ones look at what the model wrote, not at the prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from lm.census import census_names


def female(texts: Sequence[str]) -> np.ndarray:
    """Return the share of each name's bearers that the census counted as female."""
    shares = _female_share_by_name()
    return np.array([shares.get(text, 0.0) for text in texts])


def male(texts: Sequence[str]) -> np.ndarray:
    """Return the share of each name's bearers that the census counted as male."""
    return listed(texts) - female(texts)


def listed(texts: Sequence[str]) -> np.ndarray:
    """Return 1 for a name on the census list."""
    shares = _female_share_by_name()
    return np.array([float(text in shares) for text in texts])


def ends_in_i(texts: Sequence[str]) -> np.ndarray:
    """Return 1 for a listed name that ends in i."""
    return listed(texts) * np.array([float(text.endswith("i")) for text in texts])


def letters(texts: Sequence[str], completions: Sequence[str] | None = None) -> np.ndarray:
    """Return the number of letters of each completion."""
    written = texts if completions is None else completions
    return np.array([float(sum(map(str.isalpha, text))) for text in written])


def characters(texts: Sequence[str], completions: Sequence[str] | None = None) -> np.ndarray:
    """Return the number of characters of each completion."""
    return np.array([float(len(text)) for text in (texts if completions is None else completions)])


def words(texts: Sequence[str], completions: Sequence[str] | None = None) -> np.ndarray:
    """Return the number of words of each completion: what white space separates."""
    written = texts if completions is None else completions
    return np.array([float(len(text.split())) for text in written])


def tokens(texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the number of tokens of each completion, its end token included."""
    return np.array([float(len(row)) for row in tokens])


@functools.cache
def _female_share_by_name() -> Mapping[str, float]:
    table = census_names()
    return MappingProxyType(dict(zip(table.names, table.female_share.tolist(), strict=True)))
