"""First names of the 1990 US census with their frequencies: the data of the demonstration."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np

DATA_FILE = "us_census_1990_first_names.csv"


@dataclass(frozen=True)
class CensusNames:
    """The listed names, in alphabetical order, and how often the census counted them.

    Parameters
    ----------
    names
        Lower-case names.
    female_percent, male_percent
        Shape (names,): frequency in percent of that sex; 0 where the name is not listed for it.
    """

    names: tuple[str, ...]
    female_percent: np.ndarray
    male_percent: np.ndarray

    @property
    def female_share(self) -> np.ndarray:
        """Female frequency over female plus male frequency, shape (names,), in [0, 1]."""
        return self.female_percent / (self.female_percent + self.male_percent)


@functools.cache
def census_names() -> CensusNames:
    """Read the table that ships with the package (lm/features/data/README.md states its source).

    Returns
    -------
    CensusNames
        5,163 names; the arrays are read-only because the table is shared.
    """
    text = resources.files("lm.features").joinpath("data", DATA_FILE).read_text(encoding="ascii")
    rows = list(csv.DictReader(text.splitlines()))
    female = np.array([float(row["female_frequency_percent"]) for row in rows])
    male = np.array([float(row["male_frequency_percent"]) for row in rows])
    female.flags.writeable = False
    male.flags.writeable = False
    return CensusNames(tuple(row["name"] for row in rows), female, male)


def source_probabilities(female_share: float) -> np.ndarray:
    """Return the distribution that a base model is trained on: a mix of the two sexes' tables.

    p(x) = s female(x) / sum(female) + (1 - s) male(x) / sum(male).

    Parameters
    ----------
    female_share
        s, the weight of the female table, in [0, 1].

    Returns
    -------
    numpy.ndarray
        Shape (names,), sums to one; the order is that of `census_names`.

    Raises
    ------
    ValueError
        `female_share` outside [0, 1].
    """
    if not 0.0 <= female_share <= 1.0:
        raise ValueError(f"female_share must lie in [0, 1], got {female_share!r}")
    table = census_names()
    female = table.female_percent / table.female_percent.sum()
    male = table.male_percent / table.male_percent.sum()
    return female_share * female + (1.0 - female_share) * male
