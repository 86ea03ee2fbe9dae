"""Whether a model has one law of the next token, found out by a few small forward passes.

The sampler reads token by token, with a cache, beside rows of other lengths; the scorer reads whole
sequences at once. If a law looks at later tokens, at neighbours, at padding or at what the model
was asked before, the two are different distributions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm.errors import is_out_of_memory
from lm.models.positions import usable_positions
from lm.policy.causal.sampling import Lines
from lm.policy.causal.scoring import TokenScorer
from lm.policy.checks import SAME_LAW_TOLERANCE, USUAL_LAYERS, USUAL_SIZE, computing_precision
from lm.policy.prompts import Prompts
from lm.policy.transforms import wide_log_softmax

# Tokens of the row that is looked at; its neighbour has one more.
LENGTH = 8
# Log of a millionth, in nats: a token less probable than that is hardly ever in a sample.
RARE = -13.8


@torch.no_grad()
def law_fault(model: PreTrainedModel) -> str:
    """Return why a model cannot be sampled and scored, in words; an empty text if it can.

    Four forward passes over two rows of at most eight tokens. The streams of random numbers stay as
    they are. A fault passes that changes the law by less than rounding may (`SAME_LAW_TOLERANCE`):
    5e-5 nats in float32, but 0.4 in bfloat16.

    Parameters
    ----------
    model
        A causal language model of transformers.
    """
    try:
        return _fault(model)
    # Whatever an architecture raises on a few tokens, it would raise on the first batch.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        dtype = next(model.parameters()).dtype
        return f"a forward pass over a few tokens fails in {dtype} ({reason}){_advice(dtype)}"


@torch.no_grad()
def rounding_of(model: PreTrainedModel, bos_id: int) -> float:
    """Return how many times the rounding of a small model a model's log-probabilities show.

    Rounding moves a log-probability by some roundoffs of a logit's size, and each layer adds its
    own, like the steps of a random walk. SmolLM2 with 30 layers and logits of 40 gives a sequence
    of twelve tokens 1e-3 nats that float64 does not, with one law token by token and at once. Only
    logits of tokens that may be written count: -1e9 on a forbidden one enters no log-probability.

    Parameters
    ----------
    model
        A causal language model of transformers.
    bos_id
        Begins the few tokens that are looked at: many a model is loudest on its first token.
    """
    config = model.config.get_text_config()
    positions = usable_positions(model.config).number
    length = LENGTH if positions is None else min(LENGTH, positions)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (1, length), generator=random)
    tokens[0, 0] = bos_id
    output: Any = model(input_ids=tokens.to(next(model.parameters()).device), use_cache=False)
    # Tokens that can never follow have logits of -inf or nearly so. A NaN is `law_fault`'s.
    logits = output.logits.double()
    written = logits.log_softmax(-1) > RARE
    size = float(logits.abs().where(written, 0.0).max())
    depth = getattr(config, "num_hidden_layers", None) or USUAL_LAYERS
    return max(1.0, size / USUAL_SIZE) * max(1.0, depth / USUAL_LAYERS) ** 0.5


def _fault(model: PreTrainedModel) -> str:
    positions = usable_positions(model.config).number
    length = LENGTH if positions is None else min(LENGTH, positions)
    size = model.config.get_text_config().vocab_size
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(size, (2, length + 1), generator=random)
    tokens = tokens.to(next(model.parameters()).device)

    # The law of a row, and of the same row with another last token.
    changed = tokens[0, :length].clone()
    changed[-1] = (changed[-1] + 1) % size
    rows = torch.stack([tokens[0, :length], changed])
    plain, other = _plain_laws(model, rows)
    if bool(plain.isnan().any()):
        return _not_finite(model)
    if gap := _gap(model, plain[:-1], other[:-1]):
        return (
            f"a later token changes the law of an earlier one (by {gap:.3g} nats), so it does not "
            "read from left to right: take a causal model"
        )
    return "" if length < 2 else _parting(model, rows, tokens[1], plain)


def _parting(model: PreTrainedModel, rows: Tensor, longer: Tensor, plain: Tensor) -> str:
    """Return where the laws of sampler and scorer part from the plain one, and why."""
    # The sampler's law: the first half beside a longer row, then, when that has left the batch, one
    # more token with the cache.
    half = rows.shape[1] // 2
    prompts = Prompts.from_ids([longer[: half + 1].tolist(), rows[0, :half].tolist()])
    prompts = prompts.to(rows.device)
    lines = Lines(model, prompts)
    drawn = [wide_log_softmax(lines.next_logits()[1])]
    lines.extend(torch.ones(1, dtype=torch.int64, device=rows.device), rows[0, half : half + 1])
    # In the place of the neighbour: a state that the model keeps there would be the wrong one.
    drawn.append(wide_log_softmax(lines.next_logits()[0]))

    # The scorer's law: the whole row at once, beside the same one.
    scored = TokenScorer(model).law(rows[:1, half:].repeat(2, 1), prompts).log_probs[1]

    cached = _gap(model, torch.stack(drawn), plain[half - 1 : half + 1])
    padded = _gap(model, scored, plain[half - 1 : -1])
    if not (cached or padded):
        return ""
    if gap := _gap(model, _plain_laws(model, rows)[0], plain):
        return (
            f"asked the same twice it gives two laws ({gap:.3g} nats apart), so it keeps a state "
            "between calls: take an architecture whose state is its key-value cache"
        )
    if bool(scored.isnan().any()):
        dtype = next(model.parameters()).dtype
        return f"beside a longer row, padded, its probabilities are NaN in {dtype}{_advice(dtype)}"
    if padded:
        return (
            f"beside a longer row, padded, its law of a token is another one ({padded:.3g} nats): "
            "it reads padding or neighbours, or does not count positions from 0"
        )
    return (
        f"token by token with a key-value cache its law is another one than of the whole row "
        f"({cached:.3g} nats): take an architecture whose state is its key-value cache"
    )


def _advice(dtype: torch.dtype) -> str:
    # Some architectures compute a part in float32 whatever their weights are.
    return ": give --precision float32" if dtype == torch.float64 else ""


def _plain_laws(model: PreTrainedModel, rows: Tensor) -> Tensor:
    """Return the laws as the model gives them by itself, shape (rows, length, vocabulary)."""
    output: Any = model(input_ids=rows, use_cache=False)
    return wide_log_softmax(output.logits)


def _gap(model: PreTrainedModel, one: Tensor, other: Tensor) -> float:
    """Return how far two laws are apart in nats, at most; 0 if rounding explains it."""
    # Where both exclude a token they agree on it; NaN agrees with nothing.
    apart = (one - other).abs().where(one != other, 0.0)
    apart = apart.where(~apart.isnan(), torch.inf)
    size = torch.maximum(one.abs(), other.abs()).where(one.isfinite() & other.isfinite(), 0.0)
    # Weights of eight bits are multiplied in half precision.
    tolerance = SAME_LAW_TOLERANCE.get(computing_precision(model), SAME_LAW_TOLERANCE["bfloat16"])
    allowed = tolerance * (size.amax(-1, keepdim=True) / USUAL_SIZE).clamp(min=1.0)
    beyond = apart[apart > allowed]
    return float(beyond.max()) if len(beyond) > 0 else 0.0


def _not_finite(model: PreTrainedModel) -> str:
    names = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    if not names:
        dtype = next(model.parameters()).dtype
        return f"its probabilities are NaN though its weights are finite: {dtype} is too narrow"
    return (
        f"its probabilities are NaN, for {len(names)} of its weights hold NaN or infinity (the "
        f"first is {names[0]}): the file is damaged, or what wrote it had diverged"
    )
