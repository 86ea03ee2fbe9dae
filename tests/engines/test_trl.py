"""FDPGTrainer on every completion of tiny models, against autograd of the textbook's D_f.

Bounds are the float32 in which TRL keeps log-probabilities: 2e-6 of the gradient's norm for a
Llama-like model, and 5e-6 for GPT-2, whose prompts have unequal lengths and a table of positions.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="TRL is an extra: make engines")

from datasets import Dataset  # pyright: ignore[reportMissingImports]
from peft import LoraConfig
from support import trl_runs as runs
from transformers import AutoModelForCausalLM

import fdpg_ref as core
from lm.engines.exactness import InexactGradient

# TRL and transformers warn of their own; ours are asserted by name.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
BOUND = {"llama": 2e-6, "gpt2": 5e-6}
DIVERGENCES = (
    *("forward_kl", "reverse_kl", "total_variation", "jensen_shannon", "pearson_chi2"),
    *("squared_hellinger", "alpha_0.3"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    here = tmp_path_factory.mktemp("models")
    return {family: runs.save_model(here / family, family) for family in BOUND}


@pytest.fixture(scope="module")
def elsewhere(folders: dict[str, str]) -> Any:
    """Return a function that moves a model away from its base, where every log-ratio is zero."""

    def move(model: Any) -> Any:
        with torch.no_grad():
            for i, weight in enumerate(model.parameters()):
                generator = torch.Generator().manual_seed(i)
                noise = torch.randn(weight.shape, generator=generator).to(weight.dtype)
                _ = weight.add_(0.3 * weight.std(correction=0) * noise)
        return model

    return move


def gradients(
    folder: str, args: Any, move: Any, *, exactly: dict[str, Any] | None = None, **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return TRL's gradient at a policy away from the base, and the exact one."""
    trainer = runs.trainer_of(folder, args, **more)
    _ = move(trainer.model)
    policy = runs.wide(folder)
    policy.load_state_dict({k: v.double() for k, v in trainer.model.state_dict().items()})
    found = runs.one_step(trainer)
    return found, runs.exact_gradient(policy, folder, args.divergence, **(exactly or {}))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("family", BOUND)
def test_the_gradient_is_that_of_the_divergence(folders, elsewhere, tmp_path, family, divergence):
    args = runs.settings(tmp_path, divergence=divergence)
    found, exact = gradients(folders[family], args, elsewhere)
    assert runs.error(found, exact) < BOUND[family]


@pytest.mark.parametrize("size", [33, 121])
def test_micro_batches_change_nothing(folders, elsewhere, tmp_path, size):
    whole = runs.N * len(runs.PROMPTS)
    args = runs.settings(
        tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=whole // size
    )
    found, exact = gradients(folders["gpt2"], args, elsewhere)
    assert runs.error(found, exact) < BOUND["gpt2"]


def test_a_leave_one_out_baseline_over_all_completions_is_off_by_its_factor(
    folders, elsewhere, tmp_path
):
    """Over one of each completion it centres by n/(n - 1), which is exact over random groups."""
    args = runs.settings(tmp_path, baseline="leave_one_out")
    found, exact = gradients(folders["llama"], args, elsewhere)
    factor = runs.N / (runs.N - 1)
    exact = {name: factor * value for name, value in exact.items()}
    assert runs.error(found, exact) < BOUND["llama"]


def test_a_verifier_with_its_pass_rate_as_a_column(folders, elsewhere, tmp_path):
    args = runs.settings(tmp_path, target="verifier")
    exactly = {"score": runs.passes, "verifier": True}
    found, exact = gradients(folders["llama"], args, elsewhere, exactly=exactly)
    assert runs.error(found, exact) < BOUND["llama"]


def test_a_score_of_your_own(folders, elsewhere, tmp_path):
    def product(log_ref: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
        return log_ref + rewards[..., 0] / runs.BETA + 3.0 * (rewards[..., 1] - 1.0)

    args = runs.settings(tmp_path, target="score", divergence="forward_kl")
    rewards = [runs.reward, lambda completion_ids, **_: [1.0] * len(completion_ids)]
    found, exact = gradients(folders["llama"], args, elsewhere, rewards=rewards, log_score=product)
    assert runs.error(found, exact) < BOUND["llama"]


def test_dropout_is_switched_off(tmp_path, elsewhere):
    """TRL leaves it on, where GPT-2's 0.1 would make an error of 7."""
    folder = runs.save_model(tmp_path / "model", "gpt2", dropout=0.1)
    args = runs.settings(tmp_path / "run")
    found, exact = gradients(folder, args, elsewhere)
    assert runs.error(found, exact) < BOUND["gpt2"]


def test_low_rank_adapters(folders, tmp_path, elsewhere):
    folder = folders["llama"]
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
    trainer = runs.trainer_of(folder, runs.settings(tmp_path), peft_config=lora)
    adapters = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in adapters)
    for i, weight in enumerate(adapters.values()):
        generator = torch.Generator().manual_seed(i)
        weight.data = torch.randn(weight.shape, generator=generator)

    # The same adapters in float64, on a model of their own.
    from peft import get_peft_model

    wide = get_peft_model(runs.wide(folder), lora).double().eval()
    own = dict(wide.named_parameters())
    for name, weight in adapters.items():
        own[name].data = weight.detach().double()
    found = runs.one_step(trainer)
    exact = runs.exact_gradient(wide, folder, "jensen_shannon")
    assert runs.error(found, exact) < BOUND["llama"]


