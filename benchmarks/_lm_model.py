"""The model folder that the engine and TRL's trainers are timed on: random weights, no files."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.lm_floor import Size

PROMPT, END, REWARDED = 0, 1, 5


def write_model(size: Size, folder: Path, *, activation: str = "gelu_new") -> None:
    """Write a GPT-2 of random weights with a tokenizer whose words are t0, t1, ...

    Parameters
    ----------
    size
        Of the model.
    folder
        Exists.
    activation
        Of the configuration; "gelu_new" is GPT-2's own.
    """
    config = GPT2Config(
        vocab_size=size.vocabulary,
        n_positions=size.length + 1,
        n_layer=size.layers,
        n_embd=size.width,
        n_head=size.heads,
        activation_function=activation,
        # GPT2Config drops out 10 % by default; no contender shall.
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=PROMPT,
        eos_token_id=END,
        pad_token_id=END,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    # No sample ends early, so that all contenders work on samples of one length: the last norm adds
    # 10 to a direction that the end token's row is opposed to (a logit of about -100).
    with torch.no_grad():
        model.transformer.ln_f.bias[0] = 10.0
        model.transformer.wte.weight[END, 0] = -10.0
    model.save_pretrained(folder)
    words = {f"t{token}": token for token in range(size.vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token=f"t{END}"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=f"t{PROMPT}",
        eos_token=f"t{END}",
        pad_token=f"t{END}",
    ).save_pretrained(folder)
