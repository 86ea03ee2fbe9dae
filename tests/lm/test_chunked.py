"""Memory-bounded log-probabilities: the same numbers and gradients in a fraction of the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.lm_models import make_gpt2_folder, make_llama_folder
from support.lm_tiny import VOCABULARY, tiny_gpt2, tiny_llama, tiny_policy
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from benchmarks.logprob_memory import compare
from lm.config import LoraConfig
from lm.config.sampling import SamplingConfig
from lm.errors import RunError
from lm.policy import load_policy
from lm.policy.causal import scoring
from lm.policy.causal.chunked import (
    UnsupportedHead,
    body_and_head,
    chunked_log_probs,
    require_plain_head,
)
from lm.policy.lora import add_lora
from lm.policy.transforms import transformed_log_probs

TRANSFORMS = [
    SamplingConfig(),
    SamplingConfig(temperature=0.7),
    SamplingConfig(top_k=9),
    SamplingConfig(top_p=0.8),
    SamplingConfig(min_p=0.1),
    SamplingConfig(temperature=1.5, top_k=20, top_p=0.95, min_p=0.01),
]


def _case(dtype: torch.dtype = torch.float64, *, positions: int = 11, vocabulary: int = 30):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, 6, generator=generator, dtype=dtype, requires_grad=True)
    head = torch.nn.Linear(6, vocabulary, dtype=dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            _ = parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    weights = torch.randn(positions, generator=generator, dtype=dtype)
    return hidden, head, weights


def _gradients(log_probs, weights, hidden, head):
    return torch.autograd.grad((log_probs * weights).sum(), [hidden, *head.parameters()])


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
def test_chunks_change_neither_values_nor_gradients(transform, chunk):
    hidden, head, weights = _case()
    law = transformed_log_probs(head(hidden), transform).log_probs
    # Not tokens that the transform cuts: minus infinity has no gradient.
    targets = law.detach().exp().multinomial(1, generator=torch.Generator().manual_seed(1))[:, 0]
    naive = law.gather(-1, targets[:, None]).squeeze(-1)
    chunked = chunked_log_probs(hidden, head, targets, chunk=chunk, transform=transform)
    # Sums of a few terms in float64; the gradient of the head adds chunks in another order.
    torch.testing.assert_close(chunked, naive, rtol=0, atol=1e-13)
    for here, there in zip(
        _gradients(chunked, weights, hidden, head),
        _gradients(naive, weights, hidden, head),
        strict=True,
    ):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_a_frozen_head_is_passed_once_and_gives_the_same(transform, chunk):
    hidden, head, weights = _case()
    _ = head.requires_grad_(False)
    law = transformed_log_probs(head(hidden), transform).log_probs
    targets = law.detach().exp().multinomial(1, generator=torch.Generator().manual_seed(1))[:, 0]
    naive = law.gather(-1, targets[:, None]).squeeze(-1)
    rows: list[int] = []
    _ = head.register_forward_hook(lambda _head, inputs, _output: rows.append(len(inputs[0])))
    chunked = chunked_log_probs(hidden, head, targets, chunk=chunk, transform=transform)
    torch.testing.assert_close(chunked, naive, rtol=0, atol=1e-13)
    # Twice over the same graph, as the noise of a gradient is measured.
    for _ in range(2):
        (here,) = torch.autograd.grad((chunked * weights).sum(), hidden, retain_graph=True)
        (there,) = torch.autograd.grad((naive * weights).sum(), hidden, retain_graph=True)
        torch.testing.assert_close(here, there, rtol=0, atol=1e-12)
    assert sum(rows) == len(hidden)
    assert max(rows) <= chunk


@pytest.mark.parametrize(
    ("lora", "grad", "chunks"), [(True, True, 6), (True, False, 1), (False, True, 1)]
)
def test_an_adapter_differentiates_a_large_batch_in_chunks(lora, grad, chunks, monkeypatch):
    # 24 tokens; room for the logits of four of them.
    monkeypatch.setattr(scoring, "GROUP_LOGITS", 23 * VOCABULARY)
    monkeypatch.setattr(scoring, "CHUNK_LOGITS", 4 * VOCABULARY)
    base = tiny_policy(tiny_llama())
    policy = add_lora(base, LoraConfig(rank=2), 0) if lora else base.trainable_copy()
    calls: list[int] = []
    tokens = torch.tensor(
        [[2, 0, 2, 0], [0, 2, 0, 0], [2, 2, 0, 2], [0, 0, 2, 2], [2, 2, 2, 0], [0, 2, 2, 2]]
    )
    mask = torch.ones_like(tokens, dtype=torch.bool)
    with torch.set_grad_enabled(grad):
        _ = policy.log_prob(tokens, mask)  # the head is looked at, once
        head = policy.model.get_output_embeddings()
        _ = head.register_forward_hook(lambda *_: calls.append(1))
        found = policy.log_prob(tokens, mask)
    assert len(calls) == chunks
    monkeypatch.setattr(scoring, "GROUP_LOGITS", 10**9)
    plain = policy.log_prob(tokens, mask)
    # float32, sums of four terms.
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    if grad:
        trained = [weights for weights in policy.model.parameters() if weights.requires_grad]
        pairs = [torch.autograd.grad(each.square().sum(), trained) for each in (found, plain)]
        for here, there in zip(*pairs, strict=True):
            assert float((here - there).norm()) <= 1e-5 * float(there.norm()) + 1e-9


def test_a_token_outside_the_kept_set_has_probability_zero():
    hidden, head, _ = _case()
    worst = head(hidden).argmin(-1)
    log_probs = chunked_log_probs(hidden, head, worst, chunk=3, transform=SamplingConfig(top_k=2))
    assert bool((log_probs == -torch.inf).all())


def test_the_log_softmax_is_wide_under_autocast_and_so_is_its_recomputation():
    hidden, head, weights = _case(torch.float32, positions=40, vocabulary=500)
    targets = torch.arange(40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(hidden)
        assert logits.dtype == torch.bfloat16
        naive = torch.log_softmax(logits.float(), -1).gather(-1, targets[:, None]).squeeze(-1)
        chunked = chunked_log_probs(hidden, head, targets, chunk=7)
    assert chunked.dtype == torch.float32
    # The same bfloat16 logits: a recomputation in another precision, or a log-softmax in bfloat16
    # (errors of 1e-2 nats here), would show in values and gradients.
    torch.testing.assert_close(chunked, naive, rtol=0, atol=1e-5)
    for here, there in zip(
        _gradients(chunked, weights, hidden, head),
        _gradients(naive, weights, hidden, head),
        strict=True,
    ):
        # The head's gradient is a sum of bfloat16 products, rounded chunk by chunk.
        assert float((here - there).norm() / there.norm()) < 5e-3


def test_no_array_of_all_logits_is_ever_kept():
    hidden, head, _ = _case(positions=64, vocabulary=1000)
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        log_probs = chunked_log_probs(hidden, head, torch.arange(64), chunk=8)
    assert log_probs.requires_grad
    # Neither all logits nor a chunk of them (8,000 numbers) waits for the backward pass.
    assert max(sizes, default=0) <= 64 * 6


def test_wrong_shapes_are_refused():
    hidden, head, _ = _case()
    with pytest.raises(ValueError, match=r"\(11, 6\) and \(10,\)"):
        _ = chunked_log_probs(hidden, head, torch.arange(10), chunk=2)
    with pytest.raises(ValueError, match="chunk is 0"):
        _ = chunked_log_probs(hidden, head, torch.arange(11), chunk=0)


@pytest.mark.parametrize("make", [make_llama_folder, make_gpt2_folder])
@pytest.mark.parametrize("transform", [TRANSFORMS[0], TRANSFORMS[-1]], ids=str)
def test_a_policy_scores_the_same_in_chunks(make, transform, tmp_path):
    folder = make(tmp_path, tokenizer=False)
    policies = [
        load_policy(
            folder, max_new_tokens=6, dtype=torch.float64, transform=transform
        ).trainable_copy()
        for _ in range(2)
    ]
    scorer: Any = policies[1].scorer
    scorer.score_chunk = 17
    samples = policies[0].sample(50, generator=torch.Generator().manual_seed(0))
    scores = [policy.score(samples) for policy in policies]
    # Llama's norms and rotations are float32, whatever the dtype.
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-5)
    gradients = [
        torch.autograd.grad(score.square().sum(), list(policy.model.parameters()))
        for score, policy in zip(scores, policies, strict=True)
    ]
    for here, there in zip(*gradients, strict=True):
        assert float((here - there).norm()) <= 1e-5 * float(there.norm()) + 1e-12


def _scaled_models():
    sizes = {
        "vocab_size": 12, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    yield Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=4))
    yield CohereForCausalLM(CohereConfig(**sizes, logit_scale=0.25))
    yield GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=4.0))


def test_models_that_scale_or_cap_their_logits_are_refused():
    # At initialisation the logits are so small that a cap at 30 changes none of them by 1e-5.
    for model in _scaled_models():
        with pytest.raises(UnsupportedHead, match=f"{type(model).__name__}: it scales or caps"):
            require_plain_head(model)
    assert issubclass(UnsupportedHead, RunError)


def test_hidden_states_that_are_changed_before_the_head_are_refused():
    model = tiny_llama()
    body, _ = body_and_head(model)

    class Halved(type(model)):
        def forward(self, *arguments, **options):
            output = body(*arguments, **options)
            return type("Output", (), {"logits": self.lm_head(output.last_hidden_state / 2)})

    model.__class__ = Halved
    with pytest.raises(UnsupportedHead, match="changes the hidden states before its head"):
        require_plain_head(model)


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
def test_plain_heads_pass_and_the_test_leaves_no_trace(build):
    model = build()
    tokens = torch.tensor([[0, 2, 1]])
    before = model(input_ids=tokens).logits
    require_plain_head(model)
    assert torch.equal(model(input_ids=tokens).logits, before)
    body, head = body_and_head(model)
    assert torch.equal(head(body(input_ids=tokens).last_hidden_state), before)


@pytest.mark.slow
def test_a_quarter_of_the_memory_at_a_vocabulary_of_150_000():
    # The stored run of benchmarks/logprob_memory.py has 8,192 tokens; here the eighth part.
    result = compare(tokens=1024, vocabulary=150_000, width=64, chunk=128)
    # Three arrays of float32: logits, log-softmax, gradient. Less would mean a wrong measurement.
    assert result["naive"]["gib"] > 0.9 * 3 * 1024 * 150_000 * 4 / 2**30
    assert result["memory_share"] <= 0.25
    assert result["value_error"] <= 1e-5
    assert result["gradient_error"] <= 1e-4
