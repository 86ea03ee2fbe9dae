"""A second family of policies, made here, goes through the loop as it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lm.config import (
    CheckpointConfig,
    EvaluationConfig,
    OptimizerConfig,
    PartitionConfig,
    PromptsConfig,
    ProposalConfig,
    RunConfig,
    SamplingConfig,
    TargetConfig,
)
from lm.errors import RunError
from lm.features import feature
from lm.models.completions import completion_mask
from lm.models.token_ids import TokenIds
from lm.models.vocabulary import IdVocabulary
from lm.policy import Policy
from lm.policy.causal.sampling import invert_cdf
from lm.policy.prompts import Prompts
from lm.policy.samples import Samples
from lm.policy.transforms import IDENTITY, transformed_log_probs
from lm.train import train

SIZE, WIDTH, LIMIT, BOS, EOS = 6, 8, 4, 0, 1


@feature("share_of_threes")
def share_of_threes(tokens):
    return [row.count(3) / len(row) for row in tokens]


class EncoderDecoder(nn.Module):
    """Encodes a context as one state, from which a recurrent decoder writes the completion."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SIZE, WIDTH)
        self.encoder = nn.Linear(WIDTH, WIDTH)
        self.decoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, SIZE)

    def logits(self, read: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """Return the logits after the start and after each token that was read."""
        share = context_mask.to(self.head.weight) / context_mask.sum(-1, keepdim=True)
        state = torch.tanh(self.encoder((share[..., None] * self.embedding(context)).sum(1)))
        read = nn.functional.pad(read, (1, 0), value=BOS)
        return self.head(self.decoder(self.embedding(read), state[None].contiguous())[0])


class Scorer(nn.Module):
    """What the loop wraps: log pi of completions."""

    def __init__(self, model: EncoderDecoder, transform: SamplingConfig) -> None:
        super().__init__()
        self.model, self.transform = model, transform

    def law(self, read: Tensor, prompts: Prompts) -> Tensor:
        return transformed_log_probs(self.model.logits(read, *prompts), self.transform).log_probs

    def forward(self, tokens: Tensor, mask: Tensor, prompt: Tensor, prompt_mask: Tensor) -> Tensor:
        law = self.law(tokens[:, :-1], Prompts(prompt, prompt_mask))
        chosen = law.gather(-1, tokens[..., None]).squeeze(-1)
        return chosen.where(mask, 0.0).sum(-1)


class EncoderDecoderPolicy(Policy):
    def __init__(self, model: EncoderDecoder, transform: SamplingConfig = IDENTITY) -> None:
        self.scorer: Any = Scorer(model, transform)
        self.max_new_tokens = LIMIT
        # Padding is the end token: it must count once.
        self.ids = TokenIds(BOS, (EOS,), EOS, LIMIT)

    @property
    def model(self) -> EncoderDecoder:
        return self.scorer.model

    @property
    def transform(self) -> SamplingConfig:
        return self.scorer.transform

    @property
    def vocabulary_size(self) -> int:
        return SIZE

    @property
    def vocabulary(self) -> IdVocabulary:
        return IdVocabulary(BOS, (EOS,), SIZE)

    def _contexts(self, prompts: Prompts | None, n: int) -> Prompts:
        return Prompts.from_ids([[BOS]]).repeat(n) if prompts is None else prompts

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        prompts: Prompts | None = None,
        rows: slice | None = None,
    ) -> Samples:
        count = n if prompts is None else n * len(prompts.tokens)
        uniforms = torch.rand((count, LIMIT), generator=generator, dtype=torch.float64)
        share = torch.arange(count)[rows or slice(None)]
        given = None if prompts is None else prompts.rows(share // n)
        contexts, tokens = self._contexts(given, len(share)), torch.empty(len(share), 0).long()
        for place in range(LIMIT):
            law = self.scorer.law(tokens, contexts)[:, -1]
            tokens = torch.cat([tokens, invert_cdf(law, uniforms[share, place])[:, None]], dim=-1)
        mask = completion_mask(tokens, (EOS,))
        tokens = tokens.where(mask, EOS)
        log_prob = self.scorer(tokens, mask, *contexts)
        return Samples(tokens, mask, log_prob, given, self.transform)

    def log_prob(self, tokens: Tensor, mask: Tensor, *, prompts: Prompts | None = None) -> Tensor:
        return self.scorer(tokens, mask, *self._contexts(prompts, len(tokens)))

    def token_log_probs(self, samples: Samples) -> Tensor:
        contexts = self._contexts(samples.prompts, len(samples.tokens))
        return self.scorer.law(samples.tokens[:, :-1], contexts)

    def numbers_per_row(self, context_length: int) -> float:
        return context_length + LIMIT * SIZE

    def with_model(self, model: Any) -> Self:
        return type(self)(model, self.transform)

    def with_transform(self, transform: SamplingConfig) -> Self:
        return type(self)(self.model, transform)

    def save(self, folder: Any) -> None:
        save_file(self.model.state_dict(), Path(folder) / "weights.safetensors")


def _base() -> EncoderDecoderPolicy:
    with torch.random.fork_rng(devices=[]):
        _ = torch.manual_seed(0)
        return EncoderDecoderPolicy(EncoderDecoder().double())


def _config(folder: Path, **changes: Any) -> RunConfig:
    options: dict[str, Any] = {
        "target": TargetConfig(kind="reward_tilted", reward={"share_of_threes": 4.0}, beta=1.0),
        "divergence": "jensen_shannon",
        "partition": PartitionConfig(samples=512),
        "optimizer": OptimizerConfig(lr=3e-2),
        "evaluation": EvaluationConfig(every=15, samples=512, group=64),
        "steps": 30,
        "batch_size": 64,
        "precision": "float64",
        "report": False,
        "device": "cpu",
    }
    return RunConfig(output=str(folder), **(options | changes))


def _records(folder: Path) -> list[dict[str, Any]]:
    return list(map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines()))


