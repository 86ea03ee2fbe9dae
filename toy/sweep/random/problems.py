"""Random problems in batches of one shape: a base, a target, and a family that starts at the base.

A problem is drawn from its own generator, so it does not depend on what else a batch holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import (
    constrained,
    exact_log_partition,
    exponential_family,
    fit_multipliers,
    reward_tilted,
)
from toy.sweep.random.draws import Draw, Shape, draw_base, tilt_features
from toy.sweep.random.families import RowFamilies

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# What a target asks for; the base rates of the constraint, if there is one.
RATES = {
    "soft_rare": (0.001, 0.01),
    "hard_rare": (0.001, 0.01),
    "soft_common": (0.1, 0.4),
    "distributional": (0.2, 0.4),
    "reward": None,
    "random": None,
}
KINDS = tuple(RATES)


class Target(NamedTuple):
    """A target over the outcomes of one problem.

    Attributes
    ----------
    log_score : (k,) array, nats
        log P, unnormalised; -inf excludes an outcome.
    feature : (k,) array
        phi, whose mean under the policy is the alignment; NaN where the target has none.
    """

    log_score: Float[np.ndarray, " k"]
    feature: Float[np.ndarray, " k"]


@dataclass(frozen=True, eq=False)
class Problems:
    """A batch of B problems of one shape.

    Attributes
    ----------
    shape : Shape
        World, size, and whether the targets lie inside the families.
    number : (B,) array of int
        The number of each problem in the study.
    kind : (B,) array of int
        Its target, as a place in `KINDS`.
    base_rate : (B,) array
        E_a[phi] of a constraint, NaN where the target has none.
    families : RowFamilies
        The policies; theta = 0 is the base.
    log_base, log_target : (B, k) arrays, nats
        Normalised.
    feature : (B, k) array
        phi, or NaN.
    """

    shape: Shape
    number: Int[np.ndarray, " B"]
    kind: Int[np.ndarray, " B"]
    base_rate: Float[np.ndarray, " B"]
    families: RowFamilies
    log_base: Float[np.ndarray, "B k"]
    log_target: Float[np.ndarray, "B k"]
    feature: Float[np.ndarray, "B k"]

    @property
    def hard(self) -> Bool[np.ndarray, " B"]:
        """Whether the target of each problem excludes outcomes."""
        return np.any(self.log_target == -np.inf, axis=-1)

    def take(self, index: Int[np.ndarray, " C"]) -> Problems:
        """Return the problems at these places of the batch, repeated where an index is."""
        names = ("number", "kind", "base_rate", "log_base", "log_target", "feature")
        parts = {name: getattr(self, name)[index] for name in names}
        return replace(self, families=self.families.take(index), **parts)


def draw_problems(
    shape: Shape,
    numbers: Sequence[int],
    kinds: Sequence[int],
    seeds: Sequence[np.random.SeedSequence],
) -> Problems:
    """Draw a batch of problems of one shape.

    Parameters
    ----------
    shape : Shape
        What they have in common.
    numbers, kinds : sequences of int
        The number of each problem in the study, and the place of its target in `KINDS`.
    seeds : sequence of numpy.random.SeedSequence
        One per problem.

    Returns
    -------
    Problems
        The batch.
    """
    drawn = [
        _draw_problem(shape, KINDS[kind], np.random.default_rng(seed))
        for kind, seed in zip(kinds, seeds, strict=True)
    ]
    draws, targets, tilts = zip(*drawn, strict=True)
    features = None if shape.inside or shape.world == "sequence" else np.stack(tilts)
    base = np.stack([draw.rows for draw in draws])
    families = RowFamilies(base, features=features, uses=shape.uses)
    log_score = np.stack([target.log_score for target in targets])
    return Problems(
        shape=shape,
        number=np.array(numbers),
        kind=np.array(kinds),
        base_rate=np.array([draw.rate for draw in draws]),
        families=families,
        log_base=families.policy(families.start).log_probs,
        log_target=log_score - exact_log_partition(log_score)[:, None],
        feature=np.stack([target.feature for target in targets]),
    )


def _draw_problem(
    shape: Shape, kind: str, rng: np.random.Generator
) -> tuple[Draw, Target, np.ndarray]:
    draw = draw_base(shape, RATES[kind], rng=rng)
    target = _draw_target(kind, draw, rng)
    knobs = draw.reward if kind == "reward" else draw.features[:, 0]
    return draw, target, tilt_features(shape, knobs, rng=rng)


def _draw_target(kind: str, draw: Draw, rng: np.random.Generator) -> Target:
    """Return the target of a kind on a base whose constraint has the rate of that kind."""
    log_base, features = draw.log_base, draw.features
    if kind == "reward":
        # From weak to strong penalties: the tilt r/beta has a spread of 1 to 10 nats.
        beta = float(np.exp(rng.uniform(np.log(0.1), 0.0)))
        return Target(reward_tilted(log_base, draw.reward, beta=beta), draw.reward)
    if kind == "random":
        # Exponential: large, asymmetric log-ratios, unlike those of any tilt of the base.
        log_score = -2.0 * rng.exponential(size=log_base.shape)
        return Target(log_score, np.full(log_base.shape, np.nan))

    # Constraints: hard, or soft by the moments of the features.
    if kind == "hard_rare":
        return Target(constrained(log_base, features[:, 0] > 0), features[:, 0])
    if kind == "soft_common":
        features = features[:, :1]
        moments = np.array([0.95 if rng.random() < 0.5 else rng.uniform(0.6, 0.9)])
    elif kind == "distributional":
        features, moments = features[:, :1], np.array([0.5])
    else:
        moments = np.array([0.95, 0.5])[: features.shape[1]]

    fit = fit_multipliers(log_base, features, moments)
    return Target(exponential_family(log_base, features, fit.multipliers), features[:, 0])
