"""Where the samples of an estimate come from, and where its Z does."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import FDivergence, divergence_terms, dual, logsumexp
from fdpg_ref.related import controlled_terms
from toy.measurement.worlds import World

if TYPE_CHECKING:
    from jaxtyping import Float


class Way(NamedTuple):
    """A way to estimate D_f(pi||p) from independent samples of one law.

    Attributes
    ----------
    title : str
        What is sampled, for tables, where a is the base.
    law : tuple of float
        Shares of policy, target and base in the law of the samples; each sample falls to one of
        the three by these odds.
    estimated_z : bool
        Whether Z is the mean weight of the same samples; else it is exact.
    """

    title: str
    law: tuple[float, float, float]
    estimated_z: bool = False

    def log_proposal(self, world: World) -> Float[np.ndarray, " k"]:
        """Return the log-mass of each class under the law of the samples, in nats."""
        parts = [
            log_masses + np.log(share)
            for log_masses, share in zip(world, self.law, strict=True)
            if share
        ]
        return logsumexp(np.stack(parts, axis=-1))

    def terms(
        self, world: World, log_z: Float[np.ndarray, " sets"], *, divergence: FDivergence
    ) -> Float[np.ndarray, "sets k"]:
        """Return what a sample of each class adds to the estimate.

        Parameters
        ----------
        world : World
            Policy, target and base.
        log_z : (sets,) array, nats
            log(Zhat/Z) of each sample set, 0 where Z is exact.
        divergence : FDivergence
            Which f, with a finite slope at infinity where samples are the target's.

        Returns
        -------
        (sets, k) array, nats
            One row a sample set, of the classes that its law can draw.
        """
        log_proposal = self.log_proposal(world)
        drawn = log_proposal > -np.inf
        shape = (log_z.size, int(np.sum(drawn)))
        policy = np.broadcast_to(world.log_policy[drawn], shape)
        proposal = np.broadcast_to(log_proposal[drawn], shape)
        target = world.log_target[drawn] - log_z[:, None]
        if self.law[1] < 1:
            return divergence_terms(policy, target, proposal, divergence=divergence)

        # Samples of p never show what p excludes. f'(inf) (1 - pi/p) has, over them, the mean that
        # they miss: KL(p||pi) becomes the mean of log p/pi, TV that of max(0, 1 - pi/p).
        price = divergence.slope_at_infinity
        return controlled_terms(target, policy, divergence=dual(divergence), weight=price)


WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "policy": Way("policy, Z too", (1.0, 0.0, 0.0), estimated_z=True),
        "policy_exact_z": Way("policy, exact Z", (1.0, 0.0, 0.0)),
        "target": Way("p", (0.0, 1.0, 0.0)),
        "mixture": Way("(p + pi)/2", (0.5, 0.5, 0.0)),
        "with_base": Way("(pi + a)/2", (0.5, 0.0, 0.5)),
    }
)
