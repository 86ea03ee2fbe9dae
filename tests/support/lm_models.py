"""Tiny Hugging Face folders as practitioners bring them: a tokenizer, several eos ids, pad == eos.

Everything is built here, nothing is downloaded: random weights, and a byte-level BPE whose merges
are written out, so that the ids never change.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

# Ids 0 to 255 are the bytes, then the merged pieces, then the special tokens.
MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("i", "n"), ("Ġ", "c"), ("Ġc", "o"))
SPECIALS_START = 256 + len(MERGES)
BEGIN, END, TURN = SPECIALS_START, SPECIALS_START + 1, SPECIALS_START + 2
POSITIONS = 32


def make_llama_folder(path: Path, *, tokenizer: bool = True, seed: int = 0) -> Path:
    """Write a Llama 3 in miniature: rotary positions, grouped heads, two end tokens, pad == eos.

    config.json names one end token, generation_config.json both, as Llama 3 Instruct does. Without
    a tokenizer the vocabulary has 12 tokens, of which 10 begins and 11 and 9 end a text.
    """
    bos, end, turn = (BEGIN, END, TURN) if tokenizer else (10, 11, 9)
    config = LlamaConfig(
        vocab_size=TURN + 1 if tokenizer else 12,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=bos,
        eos_token_id=end,
    )
    model = _random_model(LlamaForCausalLM, config, seed)
    model.generation_config = GenerationConfig(
        bos_token_id=bos, eos_token_id=[end, turn], pad_token_id=end
    )
    _save(model, path)
    if tokenizer:
        _save_tokenizer(path, adds_begin=True)
    return path


def make_gpt2_folder(path: Path, *, tokenizer: bool = True, seed: int = 0) -> Path:
    """Write a GPT-2 in miniature: bos == eos, no pad at all, a tokenizer that adds no start token.

    Its dropout is 0.1, as in every GPT-2. Without a tokenizer it has 12 tokens, and 11 ends a text.
    """
    end = END if tokenizer else 11
    config = GPT2Config(
        vocab_size=TURN + 1 if tokenizer else 12,
        n_positions=POSITIONS,
        n_layer=2,
        n_embd=16,
        n_head=2,
        bos_token_id=end,
        eos_token_id=end,
    )
    _save(_random_model(GPT2LMHeadModel, config, seed), path)
    if tokenizer:
        _save_tokenizer(path, adds_begin=False)
    return path


def make_tokenizer(*, adds_begin: bool) -> PreTrainedTokenizerFast:
    """Build the byte-level BPE of the folders above; `adds_begin` puts the start token first."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols += [left + right for left, right in MERGES]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(MERGES)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    _ = backend.add_special_tokens(["<|begin|>", "<|end|>", "<|turn|>"])
    if adds_begin:
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", BEGIN)]
        )
    bos = "<|begin|>" if adds_begin else "<|end|>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token="<|end|>")


def _save_tokenizer(path: Path, *, adds_begin: bool) -> None:
    _ = make_tokenizer(adds_begin=adds_begin).save_pretrained(path)


def _random_model(kind: type, config: LlamaConfig | GPT2Config, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        _ = torch.manual_seed(seed)
        model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Away from uniformity, so that samples differ in length and probability.
            if parameter.ndim > 1:
                _ = parameter.mul_(20.0)
    return model


def _save(model: PreTrainedModel, path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path)
