"""Train a model of Python functions: bytes in pairs as tokens, cached by configuration."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lm.code_models.functions import Functions, library_functions, signatures
from lm.config.base import DEFAULT_CACHE
from lm.config.code_model import WIDTH_OF_A_HEAD, CodeConfig
from lm.errors import RunError, reason_of
from lm.features.registry import feature_values
from lm.models.folder import atomic_folder, build_gpt2
from lm.models.token_ids import TokenIds
from lm.models.tokenizer import TokenizerVocabulary
from lm.phases import phase
from lm.policy.causal import CausalPolicy
from lm.training.base import learning_rate_factor

FACTS_FILE = "code.json"
# Prompts for the body given the signature: of functions that were learnt, and of those held out.
SIGNATURES, HELD_OUT = "signatures.txt", "held_out.txt"
END, END_ID = "<|end|>", 0
# A line break with its indentation, words, numbers and signs: no token joins two of them, so that
# a signature has the same tokens alone as before its body.
_PIECES = r"\n *| ?[A-Za-z_]+| ?[0-9]+| ?[^\sA-Za-z0-9_]+|\s+"
# So many batches are cut from functions that are sorted by length, for less padding.
SORTED_BATCHES = 16
SAMPLES = 512


@dataclass(frozen=True)
class CodeFacts:
    """What is known of a model of functions.

    Parameters
    ----------
    python
        The version whose library was read.
    functions, held_out
        How many were learnt from, and how many held out.
    sha256
        Of the list of both.
    nats_per_character
        Cross-entropy of the functions held out, end tokens included, over their characters.
    compiles
        Share of 512 samples that Python's compiler accepts.
    """

    python: str
    functions: int
    held_out: int
    sha256: str
    nats_per_character: float
    compiles: float


def train_code(config: CodeConfig, *, cache: Path = DEFAULT_CACHE) -> Path:
    """Train the model of a configuration, or find it in the cache.

    Parameters
    ----------
    config
        Size, tokenizer and training.
    cache
        The folder appears in it complete or not at all.

    Returns
    -------
    Path
        A model folder for `load_policy`, with code.json (the configuration and `CodeFacts`),
        signatures.txt and held_out.txt.
    """
    folder = config.folder(cache)
    if folder.exists():
        return folder

    functions = library_functions(config.characters)
    with phase("learning the tokens"):
        tokenizer = train_tokenizer(functions.learnt, config.vocabulary)
    functions = Functions(*(_short(tokenizer, part, config) for part in functions))
    if not functions.learnt or not functions.held_out:
        raise RunError(
            f"max_new_tokens is {config.max_new_tokens}: of the functions that fit, "
            f"{len(functions.learnt)} are learnt and {len(functions.held_out)} held out, and "
            "neither may be none: raise it"
        )

    policy = _new_policy(config, tokenizer)
    _fit(policy, _rows(tokenizer, functions.learnt), config)
    facts = _facts(policy.frozen_copy(), tokenizer, functions, config.seed)

    # Facts and prompts lie beside the model.
    with atomic_folder(folder) as partial:
        policy.save(partial)
        content = {"config": asdict(config), "facts": asdict(facts)}
        (partial / FACTS_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for name, part in zip((SIGNATURES, HELD_OUT), functions, strict=True):
            lines = "".join(f"{line}\n" for line in signatures(part))
            (partial / name).write_text(lines, encoding="utf-8")
    return folder


def train_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Learn which pairs of bytes to merge.

    Parameters
    ----------
    texts
        What is learnt from.
    size
        Number of tokens at most.

    Returns
    -------
    PreTrainedTokenizerFast
        Every text has tokens, and a start token before them.
    """
    # How a text is cut before pairs are looked for, and put together again.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()

    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)

    # A document begins with the token that ends one.
    tokenizer.post_processor = TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A $B", special_tokens=[(END, END_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END
    )


def read_code_facts(folder: Path) -> CodeFacts:
    """Read the facts that `train_code` stored beside a model; a RunError if they are damaged."""
    path = folder / FACTS_FILE
    try:
        return CodeFacts(**json.loads(path.read_text(encoding="utf-8"))["facts"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(
            f"{path} does not hold the facts of a code model ({reason_of(error)}): delete "
            f"{folder}, and the model is trained again"
        ) from error


def _new_policy(config: CodeConfig, tokenizer: PreTrainedTokenizerFast) -> CausalPolicy:
    size, ids = len(tokenizer), TokenIds(END_ID, (END_ID,), END_ID)
    model = build_gpt2(
        vocabulary_size=size,
        positions=2 * config.max_new_tokens,  # room for a signature before a body
        layers=config.layers,
        width=config.width,
        heads=config.width // WIDTH_OF_A_HEAD,
        seed=config.seed,
    )
    return CausalPolicy(
        model,
        bos_id=END_ID,
        eos_ids=(END_ID,),
        pad_id=END_ID,
        max_new_tokens=config.max_new_tokens,
        vocabulary=TokenizerVocabulary(tokenizer, ids, size),
    )


def _short(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], config: CodeConfig
) -> list[str]:
    """Return the texts that fit the length limit with their end token."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [t for t, row in zip(texts, rows, strict=True) if len(row) < config.max_new_tokens]


def _rows(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of texts, each with its end token."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [[*row, END_ID] for row in rows]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(lengths.max())), END_ID)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
    return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


def _batches(
    rows: list[list[int]], config: CodeConfig
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Yield numbered batches of random functions, those of a batch of similar lengths."""
    generator = torch.Generator().manual_seed(config.seed)
    step = 0
    while True:
        order = torch.randperm(len(rows), generator=generator).tolist()
        width = SORTED_BATCHES * config.batch_size
        blocks = [order[start : start + width] for start in range(0, len(order), width)]
        for block in blocks:
            block.sort(key=lambda place: len(rows[place]))
            starts = range(0, len(block), config.batch_size)
            for start in torch.randperm(len(starts), generator=generator).tolist():
                places = block[starts[start] : starts[start] + config.batch_size]
                step += 1
                yield step, _padded([rows[place] for place in places])
                if step == config.steps:
                    return


def _fit(policy: CausalPolicy, rows: list[list[int]], config: CodeConfig) -> None:
    """Minimise the cross-entropy of the functions' tokens with Adam."""
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=config.learning_rate, weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, config.steps)
    )
    with phase("training the code model", config.steps) as progress:
        for step, (tokens, mask) in _batches(rows, config):
            loss = -policy.log_prob(tokens, mask).sum() / mask.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress.update(step, words=f"{float(loss.detach()):.2f} nats per token")


@torch.no_grad()
def _facts(
    policy: CausalPolicy, tokenizer: PreTrainedTokenizerFast, functions: Functions, seed: int
) -> CodeFacts:
    with phase("measuring the code model"):
        rows, total = _rows(tokenizer, functions.held_out), 0.0
        for start in range(0, len(rows), SAMPLES):
            total -= float(policy.log_prob(*_padded(rows[start : start + SAMPLES])).double().sum())
        samples = policy.sample(SAMPLES, generator=torch.Generator().manual_seed(seed))
        texts = policy.vocabulary.decode(samples.tokens, samples.mask)
        return CodeFacts(
            python=platform.python_version(),
            functions=len(functions.learnt),
            held_out=len(functions.held_out),
            sha256=functions.sha256,
            nats_per_character=total / sum(map(len, functions.held_out)),
            compiles=float(feature_values(("valid_python",), texts).mean()),
        )
