"""Train a base model: a character GPT-2 on the census's first names, cached by configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm.config.base import DEFAULT_CACHE, BaseConfig
from lm.errors import RunError, reason_of
from lm.features.census import source_probabilities
from lm.models.folder import atomic_folder, build_gpt2
from lm.models.vocabulary import CharVocabulary
from lm.phases import each, phase
from lm.policy.causal import CausalPolicy
from lm.policy.checks import check_vocabulary
from lm.policy.load import load_policy
from lm.run.inputs import digest_of
from lm.run.owned import json_object
from lm.target.listed import ListedSupport

FACTS_FILE = "base.json"
# What was in the folder that a model was fine-tuned from.
START = "initial_sha256"
WARM_UP_STEPS = 50
PROGRESS_EVERY = 10

# Called with the step, the number of steps and the last batch's loss in nats per character.
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class BaseFacts:
    """What is known exactly about a trained base, from one pass over the list.

    Parameters
    ----------
    nats_per_character
        Cross-entropy of the source to the model over the mean length (end token included). The
        source is a known distribution, so that this is its expectation and not an estimate.
    source_nats_per_character
        Entropy of the source over the same length: no model gets below it.
    moments
        Exact expectations of the features that live on the list, by name.
    """

    nats_per_character: float
    source_nats_per_character: float
    moments: dict[str, float]


def train_base(
    config: BaseConfig, *, progress: Progress | None = None, cache: Path = DEFAULT_CACHE
) -> Path:
    """Train the base model of a configuration, or find it in the cache.

    The same configuration gives the same model on the same machine and library versions.

    Parameters
    ----------
    config
        Sizes, source and training.
    progress
        Called every few steps; not at all if the model is cached.
    cache
        The folder appears in it complete or not at all.

    Returns
    -------
    Path
        A model folder for `load_policy`, with base.json (the configuration and `BaseFacts`).

    Raises
    ------
    RunError
        The model to start from is of other sizes, or has changed since the cached one was made.
    """
    folder = config.folder(cache)
    start = Path(config.initial or "")
    given = config.initial is not None and start.exists()
    if folder.exists():
        if given:
            _require_same_start(start, folder)
        return folder
    content: dict[str, Any] = {"config": asdict(config)}
    if given:
        content[START] = digest_of(start.resolve())

    policy = _start(config)
    source = torch.from_numpy(source_probabilities(config.female_share))
    _fit(policy, source, config, progress)
    with phase("computing the exact figures of the base"):
        facts = base_facts(policy.frozen_copy(), config.female_share)
    with atomic_folder(folder) as partial:
        policy.save(partial)
        content["facts"] = asdict(facts)
        (partial / FACTS_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def _require_same_start(start: Path, folder: Path) -> None:
    """Raise a RunError if the model that a cached one was fine-tuned from is another one now."""
    # Earlier versions did not write down what it was.
    known = json_object(folder / FACTS_FILE).get(START)
    if known is not None and digest_of(start.resolve()) != known:
        raise RunError(
            f"{start} has changed since {folder} was fine-tuned from it: delete {folder}, and it "
            "is fine-tuned again"
        )


def base_facts(policy: CausalPolicy, female_share: float) -> BaseFacts:
    """Compute the exact figures of a model of the names.

    Parameters
    ----------
    policy
        A policy over the character vocabulary.
    female_share
        Of the source it is compared with.

    Returns
    -------
    BaseFacts
        Nats per character of model and source, and moments.
    """
    listed = ListedSupport(("listed", "female", "male", "ends_in_i"))
    source = torch.from_numpy(source_probabilities(female_share))
    log_prob = listed.log_prob(policy)
    length = float(source @ listed.mask.sum(-1).double())
    moments = listed.exact_moments(log_prob).tolist()
    return BaseFacts(
        nats_per_character=float(-source @ log_prob) / length,
        source_nats_per_character=float(torch.special.entr(source).sum()) / length,
        moments=dict(zip(listed.feature_names, moments, strict=True)),
    )


def batch_loss(policy: CausalPolicy, tokens: Tensor, mask: Tensor, draws: Tensor) -> Tensor:
    """Return the mean negative log-likelihood per character of a batch of names.

    Parameters
    ----------
    policy
        The model that is trained.
    tokens, mask
        Shape (names, length): all names.
    draws
        Shape (batch,): the names of the batch by index, with repetitions. A name drawn k times is
        scored once with weight k: the same gradient for half the work.

    Returns
    -------
    Tensor
        Scalar, nats per character (end tokens included).
    """
    rows, counts = draws.unique(return_counts=True)
    total = -(counts * policy.log_prob(tokens[rows], mask[rows])).sum()
    return total / mask[draws].sum()


def read_facts(folder: Path) -> BaseFacts:
    """Read the facts that `train_base` stored beside a model; a RunError if they are damaged."""
    path = folder / FACTS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return BaseFacts(**content["facts"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(
            f"{path} does not hold the facts of a base ({reason_of(error)}): delete {folder}, and "
            "the base is trained again"
        ) from error


def _start(config: BaseConfig) -> CausalPolicy:
    """Return the policy that training begins with: random, or a model of the same sizes."""
    if config.initial is None:
        return _new_policy(config)
    policy = load_policy(config.initial, max_new_tokens=config.max_new_tokens).trainable_copy()
    found = policy.config.get_text_config()
    sizes = (found.num_hidden_layers, found.hidden_size, found.num_attention_heads)
    if sizes != (config.layers, config.width, config.heads):
        raise RunError(
            f"initial {config.initial} has {sizes[0]} layers of width {sizes[1]} and {sizes[2]} "
            f"heads, the configuration {config.layers}, {config.width} and {config.heads}: they "
            "must agree"
        )
    check_vocabulary(policy.ids.letters, Path(config.initial))
    return policy


def _new_policy(config: BaseConfig) -> CausalPolicy:
    vocabulary = CharVocabulary()
    model = build_gpt2(
        vocabulary_size=len(vocabulary),
        positions=config.max_new_tokens,
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        seed=config.seed,
    )
    return CausalPolicy(
        model,
        bos_id=vocabulary.bos_id,
        eos_ids=(vocabulary.eos_id,),
        pad_id=vocabulary.pad_id,
        max_new_tokens=config.max_new_tokens,
        letters=vocabulary.letters,
    )


def _fit(
    policy: CausalPolicy, source: Tensor, config: BaseConfig, progress: Progress | None
) -> None:
    """Minimise the cross-entropy of batches from the source with Adam."""
    tokens, mask = CharVocabulary().encode(ListedSupport(("listed",)).names)
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, config.steps)
    )
    for step in each("training the base model", range(1, config.steps + 1)):
        draws = torch.multinomial(source, config.batch_size, replacement=True, generator=generator)
        loss = batch_loss(policy, tokens, mask, draws)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress is not None and (step % PROGRESS_EVERY == 0 or step == config.steps):
            progress(step, config.steps, float(loss.detach()))


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak rate at a step: a linear warm-up times a cosine to zero."""
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm_up * 0.5 * (1.0 + math.cos(math.pi * step / steps))
