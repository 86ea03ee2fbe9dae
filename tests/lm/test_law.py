"""One law of the next token, however a model is asked: checked on load and where samples are drawn.

And one law before and after a save.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.lm_models import make_llama_folder
from support.lm_runs import tiny_config, tiny_model
from support.lm_tiny import VOCABULARY, tiny_gpt2, tiny_llama, tiny_policy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lm.cli.main import main
from lm.config.lora import LoraConfig
from lm.config.sampling import SamplingConfig
from lm.errors import RunError
from lm.models.folder import load_model
from lm.models.positions import usable_positions
from lm.models.token_ids import ModelFolderError
from lm.policy import load_policy
from lm.policy.causal.law import law_fault
from lm.policy.causal.saved import SAMPLES, WrongSave, check_saved
from lm.policy.checks import check_longest, check_same_law
from lm.policy.lora import add_lora
from lm.policy.prompts import PromptError, Prompts
from lm.train import train

SIZES = {
    "vocab_size": 7, "bos_token_id": 5, "eos_token_id": 6, "pad_token_id": 0, "hidden_size": 16,
    "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [4.0, 9.0]}


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _model(kind: str, **options: Any) -> PreTrainedModel:
    """Build a random model whose weights are large enough for a fault to show."""
    with torch.random.fork_rng(devices=[]):
        _ = torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SIZES | options)))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    _ = parameter.normal_(0, 0.5)
    return model.eval()


def _phi3() -> PreTrainedModel:
    return _model("phi3", original_max_position_embeddings=4, rope_scaling=LONGROPE)


def _recurrent_gemma() -> PreTrainedModel:
    return _model(
        "recurrent_gemma", num_hidden_layers=3, num_key_value_heads=1, head_dim=4, lru_width=16,
        attention_window_size=2, conv1d_width=4,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma", "gpt_neox", "opt", "falcon"])
def test_a_causal_model_has_one_law(kind, dtype):
    assert law_fault(_model(kind, num_key_value_heads=2, ffn_dim=32).to(dtype)) == ""


def test_the_probe_reads_a_dozen_tokens_and_no_random_stream():
    model, calls = tiny_gpt2(), []
    _ = model.register_forward_hook(lambda _m, _i, out: calls.append(out.logits.shape[:2].numel()))
    _ = torch.manual_seed(3)
    expected = torch.rand(1)
    _ = torch.manual_seed(3)
    assert law_fault(model) == ""
    assert torch.equal(torch.rand(1), expected)
    assert len(calls) == 4
    assert sum(calls) <= 4 * 16


def test_every_call_says_where_its_tokens_stand():
    model: Any = tiny_llama(positions=16)
    seen = []
    forward = model.model.forward

    def spied(*inputs: Any, **rest: Any) -> Any:
        places = rest.get("position_ids")
        seen.append(None if places is None else places.tolist())
        return forward(*inputs, **rest)

    model.model.forward = spied
    policy = tiny_policy(model, limit=3)
    samples = policy.sample(1, generator=_seeded(1))
    assert samples.mask.all()
    assert seen == [[[0]], [[1]], [[2]]]
    _ = policy.score(samples)
    assert seen[3] == [[0, 1, 2]]


class OfRows(torch.nn.Module):
    """Keeps something of each row of its first call, as recurrent Gemma's layers do."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.kept: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[1] > 1:
            self.kept = hidden[:, -1:]
            return self.layer(hidden)
        assert self.kept is not None
        # Of the row itself, as long as no row has left the batch.
        return self.layer(hidden) + (self.kept - self.kept[-1:])


def _state_of_rows() -> PreTrainedModel:
    model: Any = tiny_llama(positions=16)
    model.model.layers[0].mlp = OfRows(model.model.layers[0].mlp)
    return model


