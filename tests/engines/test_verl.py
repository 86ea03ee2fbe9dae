"""The advantage estimator f_dpg through verl's own functions, in float64."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("verl", reason="verl is not installed: make verl")

from support.textbook import textbook

import fdpg_ref as core
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


def loss_of_verl(log_prob: Any, advantages: Any, mask: Any, weights: Any = None) -> Any:
    """Return the loss with which verl trains an actor at the settings of the page."""
    from verl.trainer.ppo import core_algos  # pyright: ignore[reportMissingImports]

    loss, _ = core_algos.get_policy_loss_fn("gpg")(
        old_log_prob=log_prob.detach(),
        log_prob=log_prob,
        advantages=advantages,
        response_mask=mask,
        loss_agg_mode="seq-mean-token-sum",
        config=SimpleNamespace(global_batch_info={}),
        rollout_is_weights=weights,
    )
    return loss


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
    _ = loss_of_verl(log_prob, found, mask).backward()

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


# Everything that a model of three tokens says in at most two, where 0 ends a text.
TEXTS = ((0,), *((first, second) for first in (1, 2) for second in (0, 1, 2)))
REWARDS = """
import math
from lm.engines.verl import with_log_z

def letters(solution_str, **others):
    return math.sin(1 + sum(int(letter) + 2 for letter in solution_str))

def passes(solution_str, **others):
    return float("2" in solution_str)

rewarded, verified = with_log_z(letters), with_log_z(passes, verifier=True)
"""


def token_log_probs(logits: Any) -> Any:
    """Return log pi of each token of all texts, shape (texts, 2), zero where there is none."""
    law = torch.log_softmax(logits, -1)
    rows = [[law[0, t[0]], law[t[0], t[1]] if len(t) > 1 else law[0, 0] * 0] for t in TEXTS]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize(
    ("kind", "name"),
    [("rewarded", name) for name in DIVERGENCES]
    + [("verified", n) for n in DIVERGENCES if n not in ("reverse_kl", "pearson_chi2")],
)
def test_the_mean_over_all_groups_is_the_gradient_with_log_z_of_each_prompt(tmp_path, kind, name):
    """Rows of two prompts hold log Z, and every group of three samples has its probability."""
    from omegaconf import OmegaConf  # pyright: ignore[reportMissingImports]
    from verl.trainer.ppo import core_algos, reward  # pyright: ignore[reportMissingImports]

    register()
    _ = Path(tmp_path, "rewards.py").write_text(REWARDS)
    function = {"path": f"{tmp_path}/rewards.py", "name": kind}
    function["reward_kwargs"] = {"beta": "${algorithm.kl_ctrl.kl_coef}"}  # pyright: ignore[reportArgumentType]
    algorithm = config(f_dpg={"divergence": name, "log_z": 0})
    settings = {"algorithm": algorithm, "reward": {"custom_reward_function": function}}
    score = reward.get_custom_reward_fn(OmegaConf.create(settings))
    assert score is not None

    groups = torch.tensor(list(product(range(len(TEXTS)), repeat=3)))
    written = torch.tensor([[1.0, len(text) - 1.0] for text in TEXTS], dtype=torch.float64)
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        logits, base = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
        _ = logits.requires_grad_()
        per_token, ref = token_log_probs(logits), token_log_probs(base)
        log_policy, log_ref = per_token.sum(1), ref.sum(1)

        # The textbook's D_f of all texts, with log Z by their sum.
        texts = ["".join(map(str, text)) for text in TEXTS]
        rewards = [score(solution_str=t, extra_info={"log_z": 0.0})["acc"] for t in texts]
        plain = torch.tensor(rewards, dtype=torch.float64)
        log_score = log_ref + (plain.log() if kind == "verified" else plain / BETA)
        log_z = torch.logsumexp(log_score, 0)
        exact = torch.autograd.grad(textbook(name, log_policy, log_score - log_z), logits)[0]

        # verl's way, all groups in one batch: the loss weighs each by its probability.
        row = {"log_z": log_z.item()}
        shaped = [score(solution_str=text, extra_info=row)["score"] for text in texts]
        scores = torch.zeros_like(written)
        scores[:, 0] = torch.tensor(shaped, dtype=torch.float64)
        per_token = token_log_probs(logits)
        kl = core_algos.kl_penalty(per_token, ref, kl_penalty="kl").detach() * written
        samples, mask = groups.flatten(), written[groups.flatten()]
        found, _ = core_algos.get_adv_estimator_fn(NAME)(
            (scores - BETA * kl)[samples],
            mask,
            index=[f"{i // 3}" for i in range(len(samples))],
            config=OmegaConf.create(algorithm),
        )
        chance = log_policy.detach()[groups].sum(1).exp().repeat_interleave(3)[:, None]
        loss = loss_of_verl(per_token[samples], found, mask, chance * len(groups))
        mine = torch.autograd.grad(loss, logits)[0]
        # Sums of a thousand terms in float64.
        assert float((mine - exact).norm() / exact.norm()) < 1e-12


@pytest.mark.slow
def test_importing_verl_is_all_it_takes():
    done = subprocess.run(
        [sys.executable, "-c", "import verl"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the advantage estimator f_dpg is there" in done.stderr
