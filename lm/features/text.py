"""The features that come with the project: functions of texts, one number per text.

Those of listed names look a text up in the census's list and are zero for any other text. The
general ones look at what the model wrote, not at the prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from lm.features.census import census_names


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


def contains_x(texts: Sequence[str]) -> np.ndarray:
    """Return 1 for a listed name with an x."""
    return listed(texts) * np.array([float("x" in text) for text in texts])


def starts_with_v(texts: Sequence[str]) -> np.ndarray:
    """Return 1 for a listed name that starts with v."""
    return listed(texts) * np.array([float(text.startswith("v")) for text in texts])


def starts_with_y(texts: Sequence[str]) -> np.ndarray:
    """Return 1 for a listed name that starts with y."""
    return listed(texts) * np.array([float(text.startswith("y")) for text in texts])


def ends_in_u(texts: Sequence[str]) -> np.ndarray:
    """Return 1 for a listed name that ends in u."""
    return listed(texts) * np.array([float(text.endswith("u")) for text in texts])


def listed_length(texts: Sequence[str]) -> np.ndarray:
    """Return a listed name's number of letters over that of the longest, and 0 for others."""
    longest = max(map(len, census_names().names))
    return listed(texts) * np.array([len(text) / longest for text in texts])


def listed_sonority(texts: Sequence[str]) -> np.ndarray:
    """Return the mean sonority of a listed name's letters, from 0 to 1, and 0 for others."""
    total = [
        sum(map(_SONORITY.__getitem__, text)) / max(1, len(text)) for text in _letters_of(texts)
    ]
    return listed(texts) * np.array(total)


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


# The sonority scale of phonology (Clements 1990): plosives, fricatives, nasals, liquids, glides,
# vowels. Spelling is only near to sound: a letter has the class it mostly stands for.
_CLASSES = ("bcdgkpqtx", "fhjsvz", "mn", "lr", "wy", "aeiou")
_SONORITY: Mapping[str, float] = MappingProxyType(
    {
        letter: rank / (len(_CLASSES) - 1)
        for rank, letters_of_class in enumerate(_CLASSES)
        for letter in letters_of_class
    }
)


def _letters_of(texts: Sequence[str]) -> list[str]:
    return ["".join(letter for letter in text if letter in _SONORITY) for text in texts]


@functools.cache
def _female_share_by_name() -> Mapping[str, float]:
    table = census_names()
    return MappingProxyType(dict(zip(table.names, table.female_share.tolist(), strict=True)))
