"""Features of a text, by name: what a target raises, lowers or holds fixed."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from lm.census import census_names


@dataclass(frozen=True)
class Feature:
    """A real-valued feature of a text.

    Parameters
    ----------
    description
        One line for tables and reports.
    values
        Texts to an array of shape (texts,), float64.
    lives_on_list
        Whether the feature is zero for every text that is not a listed name. Only then are
        Z, the multipliers and E[feature] exact sums over the list.
    """

    description: str
    values: Callable[[Sequence[str]], np.ndarray]
    lives_on_list: bool


def feature_values(names: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Evaluate several features.

    Parameters
    ----------
    names
        Keys of `FEATURES`.
    texts
        The texts, as a vocabulary decodes them.

    Returns
    -------
    numpy.ndarray
        Shape (texts, features), float64.

    Raises
    ------
    ValueError
        No feature is named, or a name is unknown (the nearest known one is given), or a feature
        returns NaN or an infinity (the text is named).
    """
    if not names:
        raise ValueError(f"name at least one feature of {', '.join(FEATURES)}")
    columns = []
    for name in names:
        column = get_feature(name).values(texts)
        bad = np.flatnonzero(~np.isfinite(column))
        if bad.size:
            raise ValueError(f"feature {name!r} is {column[bad[0]]} for the text {texts[bad[0]]!r}")
        columns.append(column)
    return np.stack(columns, axis=-1)


def get_feature(name: str) -> Feature:
    """Look up a feature.

    Raises
    ------
    ValueError
        The name is unknown; the message gives the nearest known one.
    """
    if name in FEATURES:
        return FEATURES[name]
    nearest = difflib.get_close_matches(name, FEATURES, n=1, cutoff=0.0)
    raise ValueError(
        f"unknown feature {name!r}; did you mean {nearest[0]!r}? Known: {', '.join(FEATURES)}"
    )


@functools.cache
def _female_share_by_name() -> Mapping[str, float]:
    table = census_names()
    return MappingProxyType(dict(zip(table.names, table.female_share.tolist(), strict=True)))


def _female(texts: Sequence[str]) -> np.ndarray:
    shares = _female_share_by_name()
    return np.array([shares.get(text, 0.0) for text in texts])


def _male(texts: Sequence[str]) -> np.ndarray:
    return _listed(texts) - _female(texts)


def _listed(texts: Sequence[str]) -> np.ndarray:
    shares = _female_share_by_name()
    return np.array([float(text in shares) for text in texts])


def _ends_in_i(texts: Sequence[str]) -> np.ndarray:
    return _listed(texts) * np.array([float(text.endswith("i")) for text in texts])


def _letters(texts: Sequence[str]) -> np.ndarray:
    return np.array([float(sum(map(str.isalpha, text))) for text in texts])


FEATURES: Mapping[str, Feature] = MappingProxyType(
    {
        "female": Feature("share of the name's bearers counted as female", _female, True),
        "male": Feature("share of the name's bearers counted as male", _male, True),
        "listed": Feature("the text is a name on the census list", _listed, True),
        "ends_in_i": Feature("listed name that ends in i", _ends_in_i, True),
        "letters": Feature("number of letters, of any text", _letters, False),
    }
)
