"""CausalPolicy: sampling, scoring, copies, folders and their errors."""

from __future__ import annotations

import json
import warnings

import peft
import pytest
import torch
from support.lm_tiny import enumerate_sequences, tiny_gpt2, tiny_llama, tiny_policy
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from lm.models.completions import completion_mask
from lm.models.folder import MissingModelFolder, atomic_folder, save_model
from lm.models.token_ids import ModelFolderError, TokenIds
from lm.models.vocabulary import IdVocabulary, VocabularyError
from lm.policy import CausalPolicy, load_policy
from lm.policy.causal.sampling import invert_cdf, sample_sequences
from lm.policy.prompts import Prompts
from lm.policy.transforms import wide_log_softmax


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def policy() -> CausalPolicy:
    return tiny_policy(tiny_gpt2(), eos_ids=(1,), pad_id=1).frozen_copy()


def test_samples_have_the_promised_form(policy):
    tokens, mask, log_prob = policy.sample(300, generator=_seeded())[:3]
    assert tokens.shape == mask.shape == (300, 4)
    assert (tokens.dtype, mask.dtype, log_prob.dtype) == (torch.int64, torch.bool, torch.float64)
    ends = tokens == 1
    # True up to and including the first end token, false after it, where pad == eos.
    assert torch.equal(mask, ends.cumsum(-1) - ends.long() == 0)
    assert bool(ends[~mask].all())
    assert not log_prob.requires_grad
    lengths = mask.sum(-1)
    assert int(lengths.min()) == 1
    assert bool((~ends.any(-1)).any()), "no sequence was cut: the test needs some"


def test_the_end_token_counts_once_also_where_it_fills_the_row():
    tokens = torch.tensor([[2, 1, 1, 1], [1, 1, 1, 1], [3, 2, 3, 2], [2, 3, 2, 1]])
    for eos_ids, lengths in (((1,), [2, 1, 4, 4]), ((1, 3), [2, 1, 1, 2])):
        mask = completion_mask(tokens, eos_ids)
        assert mask.tolist() == [[k < length for k in range(4)] for length in lengths]


def test_the_seed_decides_the_sample(policy):
    first, again = policy.sample(50, generator=_seeded(7)), policy.sample(50, generator=_seeded(7))
    other = policy.sample(50, generator=_seeded(8))
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.log_prob, again.log_prob)
    assert not torch.equal(first.tokens, other.tokens)


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
def test_a_row_does_not_depend_on_when_others_end(build):
    model = build()
    uniforms = torch.rand((40, 4), generator=_seeded(1), dtype=torch.float64)
    start = Prompts(torch.zeros(40, 1, dtype=torch.int64), torch.ones(40, 1, dtype=torch.bool))
    options = {"eos_ids": (1,), "pad_id": 2}
    together = sample_sequences(model, uniforms, contexts=start, **options)
    assert len(set(together.mask.sum(-1).tolist())) > 2
    for row in range(40):
        one = slice(row, row + 1)
        alone = sample_sequences(model, uniforms[one], contexts=start.rows(one), **options)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        # Float32 rounding of another batch shape (Llama); exact to 1e-12 would hold in float64.
        torch.testing.assert_close(alone.log_prob[0], together.log_prob[row], rtol=1e-5, atol=1e-5)


def test_what_follows_the_end_is_not_scored(policy):
    tokens, mask = enumerate_sequences(eos_ids=(1,), pad_id=1, limit=4)
    filled = torch.where(mask, tokens, 3)
    assert not torch.equal(tokens, filled)
    assert torch.equal(policy.log_prob(tokens, mask), policy.log_prob(filled, mask))


