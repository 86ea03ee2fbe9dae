"""f-DPG as an advantage estimator of verl, `algorithm.adv_estimator=f_dpg`: an auto-loaded plug-in.

verl hands an estimator rewards, mask, uid and its own settings, and no log-probabilities. None are
needed: with the k1 penalty in the reward the return of a sample is r - beta log(pi/ref), which is
beta (log P - log pi) for the target P = ref exp(r / beta).
"""

from __future__ import annotations

import importlib
import inspect
import logging
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fdpg_ref import find_divergence, group_coefficients
from lm.engines.exactness import refuse

NAME = "f_dpg"
DEFAULTS = {"divergence": "jensen_shannon", "log_z": "leave_one_out", "baseline": "leave_one_out"}
# What an estimator does not get to see of the actor's settings.
ACTOR = (
    "policy_loss.loss_mode=gpg, loss_agg_mode=seq-mean-token-sum, use_kl_loss=false, "
    "entropy_coeff=0, ppo_epochs=1 and ppo_mini_batch_size=data.train_batch_size"
)
_log = logging.getLogger(__name__)


def register() -> None:
    """Add the estimator to verl's table; verl does so itself, by the entry point `verl.plugins`."""
    algorithms = importlib.import_module("verl.trainer.ppo.core_algos")
    algorithms.register_adv_est(NAME)(advantages)
    _log.warning(
        "f-DPG: the advantage estimator %s is there. Its gradient is exact with settings that it "
        "cannot see: of the actor %s; of the rollout temperature=1",
        NAME,
        ACTOR,
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


def with_log_z(score: Callable[..., Any], *, verifier: bool = False) -> Callable[..., Any]:
    """Return a reward function of verl that normalises the target with log Z of each prompt's row.

    verl shows an estimator no columns, but a reward function `extra_info` of the row. Since
    (r - beta log Z - beta log(pi/ref)) / beta = log(P/Z) - log pi, a reward less beta log Z is that
    of the normalised target: `f_dpg.log_z` is then 0.

    Parameters
    ----------
    score
        verl's `compute_score`, plain or async: a number, or a dictionary whose `score` is one.
    verifier
        Whether it gives 1 (passed) and 0 (failed), and the target is the base where it gives 1.

    Returns
    -------
    callable
        It wants `log_z` in `extra_info`, and `reward_kwargs.beta`, which is the kl_coef. The plain
        reward is kept as `acc`.

    Raises
    ------
    ValueError
        Of the function returned: without beta or a finite log Z; a verdict that is not 0 or 1.
    """
    if inspect.iscoroutinefunction(score):

        async def later(*args: Any, extra_info: Any = None, beta: Any = None, **more: Any) -> Any:
            result = await score(*args, extra_info=extra_info, **more)
            return _normalised(result, extra_info, beta, verifier=verifier)

        return later

    def now(*args: Any, extra_info: Any = None, beta: Any = None, **more: Any) -> Any:
        result = score(*args, extra_info=extra_info, **more)
        return _normalised(result, extra_info, beta, verifier=verifier)

    return now


def _normalised(result: Any, row: Any, beta: Any, *, verifier: bool) -> dict[str, Any]:
    known = result if isinstance(result, Mapping) else {"score": result}
    reward, log_z = float(known["score"]), (row or {}).get("log_z")
    if beta is None or not beta > 0:
        raise ValueError(
            f"reward_kwargs.beta is {beta}: set +reward.custom_reward_function.reward_kwargs.beta="
            "'${algorithm.kl_ctrl.kl_coef}', a positive number"
        )
    if not (isinstance(log_z, numbers.Real) and math.isfinite(log_z)):
        raise ValueError(
            f"log_z in a row's extra_info is {log_z}: each row needs a finite one, in nats, as "
            "python -m lm partition writes it; leave prompts out that have none"
        )
    if verifier and reward not in (0, 1):
        raise ValueError(f"a verifier returned {reward}: it gives 1 (passed) or 0 (failed)")

    log_score = (0.0 if reward else -math.inf) if verifier else reward
    return {"acc": reward, **known, "score": log_score - beta * log_z}


def _inexact(config: Mapping[str, Any], index: Any) -> list[str]:
    control = config["kl_ctrl"]
    penalty, kind, beta = config.get("kl_penalty"), control["type"], control["kl_coef"]
    correction = config.get("rollout_correction") or {}
    weighs = [k for k in ("rollout_is", "rollout_rs", "bypass_mode") if correction.get(k)]
    unknown = sorted(set(config.get(NAME) or {}) - set(DEFAULTS))

    # Sentence by sentence, and whether it holds.
    found = {
        "algorithm.use_kl_in_reward is false: set it true, the penalty is part of the target": (
            not config.get("use_kl_in_reward")
        ),
        f"algorithm.kl_penalty is {penalty!r}: set kl, of which the return is log P - log pi": (
            penalty not in ("kl", "k1")
        ),
        f"algorithm.kl_ctrl.type is {kind!r}: set fixed, or the target moves": kind != "fixed",
        f"algorithm.kl_ctrl.kl_coef is {beta}: it must be positive": not beta > 0,
        f"algorithm.rollout_correction sets {', '.join(weighs)}: leave it out, the loss would be "
        "weighted by ratios that are cut off, or lack samples": bool(weighs),
        "the samples have no uid, which says whose prompt they answer": index is None,
        f"algorithm.{NAME} has {unknown}: it has {', '.join(DEFAULTS)}": bool(unknown),
    }
    return [sentence for sentence, wrong in found.items() if wrong]
