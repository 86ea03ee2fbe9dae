"""What spoils the gradient under TRL: every row is refused by name, or repaired with a line."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="TRL is an extra: make engines")

from datasets import Dataset  # pyright: ignore[reportMissingImports]
from support import trl_runs as runs
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

from lm.engines import trl_private
from lm.engines.exactness import (
    ACCEPTABLE,
    ROWS,
    InexactGradient,
    inexact_settings,
    refuse,
)
from lm.engines.positions import place_by_mask
from lm.engines.trl import FDPGConfig, FDPGTrainer
from lm.engines.trl_private import EngineMoved, require_hooks

pytestmark = pytest.mark.filterwarnings("ignore")

SPOILERS: dict[str, list[Any]] = {
    "loss_type": ["grpo", "bnpo", "dapo", "cispo", "sapo", "luspo", "vespo"],
    "importance_sampling_level": ["sequence"],
    "mask_truncated_completions": [True],
    "top_entropy_quantile": [0.5],
    "off_policy_mask_threshold": [0.5],
    "delta": [1.5],
    "entropy_coef": [0.01],
    "use_adaptive_entropy": [True],
    "router_aux_loss_coef": [0.001, None],
    "use_liger_kernel": [True],
    "scale_rewards": ["group", "batch"],
    "neftune_noise_alpha": [5.0],
    "vllm_importance_sampling_correction": [True],
    "temperature": [0.7],
    "top_p": [0.9],
    "top_k": [50],
    "min_p": [0.1],
    "repetition_penalty": [1.1],
    "generation_kwargs": [{"no_repeat_ngram_size": 3}],
    "vllm_structured_outputs_regex": ["yes|no"],
    "num_iterations": [2],
    "disable_dropout": [False],
    "bf16": [True],
    "fp16": [True],
    "max_grad_norm": [1.0],
}


def config(tmp_path: Any, **changes: Any) -> FDPGConfig:
    options = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": []}
    return FDPGConfig(**(options | changes))


@pytest.mark.parametrize(
    ("option", "value"), [(name, value) for name, values in SPOILERS.items() for value in values]
)
def test_each_setting_is_refused_by_name(tmp_path, monkeypatch, option, value):
    # Precisions and kernels that this machine lacks are refused by transformers before us.
    if option in ("bf16", "fp16", "use_liger_kernel"):
        accepted = config(tmp_path)
        monkeypatch.setattr(accepted, option, value)
        with pytest.raises(InexactGradient, match=f"{option} is {value!r}, not "):
            refuse(inexact_settings(accepted, accepted.accept))
        return
    with pytest.raises(InexactGradient, match=f"\n  {option} is .*, not "):
        _ = config(tmp_path, **{option: value})


def test_every_row_of_the_table_has_a_test():
    known = {name for name in vars(FDPGConfig) if not name.startswith("__")}
    there = {row.option for row in ROWS if row.option in known}
    # Of transformers or other releases of TRL: sync_ref_model needs a callback, and is below.
    assert there - set(SPOILERS) <= {"sync_ref_model", "use_liger_loss"}
    assert set(SPOILERS) <= {row.option for row in ROWS}


def test_a_moving_reference_is_refused(tmp_path):
    with pytest.raises(InexactGradient, match="sync_ref_model is True, not False: the target"):
        _ = config(tmp_path, sync_ref_model=True)


@pytest.mark.parametrize(
    "changes",
    [{"steps_per_generation": 4}, {"gradient_accumulation_steps": 2, "steps_per_generation": 1}],
)
def test_stale_samples_are_refused(tmp_path, changes):
    with pytest.raises(InexactGradient, match="they must be equal, or samples are of an older"):
        _ = config(tmp_path, num_generations=4, per_device_train_batch_size=4, **changes)


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_a_target_needs_a_reference(tmp_path, beta):
    with pytest.raises(InexactGradient, match=r"beta is .*: it must be positive"):
        _ = config(tmp_path, beta=beta)


def test_all_reasons_come_at_once(tmp_path):
    with pytest.raises(InexactGradient) as caught:
        _ = config(tmp_path, loss_type="dapo", temperature=0.7, beta=0.0)
    assert [line.split()[0] for line in str(caught.value).splitlines()[1:]] == [
        *("loss_type", "temperature", "beta")
    ]


def test_what_rounds_or_rescales_can_be_accepted_and_nothing_else(tmp_path):
    assert ACCEPTABLE == ("bf16", "fp16", "max_grad_norm")
    assert config(tmp_path, max_grad_norm=1.0, accept=["max_grad_norm"]).max_grad_norm == 1.0
    with pytest.raises(InexactGradient, match="accept names 'loss_type': only bf16"):
        _ = config(tmp_path, loss_type="grpo", accept=["loss_type"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"divergence": "kl"}, "divergence is 'kl'; there are"),
        ({"target": "rewards"}, "target is 'rewards': there are reward, verifier, score"),
        ({"partition": "exact"}, "partition is 'exact': there are leave_one_out"),
        ({"baseline": "mean"}, "baseline is 'mean': there are"),
        ({"target": "verifier"}, "partition is leave_one_out, which a verifier leaves without Z"),
        (
            {"target": "verifier", "partition": "column", "divergence": "reverse_kl"},
            "divergence is reverse_kl, which is infinite where a verifier excludes",
        ),
        (
            {"partition": "past_only", "restore_callback_states_from_checkpoint": False},
            "forgets the past",
        ),
    ],
)
def test_choices_that_do_not_go_together(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        _ = config(tmp_path, **changes)


# ------------------------------------------------------------------ models and data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return runs.save_model(tmp_path_factory.mktemp("model") / "llama", "llama")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("no_repeat_ngram_size", 2), ("min_new_tokens", 2), ("suppress_tokens", [2])),
        *(("typical_p", 0.9), ("epsilon_cutoff", 0.01), ("bad_words_ids", [[2]])),
    ],
)
def test_a_generation_config_of_the_model_is_refused(folder, tmp_path, name, value):
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    setattr(model.generation_config, name, value)
    with pytest.raises(InexactGradient, match=f"generation_config has {name} .*= None"):
        _ = runs.trainer_of(folder, runs.settings(tmp_path), model=model)


@pytest.mark.slow
def test_weights_of_half_precision_are_refused_or_accepted(folder, tmp_path):
    options = {"model_init_kwargs": {"dtype": "bfloat16"}}
    with pytest.raises(InexactGradient, match=r"weights of torch\.bfloat16: load it with"):
        _ = runs.trainer_of(folder, runs.settings(tmp_path, **options))
    trainer = runs.trainer_of(folder, runs.settings(tmp_path, accept=["bf16"], **options))
    assert trainer.model.dtype == torch.bfloat16


@pytest.mark.slow
def test_data_must_fit_the_partition(folder, tmp_path):
    without = Dataset.from_dict({"prompt": list(runs.PROMPTS)})
    with pytest.raises(InexactGradient, match="the dataset has no column log_z"):
        _ = runs.trainer_of(folder, runs.settings(tmp_path), train_dataset=without)
    once = runs.settings(tmp_path, partition="past_only", max_steps=-1, num_train_epochs=1)
    with pytest.raises(InexactGradient, match="a first visit only fills the memory"):
        _ = runs.trainer_of(folder, once)


@pytest.mark.slow
def test_other_arguments_are_refused(folder, tmp_path):
    with pytest.raises(TypeError, match="args is a GRPOConfig: pass an FDPGConfig"):
        _ = FDPGTrainer(folder, runs.reward, GRPOConfig(str(tmp_path), use_cpu=True, bf16=False))
    with pytest.raises(ValueError, match="log_score goes with target 'score'"):
        _ = FDPGTrainer(folder, runs.reward, config(tmp_path, target="score"))


@pytest.mark.slow
def test_absolute_positions_are_repaired_with_a_line(tmp_path, caplog):
    folder = runs.save_model(tmp_path / "gpt2", "gpt2")
    with caplog.at_level(logging.WARNING, logger="lm.engines.trl"):
        _ = runs.trainer_of(folder, runs.settings(tmp_path / "run"))
    assert [r.message for r in caplog.records if "table of positions" in r.message] == [
        "f-DPG: GPT2LMHeadModel has a table of positions, and TRL scores prompts that are padded "
        "on the left without any: they are derived from the mask"
    ]


def test_positions_of_padded_rows_are_those_of_the_text(folder):
    from support.lm_tiny import tiny_gpt2, tiny_llama

    gpt2: Any = tiny_gpt2(positions=8)
    alone = gpt2(input_ids=torch.tensor([[2, 3, 1]])).logits
    padded = {
        "input_ids": torch.tensor([[0, 0, 2, 3, 1]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1]]),
    }
    assert not torch.allclose(gpt2(**padded).logits[:, 2:], alone)
    assert place_by_mask(gpt2)
    # Float64: masked columns leave rounding alone.
    torch.testing.assert_close(gpt2(**padded).logits[:, 2:], alone, rtol=1e-10, atol=1e-10)
    assert not place_by_mask(tiny_llama())


@pytest.mark.slow
def test_bias_of_z_and_baseline_from_one_group_is_said(folder, tmp_path, caplog):
    args = runs.settings(tmp_path, partition="leave_one_out", baseline="leave_one_out")
    with caplog.at_level(logging.WARNING, logger="lm.engines.trl"):
        _ = runs.trainer_of(folder, args)
    assert any("biases the gradient by O(1/n)" in r.message for r in caplog.records)


# ------------------------------------------------------------------ releases of TRL


def test_this_release_has_what_is_needed():
    lacking = {
        f"{name}({parameter})"
        for name, needed in trl_private.HOOKS.items()
        for parameter in needed
        if parameter not in inspect.signature(getattr(GRPOTrainer, name)).parameters
    }
    assert lacking == set()
    assert require_hooks(GRPOTrainer) is None


@pytest.mark.parametrize("name", trl_private.ATTRIBUTES)
def test_a_release_that_moves_an_attribute_is_named(monkeypatch, name):
    def made(self: Any) -> None:
        for other in trl_private.ATTRIBUTES:
            if other != name:
                setattr(self, other, None)

    monkeypatch.setattr(GRPOTrainer, "__init__", made)
    with pytest.raises(
        EngineMoved, match=rf"trl \d.*: GRPOTrainer has no attribute {name}, .*mend"
    ):
        _ = trl_private.HookedGRPO()


@pytest.mark.parametrize("name", sorted(trl_private.HOOKS))
def test_a_release_that_moves_a_method_is_named(monkeypatch, name):
    class Moved:
        """GRPOTrainer without one of the methods."""

    for other in trl_private.HOOKS:
        if other != name:
            setattr(Moved, other, getattr(GRPOTrainer, other))
    with pytest.raises(EngineMoved, match=rf"trl \d.*: Moved.{name} has moved or gone, .*mend"):
        require_hooks(Moved)
    setattr(Moved, name, lambda self: None)
    with pytest.raises(EngineMoved, match=rf"Moved.{name} has no parameter "):
        require_hooks(Moved)
