"""A step of a pretrained model with a low-rank adapter, as one writes it by hand, without checks.

It samples with a cache, scores base and policy, and steps. `benchmarks.llm_speed` times it beside
the engine; it imports nothing of this project.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import peft
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache


@torch.no_grad()
def sample(model: Any, context: Tensor, ends: Tensor, samples: int, length: int) -> Tensor:
    """Draw (samples, length) tokens after a context of shape (1, c), which is read once.

    What follows an end token is drawn too, and means nothing: `score` leaves it out.
    """
    cache = DynamicCache(config=model.config)
    logits = model(context, past_key_values=cache, logits_to_keep=1).logits[:, -1]
    cache.batch_repeat_interleave(samples)
    logits, drawn = logits.expand(samples, -1), []
    ended = torch.zeros(samples, dtype=torch.bool)
    while True:
        drawn.append(torch.multinomial(logits.softmax(-1), 1))
        ended |= torch.isin(drawn[-1][:, 0], ends)
        if len(drawn) == length or bool(ended.all()):
            return torch.cat(drawn, dim=-1)
        logits = model(drawn[-1], past_key_values=cache, logits_to_keep=1).logits[:, -1]


def score(model: Any, context: Tensor, tokens: Tensor, ends: Tensor) -> Tensor:
    """Return the log-probabilities of samples, (samples,), the first end token included."""
    read = torch.cat([context.expand(len(tokens), -1), tokens[:, :-1]], dim=-1)
    logits = model(read, use_cache=False, logits_to_keep=tokens.shape[1]).logits
    losses = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
    is_end = torch.isin(tokens, ends).long()
    before_end = is_end.cumsum(-1) - is_end == 0
    return -(losses.view(tokens.shape) * before_end).sum(-1)


def training(
    folder: str, prompt: str, wanted: str, *, samples: int, length: int, rank: int
) -> Iterator[None]:
    """Sample, score under base and policy, descend; the wanted word in a text earns one nat."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ends = torch.tensor(model.generation_config.eos_token_id)
    policy: Any = peft.get_peft_model(
        model, peft.LoraConfig(r=rank, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM")
    )
    trained = [weights for weights in policy.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    begin = [model.generation_config.bos_token_id]
    context = torch.tensor([begin + tokenizer(prompt, add_special_tokens=False)["input_ids"]])

    while True:
        tokens = sample(policy, context, ends, samples, length)
        texts = tokenizer.batch_decode(tokens)
        rewards = torch.tensor([float(wanted in text) for text in texts])
        with torch.no_grad(), policy.disable_adapter():
            log_base = score(policy, context, tokens, ends)
        log_policy = score(policy, context, tokens, ends)
        signal = log_policy.detach() - log_base - rewards
        advantage = (signal - signal.mean()) * (samples / (samples - 1))
        (advantage * log_policy).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield
