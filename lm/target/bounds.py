"""How large P(x)/a(x) can become, which rejection sampling from the base needs to know."""

from __future__ import annotations

import torch

from lm.features.census import census_names
from lm.features.registry import get_feature, lives_on_list
from lm.target.listed import Listing
from lm.target.targets import Target, log_score

Bounds = tuple[float, float]


def largest_log_weight(
    target: Target, listing: Listing | None, *, most_tokens: int
) -> float | None:
    """Return an upper bound of log P(x) - log a(x) over all texts.

    Parameters
    ----------
    target
        Any target.
    listing
        The listed names, for a model that spells them; else None.
    most_tokens
        The length limit of a text.

    Returns
    -------
    float or None
        Nats. The least upper bound where the features live on the list or the constraint is hard;
        else that of the features' own bounds. None where there is none to be known: a feature
        without `TargetConfig.bounds`, a custom target, a model as target.
    """
    config = target.config
    if config.kind == "constrained":
        return 0.0
    if config.kind not in {"exponential_family", "reward_tilted"}:
        return None

    # On the list, the features of every name, and of all other texts, are known together.
    if listing is not None and config.on_list:
        _, atoms = listing.with_remainder()
        zero = torch.zeros(len(atoms), dtype=torch.float64)
        return float(log_score(config, target.weights, zero, atoms).max())

    # Elsewhere each feature has bounds, and the score rises or falls with it.
    corner = []
    for name, weight in zip(target.features, target.weights.tolist(), strict=True):
        bounds = feature_bounds(target, name, most_tokens=most_tokens)
        if bounds is None:
            return None
        corner.append(bounds[1] if weight > 0 else bounds[0])
    zero = torch.zeros(1, dtype=torch.float64)
    features = torch.tensor([corner], dtype=torch.float64)
    return float(log_score(config, target.weights, zero, features))


def feature_bounds(target: Target, name: str, *, most_tokens: int) -> Bounds | None:
    """Return the least and the largest value of a target's feature, None where none are known.

    Parameters
    ----------
    target
        Its configuration may state them.
    name
        One of its features.
    most_tokens
        The length limit of a text.
    """
    if name in target.config.bounds:
        return target.config.bounds[name]
    if lives_on_list(name):
        values = get_feature(name).values(list(census_names().names))
        return min(0.0, float(values.min())), max(0.0, float(values.max()))
    return (1.0, float(most_tokens)) if name == "tokens" else get_feature(name).bounds