def test_padding_does_not_change_the_log_prob():
    policy = tiny_policy(tiny_gpt2(positions=6), limit=6)
    tokens, mask = enumerate_sequences(eos_ids=(1,), pad_id=0, limit=4)
    wide_tokens = torch.cat([tokens, torch.full((len(tokens), 2), 2)], dim=-1)
    wide_mask = torch.cat([mask, torch.zeros(len(tokens), 2, dtype=torch.bool)], dim=-1)
    narrow, wide = policy.log_prob(tokens, mask), policy.log_prob(wide_tokens, wide_mask)
    # 1e-12: one sum in float64, whatever the padding.
    torch.testing.assert_close(narrow, wide, rtol=0, atol=1e-12)
    alone = [policy.log_prob(t[None, m], m[None, m]) for t, m in zip(tokens, mask, strict=True)]
    torch.testing.assert_close(narrow, torch.cat(alone), rtol=0, atol=1e-12)


def test_scoring_in_groups_keeps_order_and_gradient(policy, monkeypatch):
    trainable = policy.trainable_copy()
    tokens, mask = policy.sample(150, generator=_seeded(3))[:2]
    weights = torch.randn(150, generator=_seeded(4), dtype=torch.float64)
    results = []
    for rows in (7, 64, 1000):
        monkeypatch.setattr("lm.policy.causal.scoring.GROUP_ROWS", rows)
        scores = trainable.log_prob(tokens, mask)
        gradient = torch.autograd.grad(scores @ weights, list(trainable.model.parameters()))
        results.append((scores.detach(), torch.cat([g.flatten() for g in gradient])))
    for scores, gradient in results[:-1]:
        # 1e-11: float64, gradients of size ten.
        torch.testing.assert_close(scores, results[-1][0], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, results[-1][1], rtol=1e-10, atol=1e-11)


def test_half_precision_weights_give_float32_log_probs():
    policy = tiny_policy(tiny_gpt2(scale=4.0).bfloat16())
    samples = policy.sample(64, generator=_seeded())
    assert samples.log_prob.dtype == torch.float32
    assert policy.log_prob(samples.tokens, samples.mask).dtype == torch.float32
    logits = torch.tensor([[3.2, -97.0]], dtype=torch.bfloat16)
    # The upcast comes first: a log-softmax in bfloat16 gives -100, on its grid of half a nat.
    assert float(wide_log_softmax(logits)[0, 1]) == float(logits[0, 1]) - float(logits[0, 0])
    assert wide_log_softmax(logits.double()).dtype == torch.float64


def test_inverse_cdf_takes_the_token_whose_interval_holds_the_uniform():
    log_probs = torch.tensor([0.0, 0.25, 0.25, 0.5, 0.0], dtype=torch.float64).log()
    last = 1.0 - 2.0**-53
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.49, 0.5, last], dtype=torch.float64)
    chosen = invert_cdf(log_probs.expand(6, 5), uniforms)
    # Never token 0 or 4, whose probability is zero.
    assert chosen.tolist() == [1, 1, 2, 2, 3, 3]


def test_inverse_cdf_reaches_tokens_rarer_than_float32_can_add():
    # 1 + 1e-9 is 1 in float32: there the second token would have no interval at all.
    log_probs = torch.tensor([[1.0, 1e-9]], dtype=torch.float32).log()
    for uniform, token in [(1.0 - 5e-10, 1), (1.0 - 2e-9, 0)]:
        uniforms = torch.tensor([uniform], dtype=torch.float64)
        assert invert_cdf(log_probs, uniforms).tolist() == [token]


def test_inverse_cdf_survives_totals_off_one():
    # Rounded float32 log-probabilities sum to 1 + 3e-7 or so; scaled up here to be seen.
    for total in (0.9, 1.0, 1.0 + 2.0**-52, 1.7):
        log_probs = (total * torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)).log()
        last = torch.tensor([1.0 - 2.0**-53], dtype=torch.float64)
        assert invert_cdf(log_probs, last).tolist() == [1]
        assert invert_cdf(log_probs, torch.tensor([0.49])).tolist() == [0]


