"""D_f from its definition in torch, to differentiate: the judge of an engine's gradient."""

from __future__ import annotations

import math

from torch import Tensor


def textbook(name: str, log_policy: Tensor, log_target: Tensor) -> Tensor:
    """Return the sum of p f(pi/p) with the f of textbooks, and its slope where p is zero."""
    inside = log_target > -math.inf
    p, t = log_target[inside].exp(), (log_policy - log_target)[inside].exp()
    slope = 0.0
    if name == "forward_kl":
        f = -t.log()
    elif name == "reverse_kl":
        f = t * t.log()
    elif name == "jensen_shannon":
        f, slope = (t * (2 * t / (t + 1)).log() + (2 / (t + 1)).log()) / 2, math.log(2) / 2
    elif name == "pearson_chi2":
        f = (t - 1) ** 2
    elif name == "squared_hellinger":
        f, slope = (t.sqrt() - 1) ** 2, 1.0
    elif name == "total_variation":
        f, slope = (t - 1).abs() / 2, 0.5
    else:
        a = float(name.removeprefix("alpha_"))
        f, slope = (t**a - a * t - (1 - a)) / (a * (a - 1)), 1 / (1 - a)

    value = (p * f).sum()
    return value + slope * log_policy[~inside].exp().sum() if slope else value
