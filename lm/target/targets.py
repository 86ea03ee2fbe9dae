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
from lm.config.target import TargetConfig
from lm.features.registry import score_values
from lm.policy.causal import CausalPolicy
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
    teacher: CausalPolicy | None = None

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
        )
        return torch.from_numpy(values).to(log_base)


def build_target(
    config: TargetConfig,
    log_base: Tensor,
    features: Tensor,
    *,
    exact: bool,
    prompts: Sequence[str] = (),
) -> Target:
    """Fit the target on a finite support that stands for the base.

    Parameters
    ----------
    config
        Kind, features and what is wanted of them.
    log_base
        Shape (..., n): either log a of the listed names and, last, of everything unlisted (exact),
        or -log n for each of n base samples, of each context where there are several.
    features
        Shape (..., n, features): phi of each point; zero for the unlisted rest.
    exact
        Whether the support is the list, so that its sum is Z.
    prompts
        The contexts' texts, for the message of an error.

    Returns
    -------
    Target
        Its ``log_z`` is set only if the support is exact.

    Raises
    ------
    UnattainableMoments
        No multipliers give the wanted moments on this support.
    ValueError
        A hard constraint that no point of the support, or of a context's, satisfies.
    """
    log_base, features = log_base.double(), features.double()
    base_moments = _mean_moments(torch.softmax(log_base, -1), features)
    weights, fit = _weights(config, log_base, features, base_moments)
    log_score = _log_score(config, weights, log_base, features)
    require_mass(config, log_score, prompts)
    log_z = exact_log_partition(log_score)
    moments = _mean_moments(torch.exp(log_score - log_z[..., None]), features)
    return Target(config, weights, base_moments, moments, float(log_z) if exact else None, fit)


def custom_target(config: TargetConfig) -> Target:
    """Return a target that is given by a function of texts: no features, nothing to fit."""
    nothing = torch.zeros(0, dtype=torch.float64)
    return Target(config, nothing, nothing, nothing, None, None)


def teacher_target(config: TargetConfig, teacher: CausalPolicy) -> Target:
    """Return a model's distribution as target: nothing to fit, and Z = 1."""
    nothing = torch.zeros(0, dtype=torch.float64)
    return Target(config, nothing, nothing, nothing, 0.0, None, teacher)


def reward_alone(config: TargetConfig) -> Target:
    """Return plain reward maximisation: reverse KL to the policy's own tilt, pi e^r.

    The signal log pi - log(pi e^r) is -r, so its gradient is that of -E_pi[r]. Where a penalty
    anchors the target to the base, here nothing does; the constant log Z of the tilt is left out.
    """
    reward = torch.tensor(list(config.reward.values()), dtype=torch.float64)
    nothing = torch.full_like(reward, torch.nan)
    return Target(config, reward, nothing, nothing, 0.0, None)


def require_mass(config: TargetConfig, log_score: Tensor, prompts: Sequence[str] = ()) -> None:
    """Raise a ValueError if a target has no mass on what stands for the base.

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
    raise ValueError(
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


def _mean_moments(probabilities: Tensor, features: Tensor) -> Tensor:
    """Return E[phi] of each context's points, averaged over contexts, shape (features,)."""
    moments = torch.einsum("...n,...nk->...k", probabilities, features)
    return moments.reshape(-1, moments.shape[-1]).mean(0)


def _log_score(config: TargetConfig, weights: Tensor, log_base: Tensor, features: Tensor) -> Tensor:
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
