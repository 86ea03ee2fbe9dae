"""f-DPG as an advantage estimator of verl, `algorithm.adv_estimator=f_dpg`: an auto-loaded plug-in.

verl hands an estimator rewards, mask, uid and its own settings, and no log-probabilities. None are
needed: with the k1 penalty in the reward the return of a sample is r - beta log(pi/ref), which is
beta (log P - log pi) for the target P = ref exp(r / beta).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fdpg_ref import find_divergence, group_coefficients
from lm.engines.exactness import refuse

NAME = "f_dpg"
DEFAULTS = {"divergence": "jensen_shannon", "log_z": "leave_one_out", "baseline": "leave_one_out"}
_log = logging.getLogger(__name__)


def register() -> None:
    """Add the estimator to verl's table; verl does so itself, by the entry point `verl.plugins`."""
    algorithms = importlib.import_module("verl.trainer.ppo.core_algos")
    algorithms.register_adv_est(NAME)(advantages)
    _log.warning(
        "f-DPG: the advantage estimator %s is there. Its gradient is exact with actor settings "
        "policy_loss.loss_mode=gpg and loss_agg_mode=seq-mean-token-sum, which it cannot see",
        NAME,
    )


def advantages(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Any = None,
    config: Any = None,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """Return -c of each sample at each of its tokens, twice: as advantages and as returns.

    Parameters
    ----------
    token_level_rewards, response_mask
        Shape (n, tokens): rewards less beta (log pi - log ref), and which tokens were written.
    index
        The prompt of each sample.
    config
        verl's algorithm settings; `f_dpg` of them has divergence, log_z and baseline.
    others
        What else verl passes, which is not needed.

    Raises
    ------
    InexactGradient
        The settings do not make the return log P - log pi.
    """
    refuse(_inexact(config, index))
    options = DEFAULTS | dict(config.get(NAME) or {})
    beta = config["kl_ctrl"]["kl_coef"]
    shaped = (token_level_rewards.double() * response_mask).sum(-1) / beta
    coefficients = group_coefficients(
        shaped,
        [str(one) for one in index],
        divergence=find_divergence(options["divergence"]),
        log_z=options["log_z"],
        baseline=0.0 if options["baseline"] == "none" else options["baseline"],
    )
    if not torch.isfinite(coefficients).all():
        raise ValueError("a coefficient is not finite: a reward is no number, or excludes a sample")
    wide = -coefficients.to(token_level_rewards.dtype)[:, None] * response_mask
    return wide, wide


def _inexact(config: Mapping[str, Any], index: Any) -> list[str]:
    control = config["kl_ctrl"]
    penalty, kind, beta = config.get("kl_penalty"), control["type"], control["kl_coef"]
    unknown = sorted(set(config.get(NAME) or {}) - set(DEFAULTS))
    found = {
        "algorithm.use_kl_in_reward is false: set it true, the penalty is part of the target": (
            not config.get("use_kl_in_reward")
        ),
        f"algorithm.kl_penalty is {penalty!r}: set kl, of which the return is log P - log pi": (
            penalty not in ("kl", "k1")
        ),
        f"algorithm.kl_ctrl.type is {kind!r}: set fixed, or the target moves": kind != "fixed",
        f"algorithm.kl_ctrl.kl_coef is {beta}: it must be positive": not beta > 0,
        "the samples have no uid, which says whose prompt they answer": index is None,
        f"algorithm.{NAME} has {unknown}: it has {', '.join(DEFAULTS)}": bool(unknown),
    }
    return [sentence for sentence, wrong in found.items() if wrong]