# ------------------------------------------------------------------ Z from samples


def slow_coefficients(folder: str, trainer: Any, divergence: str, log_z: Any) -> torch.Tensor:
    """Return -c of all completions of all prompts from float64 scores, one group at a time."""
    base, found = runs.wide(folder), []
    policy = runs.wide(folder)
    policy.load_state_dict({k: v.double() for k, v in trainer.model.state_dict().items()})
    for prompt in runs.PROMPTS:
        with torch.no_grad():
            log_policy = runs.log_probs(policy, prompt)
            log_score = runs.log_scores(runs.log_probs(base, prompt), runs.reward)
        log_proposal = torch.full_like(log_policy, -math.log(runs.N))
        z = log_z(prompt, log_score, log_proposal)
        signal = core.score_signal(
            log_policy, log_score - z, divergence=core.find_divergence(divergence)
        )
        weights = log_policy - log_proposal
        found.append(-core.score_coefficients(signal, baseline=0.0, log_weights=weights))
    return torch.stack(found)


def shown(trainer: Any) -> torch.Tensor:
    """Return the advantages in TRL's own table of completions."""
    values = list(trainer._logs["advantages"])
    return torch.tensor(values, dtype=torch.float64).reshape(len(runs.PROMPTS), runs.N)


def test_leave_one_out_z(folders, elsewhere, tmp_path):
    args = runs.settings(tmp_path, partition="leave_one_out")
    trainer = runs.trainer_of(folders["llama"], args)
    _ = elsewhere(trainer.model)
    expected = slow_coefficients(
        folders["llama"],
        trainer,
        "jensen_shannon",
        lambda prompt, *pair: core.leave_one_out_log_partition(*pair),
    )
    _ = runs.one_step(trainer)
    torch.testing.assert_close(shown(trainer), expected, rtol=2e-5, atol=2e-6)


def test_under_a_baseline_reverse_kl_needs_no_z(folders, elsewhere, tmp_path):
    """A Z of each sample's peers would bias it; of two completions it would leave nothing."""
    found = {}
    for partition in ("leave_one_out", "column"):
        args = runs.settings(
            tmp_path / partition,
            divergence="reverse_kl",
            partition=partition,
            baseline="leave_one_out",
        )
        trainer = runs.trainer_of(folders["llama"], args)
        _ = elsewhere(trainer.model)
        _ = runs.one_step(trainer)
        found[partition] = shown(trainer)
    # Z itself is a number of float32 in both.
    torch.testing.assert_close(found["leave_one_out"], found["column"], rtol=2e-5, atol=2e-6)


def test_past_only_z_waits_for_a_second_visit_and_travels_in_the_state(
    folders, elsewhere, tmp_path
):
    args = runs.settings(tmp_path, partition="past_only", max_steps=2)
    trainer = runs.trainer_of(folders["llama"], args)
    _ = elsewhere(trainer.model)
    first = runs.one_step(trainer)
    # All prompts are new at the first step: no gradient. After it Z is exact: all were seen.
    assert max(float(value.abs().max()) for value in first.values()) == 0.0
    exact = dict(zip(runs.PROMPTS, runs.columns(folders["llama"], runs.reward), strict=True))
    expected = slow_coefficients(
        folders["llama"], trainer, "jensen_shannon", lambda prompt, *pair: exact[prompt]
    )
    torch.testing.assert_close(shown(trainer), expected, rtol=2e-5, atol=2e-6)
    trainer.save_state()
    stored = trainer.state.stateful_callbacks["PartitionMemory"]["args"]["values"]
    assert sorted(v[0] for v in stored.values()) == pytest.approx(sorted(exact.values()), abs=2e-6)
    assert [v[1] for v in stored.values()] == [2 * runs.N] * 3


