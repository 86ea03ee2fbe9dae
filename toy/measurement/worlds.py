"""Policies that drop a part of their target, as a few classes of outcomes.

On each class p/pi and a/pi are constant. How many outcomes a class holds is no matter: a hundred
names that the policy hardly ever writes are one class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import FDivergence, exact_divergence
from toy.checks import check_log_probs, check_support

if TYPE_CHECKING:
    from jaxtyping import Float

# The places of the classes: what the policy dropped, what it kept, what the target excludes.
DROPPED, KEPT, OUTSIDE = 0, 1, 2


class World(NamedTuple):
    """A policy, its target and the base over k classes.

    Attributes
    ----------
    log_policy, log_target, log_base : (k,) arrays, nats
        Log-masses of the classes: `DROPPED`, `KEPT` and, where the target excludes something,
        `OUTSIDE`.
    """

    log_policy: Float[np.ndarray, " k"]
    log_target: Float[np.ndarray, " k"]
    log_base: Float[np.ndarray, " k"]

    def divergence(self, divergence: FDivergence) -> float:
        """Return D_f(pi||p) in nats, exactly."""
        return float(exact_divergence(self.log_policy, self.log_target, divergence=divergence))


def world_of(policy: list[float], target: list[float], base: list[float]) -> World:
    """Return a world with these masses of its classes.

    Raises
    ------
    ValueError
        If masses do not sum to one.
    """
    with np.errstate(divide="ignore"):  # a mass of zero is a log-mass of -inf
        world = World(*(np.log(np.array(masses)) for masses in (policy, target, base)))
    for name, log_masses in zip(World._fields, world, strict=True):
        check_log_probs(name, log_masses)
    return world


def dropping(share: float, seen: float, *, outside: float = 0.0, base_rate: float = 1.0) -> World:
    """Return a policy that gives a share of its target the mass ``seen``.

    Parameters
    ----------
    share : float
        Mass of the target on what was dropped.
    seen : float
        Mass of the policy there.
    outside : float
        Mass of the policy on what the target excludes.
    base_rate : float
        Mass of the base on what the target allows: the target is the base under a hard constraint.
        1 leaves out the class `OUTSIDE`.

    Returns
    -------
    World
        Of two classes, or of three with a base rate below 1.

    Raises
    ------
    ValueError
        If the policy has mass outside a target that excludes nothing; for masses beyond [0, 1].

    Examples
    --------
    >>> from fdpg_ref import FORWARD_KL
    >>> from toy.measurement.worlds import dropping
    >>> round(dropping(0.28, 0.0024).divergence(FORWARD_KL), 2)
    1.1
    """
    if not (0 < share < 1 and 0 <= outside < 1 and 0 < base_rate <= 1 and 0 <= seen < 1 - outside):
        raise ValueError(
            f"share {share}, seen {seen}, outside {outside}, base rate {base_rate}: masses lie "
            "between 0 and 1, and seen and outside leave something to keep"
        )
    if base_rate == 1:
        if outside:
            raise ValueError(
                f"outside is {outside}, but with a base rate of 1 nothing is outside: lower one"
            )
        target = [share, 1 - share]
        return world_of([seen, 1 - seen], target, target)
    return world_of(
        [seen, 1 - seen - outside, outside],
        [share, 1 - share, 0.0],
        [share * base_rate, (1 - share) * base_rate, 1 - base_rate],
    )


def check_finite(world: World, divergence: FDivergence) -> None:
    """Raise InfiniteDivergence, by name, where the divergence of a world is infinite."""
    check_support(world.log_policy, world.log_target, divergence=divergence)