class Stateful(torch.nn.Module):
    """Adds up what it was given, and lets it into the next call."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer, self.calls = layer, 0

    def forward(self, *inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        self.calls += 1
        return self.layer(*inputs, **options) * (1 + 0.1 * self.calls)


def _stateful() -> PreTrainedModel:
    model: Any = tiny_llama(positions=16)
    model.model.layers[0].mlp = Stateful(model.model.layers[0].mlp)
    return model


def _without_mask() -> PreTrainedModel:
    """Return a model that reads its padding."""
    model: Any = tiny_llama(positions=16)
    forward = model.model.forward

    def seeing_all(*inputs: Any, attention_mask: torch.Tensor | None = None, **rest: Any) -> Any:
        everything = None if attention_mask is None else torch.ones_like(attention_mask)
        return forward(*inputs, attention_mask=everything, **rest)

    model.model.forward = seeing_all
    return model


def _without_cache() -> PreTrainedModel:
    """Return a model that reads each token as if nothing had been before it."""
    model: Any = tiny_llama(positions=16)
    forward = model.model.forward

    def forgetful(*inputs: Any, past_key_values: Any = None, **rest: Any) -> Any:
        del past_key_values
        return forward(*inputs, **rest)

    model.model.forward = forgetful
    return model


def _infinite() -> PreTrainedModel:
    model: Any = tiny_llama()
    with torch.no_grad():
        _ = model.model.layers[1].mlp.up_proj.weight.fill_(torch.nan)
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: _model("bert"), "a later token changes the law of an earlier one"),
        (_recurrent_gemma, "beside a longer row, padded, its law of a token is another one"),
        (_stateful, "asked the same twice it gives two laws .* keeps a state between calls"),
        (_state_of_rows, "with a key-value cache its law is another one"),
        (_without_mask, "beside a longer row, padded, its law"),
        (_without_cache, "with a key-value cache its law is another one"),
        (_infinite, r"1 of its weights hold NaN .*layers\.1\.mlp\.up_proj.*file is damaged"),
        (
            lambda: _model("mixtral", num_local_experts=4).double(),
            r"fails in torch\.float64 .*: give --precision float32",
        ),
        (
            # Its mask is of float64 and its softmax of float32, where all of the mask is -inf.
            lambda: _model("gemma2", query_pre_attn_scalar=8, num_key_value_heads=2).double(),
            r"beside a longer row, padded, its probabilities are NaN in torch\.float64: give --",
        ),
    ],
    ids=[
        "later tokens",
        "state of its own",
        "state",
        "state of rows",
        "padding",
        "cache",
        "NaN",
        "float64",
        "float64 mask",
    ],
)
def test_a_model_without_one_law_is_refused_with_what_was_found(build, message):
    fault = law_fault(build())
    assert re.search(message, fault), fault


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: _model("bert"), "a later token changes the law of an earlier one"),
        (_recurrent_gemma, "beside a longer row, padded, its law of a token is another one"),
        (_state_of_rows, "with a key-value cache its law is another one"),
        (_infinite, r"1 of its weights hold NaN"),
    ],
    ids=["later tokens", "state of its own", "state of rows", "NaN"],
)
def test_in_bfloat16_a_fault_beyond_its_rounding_is_found(build, message):
    fault = law_fault(build().to(torch.bfloat16))
    assert re.search(message, fault), fault


@pytest.mark.parametrize("build", [_stateful, _without_mask, _without_cache])
def test_in_bfloat16_a_fault_that_rounding_could_make_is_not_told_from_it(build):
    """Of 0.1 to 0.3 nats; the same models are refused in float32."""
    assert law_fault(build()) != ""
    assert law_fault(build().to(torch.bfloat16)) == ""


def test_such_a_folder_is_not_loaded_and_such_a_base_not_trained(tmp_path, capsys):
    model = _model("bert")
    model.save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelFolderError, match=r"bert \(BertLMHeadModel\) cannot be used: a later"):
        _ = load_policy(tmp_path / "bert", max_new_tokens=3)
    assert main(["sample", str(tmp_path / "bert"), "--max_new_tokens", "3"]) == 2
    assert "a later token changes the law" in capsys.readouterr().err
    base = tiny_policy(_stateful())
    config = tiny_config(tmp_path / "run", model=None, max_new_tokens=None)
    with pytest.raises(RunError, match=r"train\(base=...\) with LlamaForCausalLM is refused"):
        _ = train(config, base=base)
    assert not (tmp_path / "run").exists()


def test_longrope_ends_where_the_law_begins_to_depend_on_the_batch(tmp_path):
    _phi3().save_pretrained(tmp_path / "phi3")
    policy = load_policy(tmp_path / "phi3", max_new_tokens=3)
    row, mask = torch.tensor([[1, 2, 6]]), torch.ones(1, 3, dtype=torch.bool)
    alone = policy.log_prob(row, mask, prompts=Prompts.from_ids([[1]]))
    beside = policy.log_prob(
        row.repeat(2, 1), mask.repeat(2, 1), prompts=Prompts.from_ids([[1], [1, 2]])
    )
    # float32, another batch shape.
    torch.testing.assert_close(beside[:1], alone, rtol=1e-5, atol=1e-5)
    longer = Prompts.from_ids([[1], [1, 2, 3]])
    message = r"needs 5 positions; the model has 4 \(of 64: beyond them longrope changes the law"
    with pytest.raises(PromptError, match=message):
        _ = policy.log_prob(row.repeat(2, 1), mask.repeat(2, 1), prompts=longer)
    with pytest.raises(PromptError, match=message):
        _ = policy.sample(2, generator=_seeded(), prompts=longer)
    with pytest.raises(ValueError, match=r"between 1 and the model's 4 positions \(of 64: beyond"):
        _ = load_policy(tmp_path / "phi3", max_new_tokens=5)


def test_the_positions_of_each_type_of_layer_count():
    config = AutoConfig.for_model("llama", max_position_embeddings=64)
    assert usable_positions(config) == (64, "")
    layers = {
        "sliding_attention": {"rope_type": "default"},
        "full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 16},
    }
    config.rope_parameters = layers
    assert usable_positions(config).number == 16
    config.rope_parameters["full_attention"]["original_max_position_embeddings"] = 128
    assert usable_positions(config).number == 64


def test_the_longest_row_is_scored_alone_as_it_was_drawn():
    policy = tiny_policy(tiny_gpt2(positions=8))
    prompts = Prompts.from_ids([[0], [2, 3, 1]])
    samples = policy.sample(8, generator=_seeded(), prompts=prompts)
    texts = [f"text {row}" for row in range(16)]
    check_longest(policy, samples, texts)
    assert samples.prompts is not None
    row = int((samples.mask.sum(-1) + samples.prompts.lengths).argmax())
    wrong = samples._replace(log_prob=samples.log_prob.clone())
    wrong.log_prob[row] += 1e-3
    with pytest.raises(RunError, match=f"sampler and its scorer disagree on 'text {row}'"):
        check_longest(policy, wrong, texts)


def test_every_evaluation_and_lm_sample_check_the_longest_row(tmp_path, monkeypatch, capsys):
    seen = []

    def spied(policy, samples, texts):
        seen.append(len(texts))
        check_longest(policy, samples, texts)

    monkeypatch.setattr("lm.evaluation.evaluate.check_longest", spied)
    monkeypatch.setattr("lm.cli.commands.check_longest", spied)
    config = tiny_config(tmp_path / "run", steps=2)
    _ = train(replace(config, evaluation=replace(config.evaluation, every=1)))
    assert seen == [config.evaluation.samples] * 3
    assert main(["sample", str(tmp_path / "run"), "--n", "5"]) == 0
    assert seen[3:] == [5]
    _ = capsys.readouterr()


def _adapted(folder, *targets: str, dtype: torch.dtype = torch.float64) -> Any:
    """Return a policy with an adapter that training has moved."""
    base = load_policy(folder, max_new_tokens=3, dtype=dtype)
    policy = add_lora(base, LoraConfig(rank=2, targets=targets), seed=0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_" in name:
                _ = parameter.normal_(0, 0.3, generator=_seeded(len(name)))
    return policy


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("layer", ["head", "embeddings"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_on_head_or_embeddings_is_exported_as_it_was_trained(
    kind, layer, tied, dtype, tmp_path
):
    names = {"llama": "embed_tokens", "gpt2": "wte"}
    _model(kind, tie_word_embeddings=tied, n_embd=16, n_layer=2, n_head=4).save_pretrained(
        tmp_path / "base"
    )
    target = "lm_head" if layer == "head" else names[kind]
    policy = _adapted(tmp_path / "base", target, dtype=dtype)
    samples = policy.sample(50, generator=_seeded(1))
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    (tmp_path / "saved").mkdir()
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved", dtype=dtype)
    gap = (again.score(samples) - policy.score(samples)).detach().abs().max()
    # Rounding of the merged weights; bfloat16 has eight bits of them.
    most = {torch.float64: 1e-5, torch.bfloat16: 0.5}[dtype]
    assert float(gap) < most
    # Without the adapter it would be another policy: the bound can tell.
    plain = load_policy(tmp_path / "base", max_new_tokens=3, dtype=dtype)
    assert float((plain.score(samples) - policy.score(samples)).detach().abs().max()) > 2 * most
    # The policy in memory has kept its one matrix.
    assert all(torch.equal(p, before[name]) for name, p in policy.model.named_parameters())
    model = policy.model
    shared = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert shared == tied


def test_a_save_that_is_another_policy_is_an_error(tmp_path):
    policy = load_policy(make_llama_folder(tmp_path / "base", tokenizer=False), max_new_tokens=4)
    (tmp_path / "saved").mkdir()
    policy.save(tmp_path / "saved")
    check_saved(policy, tmp_path / "saved")
    other = policy.trainable_copy()
    with torch.no_grad():
        _ = other.model.get_output_embeddings().weight[3].add_(0.05)
    message = r"saved, loaded again, is not the policy that was saved: it gives a sample -.* nats"
    with pytest.raises(WrongSave, match=message):
        check_saved(other, tmp_path / "saved")
    policy.ids = replace(policy.ids, eos_ids=(11,))
    with pytest.raises(WrongSave, match="its token ids are"):
        check_saved(policy, tmp_path / "saved")
    assert issubclass(WrongSave, RunError)


@pytest.mark.parametrize(("offset", "noise", "same"), [(20.0, 1e-7, True), (0.0, 1e-2, False)])
def test_large_logits_round_more_and_are_still_the_same_policy(
    offset, noise, same, tmp_path, monkeypatch
):
    """A constant on all logits changes no law, but it is what rounding is relative to."""
    policy = load_policy(tiny_model()).trainable_copy()
    with torch.no_grad():
        # Where it enters the model, the first norm takes it out again.
        _ = policy.model.transformer.wte.weight.add_(offset)
        _ = policy.model.transformer.ln_f.bias.add_(offset)

    def rounded(folder, dtype):
        model: Any = load_model(folder, dtype=dtype)
        weight, random = model.transformer.wte.weight.data, torch.Generator().manual_seed(0)
        _ = weight.mul_(1.0 + noise * torch.randn(weight.shape, generator=random))
        return model

    monkeypatch.setattr("lm.policy.causal.saved.load_model", rounded)
    if same:
        policy.save(tmp_path)
    else:
        with pytest.raises(WrongSave):
            policy.save(tmp_path)


def test_every_save_is_checked_with_a_handful_of_samples(tmp_path, monkeypatch):
    policy = load_policy(tiny_model(), transform=SamplingConfig(top_k=2))

    def damaged(folder, dtype):
        model: Any = load_model(folder, dtype=dtype)
        _ = model.transformer.wte.weight.mul_(1.5)
        return model

    monkeypatch.setattr("lm.policy.causal.saved.load_model", damaged)
    with pytest.raises(WrongSave):
        policy.save(tmp_path)
    monkeypatch.undo()
    drawn = []
    sample = type(policy).sample

    def spied(self, n, **options):
        drawn.append((n, self.max_new_tokens))
        return sample(self, n, **options)

    monkeypatch.setattr(type(policy), "sample", spied)
    policy.save(tmp_path)
    assert drawn == [(SAMPLES, 12)]
    assert load_model(tmp_path, dtype=None).dtype == torch.float32


def test_a_deep_model_of_large_logits_may_round_more_and_a_small_one_may_not():
    model = tiny_gpt2(positions=8)
    assert tiny_policy(model).rounding() == 1.0
    with torch.no_grad():
        _ = model.lm_head.weight.mul_(1e3)
    loud = tiny_policy(model).rounding()
    assert loud > 2.0
    model.config.num_hidden_layers = 24
    assert tiny_policy(model).rounding() == pytest.approx(2 * loud)

    # What is never written says nothing of rounding: with its -1e9 no fault would be found.
    quiet: Any = tiny_gpt2(positions=8)
    forbidden = torch.arange(VOCABULARY) == 2
    _ = quiet.lm_head.register_forward_hook(lambda *call: call[2] - 1e9 * forbidden)
    assert tiny_policy(quiet).rounding() == 1.0

    # SmolLM2's own figures: a difference that float64 does not show, and one that is a fault.
    sampled, lengths = torch.tensor([-58.570335]), torch.tensor([12])
    check_same_law(sampled, sampled + 7.6e-4, ["a"], "float32", lengths=lengths, rounding=8.0)
    with pytest.raises(RunError, match="sampler and its scorer disagree"):
        check_same_law(sampled, sampled + 7.6e-4, ["a"], "float32", lengths=lengths)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_in_16_bits_another_temperature_is_no_rounding(precision):
    """SmolLM2's own figures on twelve tokens in bfloat16: of rounding, and of temperature 0.7."""
    sampled, lengths = torch.tensor([-40.0]), torch.tensor([12])
    words = {"lengths": lengths, "rounding": 8.2}
    rounded = 0.35 if precision == "bfloat16" else 0.35 / 4  # two more significant bits
    check_same_law(sampled, sampled + rounded, ["a"], precision, **words)
    with pytest.raises(RunError, match="sampler and its scorer disagree"):
        check_same_law(sampled, sampled + 4.8, ["a"], precision, **words)
