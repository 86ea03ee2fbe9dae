"""Low-rank adapters: the base is the same weights without the adapter, bit for bit, always."""

from __future__ import annotations

import peft
import pytest
import torch
from support.lm_models import make_gpt2_folder, make_llama_folder
from support.lm_tiny import tiny_gpt2, tiny_policy
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from lm.config.lora import LoraConfig
from lm.errors import RunError
from lm.models.activations import enable_activation_checkpointing
from lm.models.adapter import has_adapter, merged_model
from lm.policy import CausalPolicy, load_policy
from lm.policy.lora import LoraError, adapter_off, add_lora

CONFIG = LoraConfig(rank=2, alpha=8.0)
# Linear layers of both kinds, in every place that takes an adapter.
TARGETS = {"llama": ("q_proj", "o_proj", "down_proj"), "gpt2": ("c_attn", "c_proj", "c_fc")}


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[make_llama_folder, make_gpt2_folder], ids=["llama", "gpt2"])
def base(request, tmp_path) -> CausalPolicy:
    return load_policy(request.param(tmp_path, tokenizer=False), max_new_tokens=6)


def _trained(base: CausalPolicy, config: LoraConfig = CONFIG, steps: int = 3) -> CausalPolicy:
    """Take steps that are large enough to be seen."""
    policy = add_lora(base, config, seed=0)
    optimizer = torch.optim.Adam([p for p in policy.model.parameters() if p.requires_grad], lr=0.05)
    samples = base.sample(30, generator=_seeded(1))
    for _ in range(steps):
        loss = policy.log_prob(samples.tokens, samples.mask).square().mean()
        optimizer.zero_grad()
        _ = loss.backward()
        _ = optimizer.step()
    return policy


def test_a_new_adapter_changes_nothing(base):
    policy = add_lora(base, CONFIG, seed=0)
    samples, same = (p.sample(40, generator=_seeded()) for p in (base, policy))
    assert torch.equal(samples.tokens, same.tokens)
    # Exactly: B is zero, so that KL(pi‖a) is zero and not merely small.
    assert torch.equal(samples.log_prob, same.log_prob)
    scores = [p.log_prob(samples.tokens, samples.mask) for p in (policy, base, adapter_off(policy))]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


def test_a_family_without_a_default_gets_every_linear_layer_but_the_head(base, monkeypatch):
    known = "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING"
    monkeypatch.setattr(peft.utils, known, {})
    policy = add_lora(base, LoraConfig(rank=2), seed=0)
    adapted = {
        name.partition(".lora_A")[0]
        for name, _ in policy.model.named_parameters()
        if ".lora_A" in name
    }
    linear = {
        name
        for name, module in base.model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and not name.endswith("lm_head")
    }
    assert adapted == linear


def test_only_the_adapter_is_trained(base):
    policy = add_lora(base, CONFIG, seed=0)
    trainable = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    samples = base.sample(20, generator=_seeded())
    _ = policy.log_prob(samples.tokens, samples.mask).sum().backward()
    for name, parameter in policy.model.named_parameters():
        assert (parameter.grad is not None) == (name in trainable), name
        # A's gradient has the factor B, which is zero at first; B's has not.
        if "lora_B" in name:
            assert parameter.grad is not None
            assert float(parameter.grad.abs().sum()) > 0.0, name


def test_a_step_moves_the_policy_and_not_the_base(base):
    samples = base.sample(40, generator=_seeded())
    weights = {name: p.clone() for name, p in base.model.named_parameters()}
    policy = _trained(base)
    assert all(torch.equal(p, weights[name]) for name, p in base.model.named_parameters())
    moved = policy.log_prob(samples.tokens, samples.mask)
    assert float((moved - samples.log_prob).detach().abs().max()) > 0.01
    off = adapter_off(policy)
    for other in (base, off):
        # 1e-5: sampler and scorer have different batch shapes, in float32.
        scored = other.log_prob(samples.tokens, samples.mask)
        torch.testing.assert_close(scored, samples.log_prob, rtol=0, atol=1e-5)
        assert not scored.requires_grad
    # Asking for the base has left the policy alone, in the middle of its own graph too.
    assert torch.equal(policy.log_prob(samples.tokens, samples.mask), moved)


def test_base_and_policy_share_their_weights(base):
    policy = add_lora(base, CONFIG, seed=0)
    owned = {p.data_ptr() for p in base.model.parameters()}
    off = adapter_off(policy)
    assert {p.data_ptr() for p in off.model.parameters()} == owned
    rest = {p.data_ptr() for n, p in policy.model.named_parameters() if "lora_" not in n}
    assert rest == owned
    assert not has_adapter(off.model)
    assert not has_adapter(base.model)