@pytest.mark.parametrize("variant", ["start token", "prompts", "memories"])
def test_another_family_is_trained_by_the_loop(tmp_path, variant):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("2 3\n4\n5 2 4\n", "utf-8")
    changes: dict[str, Any] = {
        "start token": {},
        "prompts": {
            "prompts": PromptsConfig(file=str(prompts), per_step=2),
            "micro_batch_size": 24,
        },
        "memories": {
            "proposal": ProposalConfig("kl_adaptive", every=5),
            "sampling": SamplingConfig(temperature=1.3),
            "optimizer": OptimizerConfig(lr=3e-2, average=0.5),
        },
    }[variant]
    base = _base()
    folder = train(_config(tmp_path / "run", **changes), base=base)
    before, *_, after = [record for record in _records(folder) if record["kind"] == "evaluation"]
    distances = [record["estimates"]["jensen_shannon"]["sampled"] for record in (before, after)]
    # Below half by 5 standard errors, added since both look at the same samples of the base.
    error = distances[1]["standard_error"] + 0.5 * distances[0]["standard_error"]
    assert distances[1]["value"] + 5 * error < 0.5 * distances[0]["value"]
    stored = load_file(folder / "policy" / "weights.safetensors")
    assert any(not torch.equal(stored[k], v) for k, v in base.model.state_dict().items())


def test_its_interrupted_run_goes_on_bit_by_bit(tmp_path):
    saved = CheckpointConfig(every=5)
    unbroken = train(_config(tmp_path / "one", steps=10, checkpoint=saved), base=_base())

    def stop(record):
        if record.step == 7:
            raise RuntimeError("enough")

    config = _config(tmp_path / "two", steps=10, checkpoint=saved, resume=True)
    with pytest.raises(RuntimeError, match="enough"):
        _ = train(config, base=_base(), on_step=stop)
    steps = []
    resumed = train(config, base=_base(), on_step=lambda record: steps.append(record.step))
    # From the checkpoint after step 5 on, not from the beginning.
    assert steps == [6, 7, 8, 9, 10]
    assert _records(resumed) == _records(unbroken)


def test_what_it_cannot_do_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(RunError, match="EncoderDecoderPolicy cannot score in chunks: leave it out"):
        _ = train(_config(tmp_path / "run", score_chunk=4), base=_base())
    with pytest.raises(ValueError, match="EncoderDecoder is no model of transformers"):
        _ = train(_config(tmp_path / "run", activation_checkpointing=True), base=_base())
