"""Families of policies: a parameter vector in, log-probabilities and scores out.

In the full softmax family the target can be reached and all divergences agree at the optimum. In
a *restricted* family it cannot, and each divergence settles for another compromise. Every family
has the closed-form score matrix of the softmax, carried through the chain rule:
``scores = score_matrix(logits) @ jacobian of the logits``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from toy import categorical

if TYPE_CHECKING:
    from jaxtyping import Float


class Family(Protocol):
    """The interface of a family of policies over k outcomes."""

    @property
    def size(self) -> int:
        """Number d of parameters."""
        ...

    def log_probs(self, theta: Float[np.ndarray, " d"]) -> Float[np.ndarray, " k"]:
        """Return log pi_theta of every outcome, in nats."""
        ...

    def score_matrix(self, theta: Float[np.ndarray, " d"]) -> Float[np.ndarray, "k d"]:
        """Return grad_theta log pi_theta of every outcome, one per row."""
        ...


@dataclass(frozen=True)
class SoftmaxFamily:
    """All policies of full support over ``outcomes`` outcomes; the parameters are the logits."""

    outcomes: int

    @property
    def size(self) -> int:
        """Number of parameters: one logit an outcome."""
        return self.outcomes

    def log_probs(self, theta: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """Return log softmax(theta)."""
        return categorical.log_probs(theta)

    def score_matrix(self, theta: Float[np.ndarray, " k"]) -> Float[np.ndarray, "k k"]:
        """Return the closed-form scores of the softmax."""
        return categorical.score_matrix(theta)


@dataclass(frozen=True, eq=False)
class TiltFamily:
    """The exponential tilts pi(x) ~ a(x) exp(theta . phi(x)) of a base.

    Attributes
    ----------
    log_base : (k,) array, nats
        The policy at theta = 0.
    features : (k, d) array
        phi, one row per outcome. With d < k - 1 columns most targets are out of reach.
    """

    log_base: Float[np.ndarray, " k"]
    features: Float[np.ndarray, "k d"]

    @property
    def size(self) -> int:
        """Number of parameters: one multiplier a feature."""
        return self.features.shape[-1]

    def log_probs(self, theta: Float[np.ndarray, " d"]) -> Float[np.ndarray, " k"]:
        """Return log a + theta . phi, normalised."""
        return categorical.log_probs(self._logits(theta))

    def score_matrix(self, theta: Float[np.ndarray, " d"]) -> Float[np.ndarray, "k d"]:
        """Return phi(x) - E_pi[phi], by the chain rule."""
        return categorical.score_matrix(self._logits(theta)) @ self.features

    def _logits(self, theta: Float[np.ndarray, " d"]) -> Float[np.ndarray, " k"]:
        return self.log_base + self.features @ theta


@dataclass(frozen=True, eq=False)
class GaussianFamily:
    """Gaussians on a line, restricted to its grid points: one mode, wherever it goes.

    The parameters are the mean and the logarithm of the width; pi(x) ~ exp(-(x - mean)^2 / (2
    width^2)) on the points. On a target of two modes it must choose: sit on one, or span both.

    Attributes
    ----------
    points : (k,) array
        Positions of the outcomes on the line.
    """

    points: Float[np.ndarray, " k"]

    @property
    def size(self) -> int:
        """Number of parameters: mean and log-width."""
        return 2

    def log_probs(self, theta: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " k"]:
        """Return the log-probabilities of the discretised Gaussian."""
        return categorical.log_probs(-0.5 * self._standardised(theta) ** 2)

    def score_matrix(self, theta: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "k 2"]:
        """Return the scores in mean and log-width, by the chain rule."""
        standardised = self._standardised(theta)
        jacobian = np.stack([standardised / np.exp(theta[1]), standardised**2], axis=-1)
        return categorical.score_matrix(-0.5 * standardised**2) @ jacobian

    def _standardised(self, theta: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " k"]:
        mean, log_width = theta
        return (self.points - mean) / np.exp(log_width)