def test_the_seed_decides_the_adapter_and_the_global_one_is_untouched(base):
    _ = torch.manual_seed(5)
    expected = torch.rand(1)
    _ = torch.manual_seed(5)
    matrices = []
    for seed in (0, 0, 1):
        model = add_lora(base, CONFIG, seed=seed).model
        matrices.append(next(p for n, p in model.named_parameters() if "lora_A" in n))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(matrices[0], matrices[1])
    assert not torch.equal(matrices[0], matrices[2])


def test_the_merged_model_scores_as_the_adapted_one(base):
    config = LoraConfig(rank=3, alpha=7.0, targets=TARGETS[base.config.model_type])
    weights = {name: p.clone() for name, p in base.model.named_parameters()}
    policy = _trained(base, config)
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    merged = policy.with_model(merged_model(policy.model))
    assert not has_adapter(merged.model)
    samples = policy.sample(40, generator=_seeded(2))
    # 1e-5 of some ten nats: float32, one product where there were three.
    torch.testing.assert_close(
        merged.log_prob(samples.tokens, samples.mask),
        policy.log_prob(samples.tokens, samples.mask).detach(),
        rtol=1e-5,
        atol=1e-5,
    )
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    for name, parameter in base.model.named_parameters():
        assert torch.equal(parameter, weights[name]), name


def test_merging_copies_only_the_weights_under_an_adapter(base):
    policy = _trained(base)
    held = {p.data_ptr(): p for p in policy.model.parameters()}
    merged = merged_model(policy.model)
    new = [p for p in merged.parameters() if p.data_ptr() not in held]
    adapted = sum("lora_A" in name for name, _ in policy.model.named_parameters())
    assert len(new) == adapted
    assert all(p.device.type == "cpu" and not p.requires_grad for p in merged.parameters())


def test_a_saved_policy_needs_no_peft(base, tmp_path):
    policy = _trained(base)
    folder = tmp_path / "saved"
    folder.mkdir()
    policy.save(folder)
    assert not (folder / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert not has_adapter(model)
    samples = policy.sample(20, generator=_seeded())
    again = load_policy(folder).log_prob(samples.tokens, samples.mask)
    torch.testing.assert_close(again, samples.log_prob, rtol=1e-5, atol=1e-5)


def test_copies_keep_what_is_trained(base):
    policy = _trained(base)
    copied = policy.trainable_copy()
    trainable = {name for name, p in copied.model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, p in policy.model.named_parameters() if p.requires_grad}
    again = policy.frozen_copy().trainable_copy()
    assert {name for name, p in again.model.named_parameters() if p.requires_grad} == trainable


def test_an_adapter_goes_with_activation_checkpoints(base):
    policies = [_trained(base), _trained(base)]
    enable_activation_checkpointing(policies[1].model)
    samples = base.sample(20, generator=_seeded())
    gradients = []
    for policy in policies:
        parameters = [p for p in policy.model.parameters() if p.requires_grad]
        score = policy.log_prob(samples.tokens, samples.mask).sum()
        gradient = torch.autograd.grad(score, parameters)
        gradients.append(torch.cat([part.flatten() for part in gradient]))
    error = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    # float32, the same operations twice.
    assert float(error) <= 1e-6


def test_a_float64_model_has_a_float64_adapter():
    base = tiny_policy(tiny_gpt2()).frozen_copy()
    policy = add_lora(base, CONFIG, seed=0)
    assert {p.dtype for p in policy.model.parameters()} == {torch.float64}


def test_what_does_not_fit_is_refused(base):
    with pytest.raises(LoraError, match=r"no adapter fits: .*nothing.*Linear layers .*_proj"):
        _ = add_lora(base, LoraConfig(rank=2, targets=("nothing",)), seed=0)
    # The failed attempt has left no trace.
    assert not has_adapter(base.model)
    with pytest.raises(LoraError, match=r"lora\.rank is 0"):
        _ = add_lora(base, LoraConfig(), seed=0)
    with pytest.raises(LoraError, match="has an adapter already"):
        _ = add_lora(add_lora(base, CONFIG, seed=0), CONFIG, seed=0)
    assert issubclass(LoraError, RunError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": -1}, r"lora\.rank is -1: it must be at least 0"),
        ({"rank": 2, "alpha": 0.0}, r"lora\.alpha is 0\.0: it must be positive"),
        ({"targets": ("q_proj",)}, r"lora\.targets is q_proj, but lora\.rank is 0"),
    ],
)
def test_a_configuration_without_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        _ = LoraConfig(**options)