@pytest.mark.parametrize("partition", ["past_only", "column"])
def test_resuming_within_an_epoch_is_bit_equal(folders, tmp_path, partition):
    def run(name: str, *, resume: str | None = None) -> Any:
        args = runs.settings(
            tmp_path / name,
            partition=partition,
            baseline="leave_one_out",
            per_device_train_batch_size=4,
            num_generations=4,
            max_steps=6,
            learning_rate=0.01,
            save_strategy="steps",
            save_steps=5,
        )
        trainer = runs.trainer_of(folders["llama"], args, rollout_func=None)
        _ = trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    # Five steps are an epoch of three prompts and two prompts of the next one.
    again = run("again", resume=str(tmp_path / "whole" / "checkpoint-5"))
    assert again.state.global_step == 6
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    assert whole._memory.values == again._memory.values
    assert len(whole._memory.values) == (3 if partition == "past_only" else 0)


def test_training_descends_the_divergence(folders, tmp_path):
    """TRL samples itself here: forty steps on its own completions come nearer to the target."""
    args = runs.settings(
        tmp_path,
        baseline="leave_one_out",
        per_device_train_batch_size=96,
        num_generations=32,
        max_steps=40,
        learning_rate=0.01,
    )
    trainer = runs.trainer_of(folders["llama"], args, rollout_func=None)
    _ = trainer.train()
    start = runs.divergence_at(runs.wide(folders["llama"]), folders["llama"], "jensen_shannon")
    end = runs.divergence_at(trainer.model.double().eval(), folders["llama"], "jensen_shannon")
    assert end < 0.7 * start
    logged = [set(record) for record in trainer.state.log_history]
    assert {"fdpg/log_z_of_batch", "fdpg/kl_policy_ref", "fdpg/largest_share"} <= set().union(
        *logged
    )


# ------------------------------------------------------------------ what only samples show


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_reward_that_is_no_number_stops_the_run(folders, tmp_path, value):
    def bad(completion_ids: Any, **_: Any) -> list[Any]:
        return [value] + [0.0] * (len(completion_ids) - 1)

    trainer = runs.trainer_of(folders["llama"], runs.settings(tmp_path), rewards=bad)
    with pytest.raises(ValueError, match=r"the reward function 'bad' returned .* completion 0"):
        _ = trainer.train()


def test_a_verdict_between_is_refused(folders, tmp_path):
    args = runs.settings(tmp_path, target="verifier")
    trainer = runs.trainer_of(folders["llama"], args)
    trainer.reward_funcs = [lambda completion_ids, **_: [0.5] * len(completion_ids)]
    with pytest.raises(ValueError, match=r"returned 0\.5: with target 'verifier'"):
        _ = trainer.train()


@pytest.mark.parametrize(
    ("log_z", "message"), [(-math.inf, "has log_z -inf"), (None, "has no log_z")]
)
def test_a_column_without_a_number_is_refused(folders, tmp_path, log_z, message):
    rows = Dataset.from_dict({"prompt": list(runs.PROMPTS), "log_z": [0.0, 0.0, log_z]})
    trainer = runs.trainer_of(folders["llama"], runs.settings(tmp_path), train_dataset=rows)
    with pytest.raises(ValueError, match=message):
        _ = trainer.train()


def test_a_sampler_that_cannot_score_a_token_is_refused(folders, tmp_path):
    def blind(prompts: list[str], trainer: Any) -> dict[str, Any]:
        out = runs.everything(prompts, trainer)
        out["logprobs"][7][0] = math.nan
        return out

    trainer = runs.trainer_of(folders["llama"], runs.settings(tmp_path), rollout_func=blind)
    with pytest.raises(ValueError, match="log_proposal of a completion is not finite"):
        _ = trainer.train()


def test_a_single_success_without_a_column_is_refused(folders, tmp_path):
    def one(completion_ids: Any, **_: Any) -> list[float]:
        return [1.0] + [0.0] * (len(completion_ids) - 1)

    def only_successes(log_ref: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
        return log_ref.masked_fill(rewards[..., 0] == 0, -math.inf)

    args = runs.settings(
        tmp_path, target="score", partition="leave_one_out", divergence="forward_kl"
    )
    trainer = runs.trainer_of(folders["llama"], args, rewards=one, log_score=only_successes)
    with pytest.raises(ValueError, match="one completion has all of its target's mass"):
        _ = trainer.train()


# ------------------------------------------------------------------ the model card


def test_the_model_card_names_the_method_and_its_paper(folders, tmp_path: Path):
    trainer = runs.trainer_of(folders["llama"], runs.settings(tmp_path))
    trainer.create_model_card(model_name="mine")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "f-dpg" in text
    assert "2302.08215" in text


def test_models_are_loaded_by_name_or_as_objects(folders, tmp_path, elsewhere):
    model = AutoModelForCausalLM.from_pretrained(folders["llama"])
    _ = runs.trainer_of(
        folders["llama"], runs.settings(tmp_path), model=model, processing_class=None
    )
    with pytest.raises(InexactGradient, match=r"reference was loaded anew .* save the model"):
        _ = runs.trainer_of(folders["llama"], runs.settings(tmp_path), model=elsewhere(model))