def test_a_model_of_nan_is_reported():
    model = tiny_gpt2()
    with torch.no_grad():
        _ = next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="probabilities are NaN"):
        _ = tiny_policy(model).sample(4, generator=_seeded())


def test_copies_are_independent_and_say_whether_they_train(policy):
    trainable, frozen = policy.trainable_copy(), policy.frozen_copy()
    assert all(p.requires_grad for p in trainable.model.parameters())
    assert not any(p.requires_grad for p in frozen.model.parameters())
    tokens, mask, log_prob = policy.sample(20, generator=_seeded())[:3]
    assert trainable.log_prob(tokens, mask).requires_grad
    with torch.no_grad():
        for parameter in trainable.model.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(frozen.log_prob(tokens, mask), log_prob, rtol=0, atol=1e-12)
    assert float((trainable.log_prob(tokens, mask) - log_prob).detach().abs().max()) > 0.01
    assert trainable.ids == policy.ids
    assert trainable.max_new_tokens == policy.max_new_tokens


def test_dropout_is_off_even_in_training_mode():
    config = GPT2Config(vocab_size=4, n_positions=4, n_layer=1, n_embd=8, n_head=2)
    assert config.resid_pdrop == 0.1
    for model in (GPT2LMHeadModel(config), tiny_llama()):
        if model.config.model_type == "llama":
            # A rate that lives in the attention module as a number, not as a Dropout.
            for layer in model.model.layers:
                layer.self_attn.attention_dropout = 0.5
        policy = tiny_policy(model).trainable_copy()
        tokens, mask = enumerate_sequences(eos_ids=(1,), pad_id=0, limit=4)
        evaluated = policy.log_prob(tokens, mask)
        _ = policy.model.train()
        torch.testing.assert_close(policy.log_prob(tokens, mask), evaluated, rtol=0, atol=0)


