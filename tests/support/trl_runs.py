"""Tiny models under TRL whose every completion is sampled once: no estimate is left in a gradient.

Only for tests that have found TRL: `pytest.importorskip` comes first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from support import lm_tiny
from support.textbook import textbook
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from lm.engines.trl import FDPGConfig, FDPGTrainer

EOS, PAD, LIMIT = 1, 0, 4
# One letter is one token; lengths are unequal, so that two of three are padded on the left.
LETTERS = "aebc"
PROMPTS = ("a", "bc", "cea")
BETA = 0.5

_TOKENS, _MASK = lm_tiny.enumerate_sequences(eos_ids=(EOS,), pad_id=PAD, limit=LIMIT)
SEQUENCES = [row[mask].tolist() for row, mask in zip(_TOKENS, _MASK, strict=True)]
N = len(SEQUENCES)


def save_model(folder: Path, family: str, *, dropout: float = 0.0) -> str:
    """Write a tiny model and its tokenizer, float32, and return the folder's name."""
    build = lm_tiny.tiny_gpt2 if family == "gpt2" else lm_tiny.tiny_llama
    model: Any = build(positions=8).float()
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, name, dropout)
    model.config.eos_token_id = model.generation_config.eos_token_id = EOS
    model.save_pretrained(folder)

    words = models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="a")
    tokenizer = Tokenizer(words)
    letters: Any = pre_tokenizers.Split("", "isolated")
    tokenizer.pre_tokenizer = letters
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="a", eos_token="e")
    _ = fast.save_pretrained(folder)
    return str(folder)


def ids_of(prompt: str) -> list[int]:
    return [LETTERS.index(letter) for letter in prompt]


def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Return an uneven reward of the tokens, spanning some nats once it is divided by beta."""
    return [
        math.sin(1 + sum((i + 1) * (t + 2) for i, t in enumerate(ids))) for ids in completion_ids
    ]


def passes(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Return the verdict of a verifier: a `b`, and an end."""
    return [float(2 in ids and ids[-1] == EOS) for ids in completion_ids]


def everything(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Return every sequence equally often per prompt, as samples of the uniform law."""
    first = trainer.accelerator.process_index * len(prompts)
    picked = [SEQUENCES[(first + i) % N] for i in range(len(prompts))]
    return {
        "prompt_ids": [ids_of(prompt) for prompt in prompts],
        "completion_ids": picked,
        "logprobs": [[-math.log(N)] + [0.0] * (len(ids) - 1) for ids in picked],
    }


def log_probs(model: PreTrainedModel, prompt: str) -> Tensor:
    """Return log pi of all sequences of a prompt: alone, without padding, position by position."""
    scorer = lm_tiny.NaiveScorer(model, lm_tiny.IDENTITY)
    return torch.stack([scorer.log_prob(ids_of(prompt), ids) for ids in SEQUENCES])


def log_scores(
    log_ref: Tensor, score: Callable[..., list[float]], *, verifier: bool = False
) -> Tensor:
    """Return log P of all sequences."""
    values = torch.tensor(score(SEQUENCES), dtype=torch.float64)
    if verifier:
        return log_ref.masked_fill(values == 0, -math.inf)
    # TRL keeps rewards in float32.
    return log_ref + values.float().double() / BETA


def wide(folder: str, start: str | None = None) -> Any:
    """Load a model in float64, in evaluation mode."""
    return AutoModelForCausalLM.from_pretrained(start or folder, dtype=torch.float64).eval()


def columns(
    folder: str, score: Callable[..., list[float]], *, verifier: bool = False
) -> list[float]:
    """Return the exact log Z of each prompt."""
    base = wide(folder)
    with torch.no_grad():
        scores = [log_scores(log_probs(base, p), score, verifier=verifier) for p in PROMPTS]
    return [float(torch.logsumexp(one, 0)) for one in scores]


def exact_gradient(
    policy: Any,
    folder: str,
    divergence: str,
    score: Callable[..., list[float]] = reward,
    *,
    verifier: bool = False,
    prompts: Sequence[str] = PROMPTS,
) -> dict[str, Tensor]:
    """Differentiate the mean of D_f over the prompts, from its definition, in float64."""
    base, total = wide(folder), torch.zeros((), dtype=torch.float64)
    for prompt in prompts:
        with torch.no_grad():
            log_score = log_scores(log_probs(base, prompt), score, verifier=verifier)
        log_target = log_score - torch.logsumexp(log_score, 0)
        value = textbook(divergence, log_probs(policy, prompt), log_target)
        total = total + value / len(prompts)
    _ = total.backward()
    return {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}


class KeepGradient(TrainerCallback):
    """Keeps the gradient of the first step, in float64."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if not self.found:
            model = more["model"]
            self.found = {
                name.replace("module.", ""): p.grad.double().clone()
                for name, p in model.named_parameters()
                if p.grad is not None
            }


def settings(folder: Path | str, **changes: Any) -> FDPGConfig:
    """Return the settings of one exact step over all sequences of all prompts."""
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": N * len(PROMPTS),
        "num_generations": N,
        "max_completion_length": LIMIT,
        "max_steps": 1,
        "beta": BETA,
        "partition": "column",
        "baseline": "none",
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "shuffle_dataset": False,
        "seed": 3,
    }
    return FDPGConfig(**(options | changes))


def trainer_of(
    folder: str,
    args: FDPGConfig,
    *,
    model: Any = None,
    rewards: Any = reward,
    prompts: Sequence[str] = PROMPTS,
    **more: Any,
) -> FDPGTrainer:
    """Return a trainer on the prompts, with the exact log Z as a column."""
    verifier = args.target == "verifier"
    exact = columns(folder, passes if verifier else reward, verifier=verifier)
    rows = {"prompt": list(prompts), "log_z": [exact[PROMPTS.index(p)] for p in prompts]}
    more.setdefault("rollout_func", everything)
    more.setdefault("train_dataset", Dataset.from_dict(rows))
    start = folder if model is None else model
    return FDPGTrainer(start, passes if verifier else rewards, args, **more)


def one_step(trainer: Any) -> dict[str, Tensor]:
    """Train one step and return its gradient."""
    keep = KeepGradient()
    trainer.add_callback(keep)
    _ = trainer.train()
    return keep.found


def error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Return the relative error of a gradient over all weights."""
    assert found.keys() == exact.keys()
    difference = sum(float((found[n] - exact[n]).square().sum()) for n in exact)
    return math.sqrt(difference / sum(float(exact[n].square().sum()) for n in exact))


def divergence_at(policy: Any, folder: str, name: str) -> float:
    """Return the exact divergence, averaged over the prompts."""
    base, total = wide(folder), 0.0
    for prompt in PROMPTS:
        with torch.no_grad():
            log_score = log_scores(log_probs(base, prompt), reward)
            log_target = log_score - torch.logsumexp(log_score, 0)
            value = textbook(name, log_probs(policy, prompt).double(), log_target)
        total += float(value) / len(PROMPTS)
    return total
