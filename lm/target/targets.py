"""Targets: what log P(x) is, from log a(x) and features, from a function, or from a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fdpg_ref import MultiplierFit, constrained, exponential_family, reward_tilted
from lm.config.target import TargetConfig
from lm.errors import RunError
from lm.features.registry import score_values
from lm.policy.protocol import Policy
from lm.target.decoded import Reading
from lm.target.teacher import teacher_log_prob


@dataclass(frozen=True)
class Target:
    """A target distribution p = P/Z over sequences, relative to a base model.

    Parameters
    ----------
    config
        What was asked for.
    weights
        Shape (features,), float64: the multipliers in nats a unit of feature (exponential family),
        the reward of each feature (reward tilted), or ones (constrained); empty for a custom one.
    base_moments
        Shape (features,): E_a[phi], exact where the features live on the list; with prompts the
        mean over those of the evaluations.
    moments
        Shape (features,): E_p[phi] of the target that was built, likewise.
    log_z
        Exact log Z in nats, or None where it is not a sum over the list.
    fit
        Certificate of the multipliers, or None where there are none.
    teacher
        The model that is the target, or None for every other kind.
    """

    config: TargetConfig
    weights: Tensor
    base_moments: Tensor
    moments: Tensor
    log_z: float | None
    fit: MultiplierFit | None
    teacher: Policy | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in the order of every array of this target."""
        return self.config.features

    def log_score(self, log_base: Tensor, features: Tensor) -> Tensor:
        """Return log P(x), the unnormalised target.

        Parameters
        ----------
        log_base
            Shape (n,): log a(x) in nats.
        features
            Shape (n, features), in the order of `features`; cast to the dtype of ``log_base``.

        Returns
        -------
        Tensor
            Shape (n,), nats; -inf where a hard constraint excludes x.
        """
        return log_score(self.config, self.weights, log_base, features)

    def log_score_of(self, log_base: Tensor, reading: Reading) -> Tensor:
        """Return log P(x) of texts: from their features, the user's own log P, or a teacher.

        Parameters
        ----------
        log_base
            Shape (n,): log a(x) in nats.
        reading
            The n texts with their features.

        Returns
        -------
        Tensor
            Shape (n,), nats, with the dtype and device of ``log_base``.

        Raises
        ------
        RunError
            The user's function raises, or returns NaN or +inf; the text is named.
        """
        if self.teacher is not None:
            return teacher_log_prob(self.teacher, reading).to(log_base)
        if self.config.score is None:
            return self.log_score(log_base, reading.features)
        values = score_values(
            self.config.score,
            log_base.detach().double().cpu().numpy(),
            reading.texts,
            prompts=reading.prompts,
            completions=reading.completions,
            tokens=reading.tokens,
            columns=reading.columns,
        )
        return torch.from_numpy(values).to(log_base)


class NoMass(RunError):
    """A target has no mass on anything that was looked at."""


def require_mass(config: TargetConfig, log_score: Tensor, prompts: Sequence[str] = ()) -> None:
    """Raise a NoMass, a ValueError, if a target has no mass on what stands for the base.

    Parameters
    ----------
    config
        Names the constraint.
    log_score
        Shape (..., n), nats: log P on the list, or on base samples of each context.
    prompts
        The contexts' texts; none without prompts.
    """
    empty = ~torch.isfinite(log_score).any(-1).reshape(-1)
    if not bool(empty.any()):
        return
    where = f" that continues {prompts[int(empty.nonzero()[0])]!r}" if prompts else ""
    what = (
        f"satisfies the constraint {' and '.join(config.constraints)}"
        if config.constraints
        else f"has a finite score {config.score}"
    )
    raise NoMass(
        f"no text of the base{where} {what}: the target would be empty. Use more base samples "
        "(partition.samples), loosen it" + (", or leave the prompt out" if prompts else "")
    )


def wanted_moments(config: TargetConfig, base_moments: Tensor) -> Tensor:
    """Return the moments asked for, with the word base replaced by the base's own value.

    Parameters
    ----------
    config
        An exponential family.
    base_moments
        Shape (features,): E_a[phi].

    Returns
    -------
    Tensor
        Shape (features,).
    """
    wanted = [
        float(kept) if value == "base" else float(value)
        for value, kept in zip(config.moments.values(), base_moments, strict=True)
    ]
    return torch.tensor(wanted, dtype=base_moments.dtype)


def describe_target(target: Target) -> list[dict[str, float | str | None]]:
    """Return one row per feature: base value, wanted value, target value and weight.

    Parameters
    ----------
    target
        Any target; one without features has no rows.

    Returns
    -------
    list of dict
        Keys feature, base, wanted (null where nothing was asked for), target and weight.
    """
    wanted: Sequence[float | None] = [None] * len(target.features)
    if target.config.kind == "exponential_family":
        wanted = wanted_moments(target.config, target.base_moments).tolist()
    columns = zip(
        target.features,
        target.base_moments.tolist(),
        wanted,
        target.moments.tolist(),
        target.weights.tolist(),
        strict=True,
    )
    return [
        {"feature": name, "base": base, "wanted": want, "target": got, "weight": weight}
        for name, base, want, got, weight in columns
    ]


def log_score(config: TargetConfig, weights: Tensor, log_base: Tensor, features: Tensor) -> Tensor:
    """Return log P(x) as a target's kind defines it.

    Parameters
    ----------
    config
        Kind and beta.
    weights
        Shape (features,): as `Target.weights`.
    log_base, features
        Shape (..., n) and (..., n, features): log a in nats, and phi.
    """
    features = features.to(log_base)
    weights = weights.to(log_base)
    if config.kind == "exponential_family":
        return exponential_family(log_base, features, weights)
    if config.kind == "reward":
        return reward_tilted(log_base, (features * weights).sum(-1), beta=1.0)
    if config.kind == "reward_tilted":
        # Not a matrix product, which autocast would compute in half precision.
        return reward_tilted(log_base, (features * weights).sum(-1), beta=config.beta)
    return constrained(log_base, (features != 0).all(-1))
