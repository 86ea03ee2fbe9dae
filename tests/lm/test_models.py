"""Models from folders and from the hub: ids, safety, gradients that are not lost, what is saved."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects
from support.lm_models import BEGIN, END, TURN, make_gpt2_folder, make_llama_folder
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig

from lm.config.sampling import SamplingConfig
from lm.models.activations import enable_activation_checkpointing
from lm.models.folder import load_model, save_model
from lm.models.hub import UNWANTED, WANTED, MissingModelFolder, find_model
from lm.models.token_ids import ModelFolderError, TokenIds, load_ids
from lm.models.tokenizer import TokenizerVocabulary
from lm.policy import CausalPolicy, load_policy


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_generation_config_names_all_end_tokens(tmp_path):
    folder = make_llama_folder(tmp_path)
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == END
    ids = load_ids(folder, load_model(folder, dtype=None).config)
    assert ids == TokenIds(bos_id=BEGIN, eos_ids=(END, TURN), pad_id=END)


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [
        ({}, {"bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 5}, (3, (4,), 5)),
        ({"eos_token_id": [7, 8]}, {"bos_token_id": 3, "eos_token_id": 4}, (3, (7, 8), 7)),
        # Two models of the hub that say "none" in their own ways.
        ({"eos_token_id": []}, {"bos_token_id": 0, "eos_token_id": [4]}, (0, (4,), 4)),
        ({"pad_token_id": -1}, {"eos_token_id": 4, "bos_token_id": None}, (4, (4,), 4)),
    ],
)
def test_missing_ids_fall_back(tmp_path, generation, config, ids):
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    stored = LlamaConfig(**({"bos_token_id": None, "eos_token_id": None} | config))
    assert load_ids(tmp_path, stored) == TokenIds(*ids)


def test_a_damaged_generation_config_is_refused(tmp_path):
    folder = make_llama_folder(tmp_path)
    _ = (folder / "generation_config.json").write_text("{")
    with pytest.raises(ModelFolderError, match=r"generation_config\.json is not valid JSON"):
        _ = load_ids(folder, LlamaConfig())


@pytest.mark.parametrize("make", [make_llama_folder, make_gpt2_folder])
def test_a_foreign_folder_is_a_policy_and_its_save_is_complete(make, tmp_path):
    policy = load_policy(make(tmp_path / "foreign"), max_new_tokens=6)
    prompts = policy.vocabulary.encode_prompts(["the cat"])
    samples = policy.sample(20, generator=_seeded())
    (tmp_path / "saved").mkdir()
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    assert isinstance(again.vocabulary, TokenizerVocabulary)
    assert again.ids == policy.ids
    assert again.max_new_tokens == 6
    assert again.vocabulary.encode_prompts(["the cat"]) == prompts
    assert again.decode(again.sample(20, generator=_seeded())) == policy.decode(samples)
    # Dropout is 0.1 in every GPT-2 of the hub.
    assert again.model.config.to_dict().get("resid_pdrop", 0.0) == 0.0


def test_every_end_token_ends_and_the_first_one_counts(tmp_path):
    policy = load_policy(make_llama_folder(tmp_path, tokenizer=False), max_new_tokens=5)
    assert policy.ids == TokenIds(bos_id=10, eos_ids=(11, 9), pad_id=11, max_new_tokens=5)
    samples = policy.sample(200, generator=_seeded())
    ends = (samples.tokens == 11) | (samples.tokens == 9)
    assert torch.equal(samples.mask, ends.cumsum(-1) - ends.long() == 0)
    last = samples.tokens.gather(-1, samples.mask.sum(-1, keepdim=True) - 1)
    assert {9, 11} < set(last.flatten().tolist())
    scored = policy.log_prob(samples.tokens, samples.mask)
    # 1e-5: float32, sums of five terms.
    torch.testing.assert_close(scored, samples.log_prob, rtol=0, atol=1e-5)


def test_the_start_token_is_trained_where_it_is_the_pad_token(tmp_path):
    # transformers makes the pad token the padding_idx of the embeddings, whose row gets no
    # gradient; where it starts every text, that is a part of the model that never learns.
    folder = make_llama_folder(tmp_path, tokenizer=False)
    _change(folder / "generation_config.json", bos_token_id=11, pad_token_id=11)
    _change(folder / "config.json", bos_token_id=11, pad_token_id=11)
    stock = AutoModelForCausalLM.from_pretrained(folder)
    assert stock.get_input_embeddings().padding_idx == 11
    policy = load_policy(folder, max_new_tokens=3).trainable_copy()
    assert policy.ids.bos_id == policy.ids.pad_id == 11
    samples = policy.sample(4, generator=_seeded())
    _ = policy.log_prob(samples.tokens, samples.mask).sum().backward()
    embeddings: Any = policy.model.get_input_embeddings()
    gradient = embeddings.weight.grad
    assert float(gradient[11].abs().sum()) > 0.0


def test_generate_draws_from_the_saved_policys_law(tmp_path):
    policy = load_policy(
        make_llama_folder(tmp_path / "foreign"),
        max_new_tokens=6,
        transform=SamplingConfig(temperature=0.5, top_p=0.9),
    )
    (tmp_path / "saved").mkdir()
    policy.save(tmp_path / "saved")
    stored = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (stored.do_sample, stored.temperature, stored.top_k, stored.top_p) == (True, 0.5, 0, 0.9)
    assert (stored.bos_token_id, stored.eos_token_id) == (BEGIN, [END, TURN])
    assert (stored.pad_token_id, stored.max_new_tokens) == (END, 6)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    output = model.generate(**tokenizer([" the"] * 3, return_tensors="pt"))
    assert output.shape[0] == 3
    assert 2 < output.shape[1] <= 2 + 6


def test_code_in_a_folder_is_refused_even_where_transformers_has_its_own(tmp_path):
    folder = make_gpt2_folder(tmp_path)
    _ = (folder / "mine.py").write_text("raise SystemExit('remote code ran')")
    _change(folder / "config.json", auto_map={"AutoModelForCausalLM": "mine.MyModel"})
    with pytest.raises(ModelFolderError, match=r"'gpt2' runs code of its own \(auto_map\)"):
        _ = load_model(folder, dtype=None)


def test_an_adapter_without_its_model_is_refused(tmp_path):
    folder = make_gpt2_folder(tmp_path)
    _ = (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelFolderError, match=r"holds an adapter .*merge_and_unload"):
        _ = load_model(folder, dtype=None)


def test_a_file_is_no_model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("")
    with pytest.raises(ModelFolderError, match="is a file: give the folder"):
        _ = find_model(path)


def test_a_name_is_found_in_the_cache_of_the_hub_without_a_network(tmp_path, monkeypatch):
    cache, revision = tmp_path / "hub", "0" * 40
    stored = cache / "models--someone--tiny"
    snapshot = make_gpt2_folder(stored / "snapshots" / revision)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_model("someone/tiny") == snapshot
    policy = load_policy("someone/tiny", max_new_tokens=4)
    assert policy.ids.eos_ids == (END,)
    with pytest.raises(MissingModelFolder, match=r"no model folder someone/other.*HF_HUB_OFFLINE"):
        _ = load_policy("someone/other", max_new_tokens=4)


def test_what_the_hub_answers_is_said(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    response: Any = SimpleNamespace(headers={}, request=None)
    answers = {
        "the Hugging Face hub refuses it \\(404: no such repository\\)": RepositoryNotFoundError(
            "404: no such repository\n\nmore", response=response
        ),
        "the Hugging Face hub cannot be reached": LocalEntryNotFoundError("no connection"),
        "refuses it": HFValidationError("bad name"),
    }
    for message, error in answers.items():

        def answer(*_arguments, error=error, **_options):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
        with pytest.raises(MissingModelFolder, match=f"no model folder a/b, and .*{message}"):
            _ = find_model("a/b")


def test_a_path_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    def download(*_arguments, **_options):
        raise AssertionError("a path went to the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for path in (tmp_path / "nowhere", "./nowhere", "runs/a/b", "../x", "~/model"):
        with pytest.raises(MissingModelFolder, match=r"no model folder .*`python -m lm base`"):
            _ = find_model(path)
    folder = make_gpt2_folder(tmp_path / "here", tokenizer=False)
    monkeypatch.chdir(tmp_path)
    # A folder comes before a name of the hub.
    assert find_model("here").resolve() == folder


def test_neither_code_nor_pickles_nor_second_copies_are_downloaded():
    files = [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model",
        "merges.txt", "chat_template.jinja",
    ]  # fmt: skip
    others = [
        "modeling_mine.py", "pytorch_model.bin", "original/consolidated.00.pth", "model.gguf",
        "consolidated.safetensors", "onnx/model.onnx", "onnx/config.json", "optimizer.pt",
        "training_args.bin", "model.fp16.safetensors",
    ]  # fmt: skip
    wanted = filter_repo_objects(
        [*files, *others], allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
    )
    assert list(wanted) == files


@pytest.mark.parametrize("make", [make_llama_folder, make_gpt2_folder])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_activation_checkpoints_change_no_gradient(make, dtype, bound, tmp_path):
    base = load_policy(make(tmp_path, tokenizer=False), max_new_tokens=6, dtype=dtype)
    samples = base.sample(30, generator=_seeded())
    weights = torch.randn(30, generator=_seeded(1), dtype=dtype)
    kept, recomputed = base.trainable_copy(), base.trainable_copy()
    enable_activation_checkpointing(recomputed.model)
    gradients = []
    for policy in (kept, recomputed):
        scores = policy.log_prob(samples.tokens, samples.mask)
        gradient = torch.autograd.grad(scores @ weights, list(policy.model.parameters()))
        gradients.append(torch.cat([part.flatten() for part in gradient]))
    error = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    # The same operations on the same numbers: rounding is all that may differ, by reordered sums.
    assert float(error) <= bound


def test_activation_checkpoints_recompute_where_a_gradient_is_wanted_and_only_there(tmp_path):
    base = load_policy(make_llama_folder(tmp_path, tokenizer=False), max_new_tokens=6)
    policy = base.trainable_copy()
    enable_activation_checkpointing(policy.model)
    calls = []
    layer = policy.model.model.layers[0]
    # Of the layer's parts: the layer itself is called around its checkpoint.
    _ = layer.mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    samples = policy.sample(30, generator=_seeded())
    plain = base.sample(30, generator=_seeded())
    # With the cache, which a checkpointed layer drops: six steps and no more, the same samples.
    assert len(calls) <= 6
    assert torch.equal(samples.tokens, plain.tokens)
    calls.clear()
    with torch.no_grad():
        _ = policy.log_prob(samples.tokens, samples.mask)
    assert len(calls) == 1
    calls.clear()
    _ = policy.log_prob(samples.tokens, samples.mask).sum().backward()
    assert len(calls) == 2


def test_a_saved_folder_holds_no_pickle(tmp_path):
    policy = load_policy(make_llama_folder(tmp_path / "a"), max_new_tokens=4)
    assert isinstance(policy, CausalPolicy)
    (tmp_path / "b").mkdir()
    save_model(policy.model, policy.ids, tmp_path / "b", vocabulary=policy.vocabulary)
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert names == [
        "config.json",
        "fdpg_ref.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
