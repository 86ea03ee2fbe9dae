"""Log-probabilities of tokens in bounded memory: never the logits of all positions at once.

At 8,192 tokens and 150,000 ids the logits alone take 4.6 GiB in float32, their log-softmax as much
again, and so does its gradient. Here a chunk of positions passes the head at a time. A head that
is trained is passed again in the backward pass. Of a frozen one, as under an adapter, the slope of
each log-probability is kept, a row as wide as the hidden state, and nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lm.config.sampling import SamplingConfig
from lm.errors import RunError
from lm.policy.transforms import IDENTITY, transformed_log_probs

# From hidden states and tokens to the tokens' log-probabilities.
_Values = Callable[[Tensor, Tensor], Tensor]


class UnsupportedHead(RunError):
    """A model whose logits are not what its head makes of the last hidden states."""


def chunked_log_probs(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    chunk: int,
    transform: SamplingConfig = IDENTITY,
) -> Tensor:
    """Return the log-probability of one token at each position, differentiable.

    log q(v) = l_v / tau - log sum_{w in K} exp(l_w / tau) with logits l = head(hidden), in float32
    or wider whatever the dtype of the head and of autocast.

    Parameters
    ----------
    hidden
        Shape (m, width): the last hidden state at each position.
    head
        From hidden states to logits; its parameters take gradients too. `require_plain_head` checks
        that a model has such a head.
    targets
        Shape (m,), int64.
    chunk
        How many positions pass the head at a time: some three chunk x vocabulary arrays live at
        once.
    transform
        Of the policy.

    Returns
    -------
    Tensor
        Shape (m,), nats; -inf for a token that the transform cuts.

    Raises
    ------
    ValueError
        Shapes do not fit, or the chunk is not positive.
    """
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1]:
        raise ValueError(
            "hidden states (m, width) and targets (m,) are needed, got "
            f"{tuple(hidden.shape)} and {tuple(targets.shape)}"
        )
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}: it must be at least 1")

    def log_probs_of(part: Tensor, chosen: Tensor) -> Tensor:
        log_probs = transformed_log_probs(head(part), transform).log_probs
        return log_probs.gather(-1, chosen[:, None]).squeeze(-1)

    pieces = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    # In 16 bits a slope that no coefficient has scaled yet would lose its small entries.
    wide = hidden.dtype in {torch.float32, torch.float64}
    if wide and hidden.requires_grad and is_frozen(head):
        return torch.cat([_WithSlope.apply(*piece, log_probs_of) for piece in pieces])
    # Nothing random happens in a head, so there is no random state to keep for the recomputation.
    return torch.cat(
        [
            checkpoint(log_probs_of, *piece, use_reentrant=False, preserve_rng_state=False)
            for piece in pieces
        ]
    )


class _WithSlope(torch.autograd.Function):
    """Values with one row of input each, whose gradients are taken while they are computed."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, chosen: Tensor, function: _Values) -> Tensor:
        """Return function(part, chosen), shape (m,): a value for each row of part."""
        with torch.enable_grad():
            part = part.detach().requires_grad_()
            values = function(part, chosen)
            (slope,) = torch.autograd.grad(values.sum(), part)
        ctx.save_for_backward(slope)
        return values.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Scale each row's slope."""
        (slope,) = ctx.saved_tensors
        return grads[0][:, None] * slope, None, None


def is_frozen(head: nn.Module) -> bool:
    """Return whether no parameter of a head takes gradients."""
    return not any(weights.requires_grad for weights in head.parameters())


def body_and_head(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    """Return the part of a model that ends in hidden states, and the head after it.

    Raises
    ------
    UnsupportedHead
        The model is not made of such two parts.
    """
    body, head = model.base_model, model.get_output_embeddings()
    if head is None or body is model:
        raise UnsupportedHead(_refusal(model, "it has no separate head"))
    return body, head


@torch.no_grad()
def require_plain_head(model: PreTrainedModel) -> None:
    """Raise unless a model's logits are head(hidden), found out on one input.

    Some architectures scale hidden states or logits, or cap logits by a tanh (Gemma 2, Cohere,
    Granite). A small model's logits are too small to show a cap, so the head's output is magnified
    on its way for the test: whatever is done to it afterwards shows then.

    Parameters
    ----------
    model
        A causal model.

    Raises
    ------
    UnsupportedHead
        Something happens before or after the head; the memory-bounded path would leave it out.
    """
    body, head = body_and_head(model)
    seen: dict[str, Tensor] = {}

    def keep_hidden(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen["hidden"] = output.last_hidden_state

    def magnify(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["input"] = inputs[0]
        seen["output"] = output * (1e4 / output.abs().max().clamp(min=1e-30))
        return seen["output"]

    hooks = [body.register_forward_hook(keep_hidden), head.register_forward_hook(magnify)]
    try:
        device = next(model.parameters()).device
        logits = model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=device)).logits
    finally:
        for hook in hooks:
            hook.remove()
    if seen.keys() != {"hidden", "input", "output"}:
        raise UnsupportedHead(_refusal(model, "its forward does not call its head"))
    if not torch.equal(seen["input"], seen["hidden"]):
        raise UnsupportedHead(_refusal(model, "it changes the hidden states before its head"))
    if not torch.equal(logits, seen["output"].to(logits.dtype)):
        raise UnsupportedHead(_refusal(model, "it scales or caps the logits after its head"))


def has_plain_head(model: PreTrainedModel) -> bool:
    """Return whether `require_plain_head` lets a model pass."""
    try:
        require_plain_head(model)
    except UnsupportedHead:
        return False
    return True


def _refusal(model: PreTrainedModel, reason: str) -> str:
    return (
        f"score_chunk does not work with {type(model).__name__}: {reason}. Leave score_chunk out; "
        "a smaller micro_batch_size bounds the memory as well"
    )
