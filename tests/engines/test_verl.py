"""The advantage estimator f_dpg through verl's own functions, in float64."""

from __future__ import annotations

import importlib
import logging
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("verl", reason="verl is not installed: make verl")

import fdpg_ref as core
from lm.engines.exactness import InexactGradient
from lm.engines.verl import NAME, advantages, register

pytestmark = pytest.mark.filterwarnings("ignore")
BETA, N, TOKENS = 0.4, 5, 3
DIVERGENCES = (
    *("forward_kl", "reverse_kl", "jensen_shannon", "pearson_chi2", "squared_hellinger"),
    *("total_variation", "alpha_0.3"),
)


def config(**changes: Any) -> dict[str, Any]:
    control = {"type": "fixed", "kl_coef": BETA}
    return {"use_kl_in_reward": True, "kl_penalty": "kl", "kl_ctrl": control} | changes


def batch() -> dict[str, Any]:
    """Return two prompts' samples: log-probabilities of tokens, unequal lengths, rewards."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(2 * N, TOKENS, generator=generator, dtype=torch.float64)  # noqa: E731
    lengths = torch.tensor([1, 2, 3, 3, 2, 3, 1, 1, 2, 3])
    mask = (torch.arange(TOKENS) < lengths[:, None]).double()
    scores = torch.zeros(2 * N, TOKENS, dtype=torch.float64)
    scores[:, 0] = torch.linspace(-1, 1, 2 * N, dtype=torch.float64).sin()
    uid = np.array(["p", "q"] * N, dtype=object)
    return {"pi": draw() - 1, "ref": draw() - 1, "mask": mask, "scores": scores, "uid": uid}


def test_the_plugin_registers_the_estimator_with_a_line(caplog):
    from verl.trainer.ppo import core_algos  # pyright: ignore[reportMissingImports]

    # As verl's loader does with the entry point, which calls nothing.
    _ = sys.modules.pop("lm.engines.verl_plugin", None)
    _ = core_algos.ADV_ESTIMATOR_REGISTRY.pop(NAME, None)
    with caplog.at_level(logging.WARNING, logger="lm.engines.verl"):
        _ = importlib.import_module("lm.engines.verl_plugin")
    assert core_algos.get_adv_estimator_fn(NAME) is advantages
    assert [r.message for r in caplog.records if "policy_loss.loss_mode=gpg" in r.message]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_gradient_through_verl_is_that_of_the_core(name: str):
    from verl.trainer.ppo import core_algos  # pyright: ignore[reportMissingImports]

    register()
    data = batch()
    mask, uid = data["mask"], data["uid"]
    kl = core_algos.kl_penalty(data["pi"], data["ref"], kl_penalty="kl") * mask
    estimator = core_algos.get_adv_estimator_fn(NAME)
    shaped = data["scores"] - BETA * kl
    found, _ = estimator(shaped, mask, index=uid, config=config(f_dpg={"divergence": name}))
    log_prob = data["pi"].clone().requires_grad_()
    losses = -log_prob * found
    loss = core_algos.agg_loss(losses, mask, loss_agg_mode="seq-mean-token-sum")
    _ = loss.backward()

    # By the textbook's steps of the core, prompt by prompt.
    log_policy = (data["pi"] * mask).sum(1)
    log_score = (data["ref"] * mask).sum(1) + data["scores"].sum(1) / BETA
    expected = torch.zeros(2 * N, dtype=torch.float64)
    for prompt in "pq":
        rows = torch.from_numpy(uid == prompt)
        pair = log_score[rows], log_policy[rows]
        log_z = core.leave_one_out_log_partition(*pair)
        signal = core.score_signal(pair[1], pair[0] - log_z, divergence=core.find_divergence(name))
        expected[rows] = core.score_coefficients(signal, baseline=core.leave_one_out(signal))
    exact = expected[:, None] * mask / (2 * N)
    assert log_prob.grad is not None
    # Sums of ten terms in float64.
    assert float((log_prob.grad - exact).norm() / exact.norm()) < 1e-12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_kl_in_reward": False}, "use_kl_in_reward is false: set it true"),
        ({"kl_penalty": "low_var_kl"}, "kl_penalty is 'low_var_kl': set kl"),
        (
            {"kl_ctrl": {"type": "adaptive", "kl_coef": 0.1}},
            "kl_ctrl.type is 'adaptive': set fixed",
        ),
        ({"kl_ctrl": {"type": "fixed", "kl_coef": 0.0}}, "kl_coef is 0.0: it must be positive"),
        ({"f_dpg": {"divergance": "x"}}, "divergance.*: it has divergence, log_z, baseline"),
    ],
)
def test_settings_that_spoil_the_gradient_are_refused(changes, message):
    data = batch()
    with pytest.raises(InexactGradient, match=message):
        _ = advantages(data["scores"], data["mask"], index=data["uid"], config=config(**changes))


def test_a_reward_that_is_no_number_is_refused():
    data = batch()
    data["scores"][3, 0] = math.nan
    with pytest.raises(ValueError, match="a coefficient is not finite"):
        _ = advantages(data["scores"], data["mask"], index=data["uid"], config=config())


def test_without_uid_there_are_no_groups():
    data = batch()
    with pytest.raises(InexactGradient, match="the samples have no uid"):
        _ = advantages(data["scores"], data["mask"], config=config())
