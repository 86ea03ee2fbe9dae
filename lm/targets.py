"""Targets of a run: fitted on the list where that is exact, on base samples where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fdpg_ref import (
    MultiplierFit,
    UnattainableMoments,
    constrained,
    exact_log_partition,
    exponential_family,
    fit_multipliers,
    reward_tilted,
)
from lm.config import TargetConfig


@dataclass(frozen=True)
class Target:
    """A target distribution p = P/Z over sequences, relative to a base model.

    Parameters
    ----------
    config
        What was asked for.
    weights
        Shape (features,), float64: the multipliers in nats a unit of feature (exponential family),
        the reward of each feature (reward tilted), or ones (constrained).
    base_moments
        Shape (features,): E_a[phi], exact where the features live on the list.
    moments
        Shape (features,): E_p[phi] of the target that was built.
    log_z
        Exact log Z in nats, or None where the features do not live on the list.
    fit
        Certificate of the multipliers, or None where there are none.
    """

    config: TargetConfig
    weights: Tensor
    base_moments: Tensor
    moments: Tensor
    log_z: float | None
    fit: MultiplierFit | None

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
        return _log_score(self.config, self.weights, log_base, features)


def build_target(config: TargetConfig, log_base: Tensor, features: Tensor) -> Target:
    """Fit the target on a finite support that stands for the base.

    Parameters
    ----------
    config
        Kind, features and what is wanted of them.
    log_base
        Shape (n,): either log a of the listed names and, last, of everything unlisted (exact), or
        -log n for each of n base samples (the features do not live on the list).
    features
        Shape (n, features): phi of each point; zero for the unlisted rest.

    Returns
    -------
    Target
        Its ``log_z`` is set only if the features live on the list.

    Raises
    ------
    UnattainableMoments
        No multipliers give the wanted moments on this support.
    ValueError
        A hard constraint that no point of the support satisfies.
    """
    log_base, features = log_base.double(), features.double()
    base = torch.softmax(log_base, -1)
    base_moments = base @ features
    weights, fit = _weights(config, log_base, features, base_moments)
    log_score = _log_score(config, weights, log_base, features)
    if not bool(torch.isfinite(log_score).any()):
        raise ValueError(
            f"no text of the base satisfies the constraint {' and '.join(config.constraints)}: "
            "the target would be empty. Use more base samples (partition.samples) or loosen it"
        )
    log_z = float(exact_log_partition(log_score))
    moments = torch.exp(log_score - log_z) @ features
    exact = log_z if config.on_list else None
    return Target(config, weights, base_moments, moments, exact, fit)


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
    """Return one row per feature: base value, wanted value, target value and weight."""
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


def _weights(
    config: TargetConfig, log_base: Tensor, features: Tensor, base_moments: Tensor
) -> tuple[Tensor, MultiplierFit | None]:
    if config.kind == "exponential_family":
        try:
            fit = fit_multipliers(log_base, features, wanted_moments(config, base_moments))
        except UnattainableMoments as error:
            names = ", ".join(f"{k} is {name}" for k, name in enumerate(config.features))
            raise UnattainableMoments(f"{error} (feature {names})") from error
        return fit.multipliers, fit
    if config.kind == "reward_tilted":
        return torch.tensor(list(config.reward.values()), dtype=features.dtype), None
    return torch.ones(len(config.constraints), dtype=features.dtype), None


def _log_score(config: TargetConfig, weights: Tensor, log_base: Tensor, features: Tensor) -> Tensor:
    features = features.to(log_base)
    weights = weights.to(log_base)
    if config.kind == "exponential_family":
        return exponential_family(log_base, features, weights)
    if config.kind == "reward_tilted":
        return reward_tilted(log_base, features @ weights, beta=config.beta)
    return constrained(log_base, (features != 0).all(-1))
