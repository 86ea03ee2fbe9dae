"""The ingredients of a random problem: shapes, long-tailed bases, constraints of given rates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import log_softmax
from toy.sequences import enumerate_sequences
from toy.sweep.random.families import sequence_uses

if TYPE_CHECKING:
    from jaxtyping import Float

# Dirichlet concentration of the bases: most of the mass on a few outcomes, a long tail of the rest.
_CONCENTRATION = 0.5
# Share of the uniform distribution in every base, so that no outcome is out of reach in practice.
_FLOOR = 0.01
# How likely a rare target has a second feature, which is to hold in half of the samples.
_SECOND = 0.5


@dataclass(frozen=True)
class Shape:
    """What the problems of a batch have in common.

    Attributes
    ----------
    world : str
        "categorical" or "sequence".
    size : tuple of int
        (outcomes, parameters of the restricted family), or (vocabulary, longest sequence).
    inside : bool
        Whether the family is full, so that it holds every target.
    """

    world: str
    size: tuple[int, int]
    inside: bool

    @property
    def uses(self) -> Float[np.ndarray, "k logits"] | None:
        """What `toy.sweep.random.families.RowFamilies` needs to know of the outcomes."""
        return self._table[1]

    @property
    def rows(self) -> tuple[int, int]:
        """Rows of the table of logits, and entries of a row."""
        if self.world == "categorical":
            return 1, self.size[0]
        return self._table[0], self.size[0] + 1

    @cached_property
    def _table(self) -> tuple[int, np.ndarray | None]:
        if self.world == "categorical":
            return 1, None
        return sequence_uses(*self.size, bigram=not self.inside)


SHAPES = tuple(
    Shape(world, size, inside)
    for world, sizes in (
        ("categorical", ((8, 3), (16, 4), (24, 6))),
        ("sequence", ((2, 3), (2, 4), (3, 3))),
    )
    for size in sizes
    for inside in (True, False)
)


class Draw(NamedTuple):
    """A base, and what a target may be made of.

    Attributes
    ----------
    rows : (rows, entries) array, nats
        The table of the base.
    log_base : (k,) array, nats
        Its outcomes.
    features : (k, 1 or 2) array
        Binary; the first has the rate that was asked for.
    rate : float
        E_a of the first feature, NaN if no rate was asked for.
    reward : (k,) array
        Standard normal.
    """

    rows: Float[np.ndarray, "rows entries"]
    log_base: Float[np.ndarray, " k"]
    features: Float[np.ndarray, "k m"]
    rate: float
    reward: Float[np.ndarray, " k"]


def draw_base(shape: Shape, rates: tuple[float, float] | None, *, rng: np.random.Generator) -> Draw:
    """Draw a base and features; the rate of the first lies in the given range.

    Parameters
    ----------
    shape : Shape
        World and size.
    rates : (float, float) or None
        Range of E_a[phi]; None if any will do.
    rng : numpy.random.Generator
        Source of the draw.

    Returns
    -------
    Draw
        The base and what goes with it.
    """
    if shape.world == "categorical":
        rows, log_base, first, others = _categorical(shape, rates, rng)
    else:
        rows, log_base, first, others = _sequence(shape, rates, rng)
    features = _with_second(first, others, rng)
    rate = np.nan if rates is None else float(np.exp(log_base) @ first)
    return Draw(rows, log_base, features, rate, rng.normal(size=log_base.shape))


def tilt_features(
    shape: Shape, knob: Float[np.ndarray, " k"], *, rng: np.random.Generator
) -> Float[np.ndarray, "k d"]:
    """Return the features of a restricted tilt family, one of them a blurred copy of ``knob``.

    With random features alone no policy could raise a rare constraint at all; with the constraint
    itself as a feature the target would lie inside.
    """
    outcomes, parameters = len(knob), shape.size[1]
    features = rng.normal(size=(outcomes, parameters))
    features[:, 0] = (knob - np.mean(knob)) / np.std(knob) + 0.5 * features[:, 0]
    return features


def _long_tailed(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    weights = rng.gamma(_CONCENTRATION, size=shape)
    share = weights / np.sum(weights, axis=-1, keepdims=True)
    return (1 - _FLOOR) * share + _FLOOR / shape[-1]


def _categorical(
    shape: Shape, rates: tuple[float, float] | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    outcomes = shape.size[0]
    first = np.zeros(outcomes)
    first[rng.permutation(outcomes)[: rng.integers(2, outcomes // 3 + 1)]] = 1.0
    masses = _long_tailed((outcomes,), rng)
    if rates is not None:
        rate = np.exp(rng.uniform(*np.log(rates)))
        of_kind = np.where(first > 0, masses @ first, masses @ (1 - first))
        masses = masses / of_kind * np.where(first > 0, rate, 1 - rate)
    log_base = np.log(masses)
    others = (rng.random((8, outcomes)) < 0.4).astype(float)
    return log_base[None], log_base, first, others


def _sequence(
    shape: Shape, rates: tuple[float, float] | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw bases until a pattern has a rate in the range, then choose among such patterns."""
    patterns = _patterns(*shape.size)
    while True:
        rows = np.log(_long_tailed((16, *shape.rows), rng))
        log_base = log_softmax(rows).reshape(16, -1) @ np.asarray(shape.uses).T
        found = np.exp(log_base) @ patterns.T
        low, high = (0.0, 1.0) if rates is None else rates
        which, pattern = np.nonzero((found >= low) & (found <= high))
        if len(which):
            chosen = rng.integers(len(which))
            base, first = which[chosen], patterns[pattern[chosen]]
            return rows[base], log_base[base], first, rng.permutation(patterns)


def _with_second(first: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a second feature, half of the time, that leaves all moments inside (0, 1) attainable."""
    if rng.random() < _SECOND:
        for other in others:
            # Both with and without it where the first holds: 0.95 and 0.5 are then attainable.
            if np.any(other[first > 0]) and not np.all(other[first > 0]):
                return np.stack([first, other], axis=-1)
    return first[:, None]


@cache
def _patterns(vocabulary: int, max_length: int) -> np.ndarray:
    """Return which sequences contain a word of one to three tokens, one row per word."""
    tokens = enumerate_sequences(vocabulary, max_length).tokens  # padded with no letter
    found = []
    for length in (1, 2, 3):
        for word in product(range(vocabulary), repeat=length):
            starts = range(max_length - length + 1)
            at = [np.all(tokens[:, s : s + length] == word, axis=-1) for s in starts]
            found.append(np.any(at, axis=0))
    return np.array(found, dtype=float)
