"""The estimator f_dpg and the reward with log Z, where verl itself is not needed."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import torch

from lm.engines.exactness import InexactGradient
from lm.engines.verl import advantages, with_log_z

BETA = 0.4


def config(**changes: Any) -> dict[str, Any]:
    control = {"type": "fixed", "kl_coef": BETA}
    return {"use_kl_in_reward": True, "kl_penalty": "kl", "kl_ctrl": control} | changes


def batch() -> dict[str, Any]:
    """Return two prompts' samples of one token, on-policy at the base: return is reward."""
    scores = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    return {"scores": scores, "mask": torch.ones_like(scores), "uid": [*"pqpqpq"]}


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
        ({"rollout_correction": {"rollout_is": "token"}}, "correction sets rollout_is: leave"),
        (
            {"rollout_correction": {"rollout_rs": "seq_sum_k1"}},
            "correction sets rollout_rs",
        ),
        ({"rollout_correction": {"bypass_mode": True}}, "correction sets bypass_mode"),
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


def test_the_rollout_correction_of_verls_defaults_is_none():
    data, off = batch(), {"rollout_is": None, "rollout_is_threshold": 2.0, "bypass_mode": False}
    with_it, without = (
        advantages(data["scores"], data["mask"], index=data["uid"], config=settings)[0]
        for settings in (config(rollout_correction=off), config())
    )
    assert with_it.equal(without)
    assert bool(with_it.isfinite().all())
    assert bool(with_it.any())


def test_a_reward_is_that_of_the_normalised_target():
    def own(solution_str: str, extra_info: dict[str, Any]) -> float:
        return len(solution_str) + extra_info["more"]

    row = {"log_z": -0.7, "more": 1.0}
    found = with_log_z(own)(solution_str="ab", extra_info=row, beta=0.5)
    assert found == {"score": 3.0 - 0.5 * -0.7, "acc": 3.0}


def test_an_async_reward_with_values_of_its_own_stays_one():
    async def own(extra_info: dict[str, Any]) -> dict[str, Any]:
        return {"score": 1.0, "acc": 0.25, "length": 3}

    reward = with_log_z(own, verifier=True)
    assert asyncio.iscoroutinefunction(reward)
    found = asyncio.run(reward(extra_info={"log_z": -2.0}, beta=0.5))
    assert found == {"score": 1.0, "acc": 0.25, "length": 3}


@pytest.mark.parametrize(("verdict", "log_score"), [(True, 0.0), (0, -math.inf)])
def test_a_verdict_is_a_log_score(verdict, log_score):
    reward = with_log_z(lambda extra_info: verdict, verifier=True)
    assert reward(extra_info={"log_z": math.log(0.5)}, beta=BETA)["score"] == (
        log_score + BETA * math.log(2)
    )


@pytest.mark.parametrize(
    ("row", "beta", "message"),
    [
        ({"log_z": -1.0}, None, r"reward_kwargs.beta is None: set .*kl_ctrl.kl_coef"),
        ({"log_z": None}, BETA, "log_z in a row's extra_info is None: each row needs a finite one"),
        ({"log_z": -math.inf}, BETA, "extra_info is -inf: each row needs a finite one"),
        ({"log_z": "-1.0"}, BETA, "extra_info is -1.0: each row needs a finite one"),
        (None, BETA, "extra_info is None"),
        ({"log_z": -1.0}, BETA, "a verifier returned 0.5: it gives 1"),
    ],
)
def test_what_a_reward_with_log_z_cannot_use_is_refused(row, beta, message):
    reward = with_log_z(lambda extra_info: 0.5, verifier=True)
    with pytest.raises(ValueError, match=message):
        reward(extra_info=row, beta=beta)


@pytest.mark.parametrize("successes", [0, 1, 4])
def test_a_group_with_any_number_of_successes_has_finite_coefficients(successes):
    reward = with_log_z(lambda extra_info: float(extra_info["i"] < successes), verifier=True)
    rows = [{"i": i, "log_z": math.log(0.2)} for i in range(4)]
    scores = torch.tensor([[reward(extra_info=row, beta=BETA)["score"]] for row in rows])
    options = config(f_dpg={"log_z": 0, "divergence": "forward_kl"})
    found, _ = advantages(scores, torch.ones(4, 1), index=["p"] * 4, config=options)

    # g' is 1 - p/pi, p/pi is 1/0.2 for a success, and the mean of the others is taken out.
    signal = torch.tensor([1.0 - 5.0 * (i < successes) for i in range(4)])
    expected = signal - (signal.sum() - signal) / 3
    # In float32: rewards of verl are.
    torch.testing.assert_close(found[:, 0], -expected, rtol=1e-6, atol=1e-6)