class _Wrapper(torch.nn.Module):
    """What DistributedDataParallel looks like from outside."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.calls = 0

    def forward(self, *inputs, **options):
        self.calls += 1
        return self.module(*inputs, **options)


def test_a_wrapped_policy_samples_and_saves_its_inside(policy, tmp_path):
    wrapped = policy.trainable_copy()
    model = wrapped.model
    wrapped.scorer = wrapper = _Wrapper(wrapped.scorer)
    assert wrapped.model is model
    samples = wrapped.sample(200, generator=_seeded())
    assert wrapper.calls == 0
    # The differentiated forward goes through the wrapper, whose hooks reduce gradients: once,
    # however many groups of rows the model is called for.
    scored = wrapped.score(samples)
    torch.testing.assert_close(scored.detach(), samples.log_prob, rtol=0, atol=1e-12)
    assert wrapper.calls == 1
    assert torch.equal(wrapped.frozen_copy().score(samples), scored)
    wrapped.save(tmp_path)
    assert torch.equal(load_policy(tmp_path).score(samples), policy.score(samples))


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
def test_a_saved_policy_is_the_same_policy(build, tmp_path):
    policy = tiny_policy(build(), eos_ids=(1, 3), pad_id=3)
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    assert loaded.ids == policy.ids
    assert not any(p.requires_grad for p in loaded.model.parameters())
    samples = policy.sample(30, generator=_seeded(5))
    again = loaded.sample(30, generator=_seeded(5))
    assert torch.equal(samples.tokens, again.tokens)
    assert torch.equal(samples.log_prob, again.log_prob)
    assert load_policy(tmp_path, max_new_tokens=2).sample(3, generator=_seeded()).mask.shape[1] == 2
    doubled = load_policy(tmp_path, dtype=torch.float64)
    assert doubled.log_prob(samples.tokens, samples.mask).dtype == torch.float64


def test_a_plain_hugging_face_folder_gives_ids_and_needs_a_limit(tmp_path):
    model = tiny_gpt2()
    model.config.eos_token_id = 3
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="give max_new_tokens"):
        _ = load_policy(tmp_path)
    policy = load_policy(tmp_path, max_new_tokens=4)
    assert policy.ids == TokenIds(bos_id=3, eos_ids=(3,), pad_id=3, max_new_tokens=4)
    assert policy.vocabulary == IdVocabulary(bos_id=3, eos_ids=(3,), size=4)
    tokens, mask = enumerate_sequences(eos_ids=(3,), pad_id=3, limit=4)
    assert float(policy.log_prob(tokens, mask).exp().sum()) == pytest.approx(1.0, abs=1e-12)


def _folder(tmp_path, **changes):
    """Save a good folder and spoil its config.json."""
    tiny_policy(tiny_gpt2()).save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path


def test_a_missing_folder_says_how_to_get_one(tmp_path):
    with pytest.raises(MissingModelFolder, match=r"no model folder .*nowhere.*`python -m lm base`"):
        _ = load_policy(tmp_path / "nowhere")
    assert issubclass(MissingModelFolder, FileNotFoundError)
    assert issubclass(ModelFolderError, ValueError)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match=r"has no config\.json"):
        _ = load_policy(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelFolderError, match="not valid JSON"):
        _ = load_policy(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModelFolderError, match="no weights in safetensors"):
        _ = load_policy(tmp_path)


def test_remote_code_is_refused_and_not_run(tmp_path):
    _folder(tmp_path, model_type="mine", auto_map={"AutoConfig": "mine.MyConfig"})
    (tmp_path / "mine.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(ModelFolderError, match=r"'mine' runs code of its own.*trust_remote"):
        _ = load_policy(tmp_path)
    _folder(tmp_path, model_type="mine", auto_map=None)
    with pytest.raises(ModelFolderError, match="model_type 'mine'"):
        _ = load_policy(tmp_path)


def test_pickled_weights_are_refused(tmp_path):
    folder = _folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match="pickled weights are not loaded"):
        _ = load_policy(folder)


def test_damaged_weights_are_refused(tmp_path):
    folder = _folder(tmp_path)
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelFolderError, match="does not load as a causal model"):
        _ = load_policy(folder)
    _folder(tmp_path, vocab_size=7)
    with pytest.raises(ModelFolderError, match="does not load as a causal model"):
        _ = load_policy(folder)
    # A third layer in the configuration, two in the weights.
    _folder(tmp_path, n_layer=3)
    with pytest.raises(ModelFolderError, match=r"lacks the weights .*transformer\.h\.2"):
        _ = load_policy(folder)


def test_ids_outside_the_vocabulary_are_refused(tmp_path):
    folder = _folder(tmp_path)
    for change, message in [
        ({"eos_ids": [1, 4]}, "the eos id 4 lies outside the model's vocabulary of 4 tokens"),
        ({"bos_id": -1}, "the bos id -1"),
        ({"extra": 1}, "does not hold the token ids"),
        ({"eos_ids": None}, "does not hold the token ids"),
    ]:
        save_model(tiny_gpt2(), TokenIds(0, (1,), 0, 4), folder)
        path = folder / "fdpg_ref.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(ModelFolderError, match=message):
            _ = load_policy(folder)


def test_a_folder_without_an_end_token_is_refused(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="names no end token"):
        _ = load_policy(tmp_path, max_new_tokens=4)


@pytest.mark.parametrize("limit", [0, 5])
def test_a_limit_beyond_the_models_positions_is_refused(limit):
    with pytest.raises(ValueError, match=f"between 1 and the model's 4 positions, got {limit}"):
        _ = tiny_policy(tiny_gpt2(positions=4), limit=limit)


def test_sample_and_log_prob_check_their_arguments(policy):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        policy.sample(0, generator=_seeded())
    tokens, mask = enumerate_sequences(eos_ids=(1,), pad_id=1, limit=4)
    with pytest.raises(ValueError, match="bool mask of the same shape"):
        policy.log_prob(tokens, mask[:, :3])
    with pytest.raises(ValueError, match="bool mask of the same shape"):
        policy.log_prob(tokens, mask.long())
    with pytest.raises(ValueError, match=r"a sequence has 5 tokens; this policy's have 1 to 4"):
        policy.log_prob(torch.zeros(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="a sequence has 0 tokens"):
        policy.log_prob(tokens[:1], torch.zeros_like(mask[:1]))


def test_ids_and_letters_must_fit_the_model():
    with pytest.raises(VocabularyError, match="the eos id 4 lies outside the model's vocabulary"):
        _ = tiny_policy(tiny_gpt2(), eos_ids=(1, 4))
    with pytest.raises(VocabularyError, match="2 letters and 3 special tokens do not make"):
        _ = CausalPolicy(
            tiny_gpt2(), bos_id=0, eos_ids=(1,), pad_id=0, max_new_tokens=4, letters="ab"
        )


def test_a_policy_needs_a_model_of_transformers(policy):
    with pytest.raises(TypeError, match="needs a model of transformers, got Linear"):
        _ = tiny_policy(torch.nn.Linear(1, 1))
    other = policy.frozen_copy()
    other.scorer = torch.nn.Linear(1, 1)
    with pytest.raises(TypeError, match="scorer is a TokenScorer, got Linear"):
        other.sample(1, generator=_seeded())


def test_an_architecture_without_a_key_value_cache_is_refused():
    config = MambaConfig(vocab_size=4, hidden_size=8, state_size=2, num_hidden_layers=1)
    with pytest.raises(TypeError, match="MambaForCausalLM takes no past_key_values"):
        _ = tiny_policy(MambaForCausalLM(config))


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
def test_a_model_of_peft_is_a_policy_with_its_adapters(build):
    model = build()
    plain = tiny_policy(model).frozen_copy()
    with warnings.catch_warnings():
        # peft says that GPT-2 stores its weights transposed, and goes on.
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM"))
    policy = tiny_policy(wrapped)
    assert policy.model is wrapped.get_base_model()
    tokens, mask = enumerate_sequences(eos_ids=(1,), pad_id=0, limit=4)
    # B = 0 at first.
    assert torch.equal(policy.log_prob(tokens, mask), plain.log_prob(tokens, mask))
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                _ = parameter.fill_(0.3)
    adapted = policy.log_prob(tokens, mask)
    assert float((adapted - plain.log_prob(tokens, mask)).detach().abs().max()) > 0.01
    assert float(adapted.detach().exp().sum()) == pytest.approx(1.0, abs=1e-5)
    trained = [n for n, p in policy.trainable_copy().model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_virtual_tokens_of_peft_are_refused():
    config = peft.PrefixTuningConfig(num_virtual_tokens=1, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        # peft asks transformers under a name that is going to change.
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(tiny_gpt2(), config)
    with pytest.raises(TypeError, match="PREFIX_TUNING puts virtual tokens before the prompt"):
        _ = tiny_policy(model)


def test_scoring_returns_a_gradient_for_every_weight(policy):
    policy = policy.trainable_copy()
    tokens, mask = enumerate_sequences(eos_ids=(1,), pad_id=1, limit=4)
    _ = policy.log_prob(tokens, mask).square().sum().backward()
    for name, parameter in policy.model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0.0, name


def test_an_atomic_folder_appears_whole_or_not_at_all(tmp_path):
    final = tmp_path / "deep" / "model"
    with atomic_folder(final) as partial:
        _ = (partial / "a").write_text("1")
        assert not final.exists()
    assert (final / "a").read_text() == "1"
    # A second writer of the same folder finds the first one's result and keeps it.
    with atomic_folder(final) as partial:
        _ = (partial / "a").write_text("2")
    assert (final / "a").read_text() == "1"
    other = tmp_path / "other"

    def interrupted():
        with atomic_folder(other) as partial:
            _ = (partial / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "deep", "model"]
