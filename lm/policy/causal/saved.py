"""After a save: the folder, loaded again, must be the policy that was saved."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lm.errors import RunError
from lm.models.folder import load_model
from lm.models.positions import usable_positions
from lm.models.token_ids import load_ids
from lm.policy.checks import USUAL_SIZE, computing_precision, same_law_tolerance
from lm.policy.protocol import Policy
from lm.policy.samples import Samples
from lm.policy.transforms import IDENTITY

# Samples that are scored twice, and how long they may be: a handful tells two models apart.
SAMPLES, LENGTH = 8, 16


class WrongSave(RunError):
    """A folder that does not hold the policy which was written to it."""


@torch.no_grad()
def check_saved(policy: Policy, folder: Path) -> None:
    """Raise unless a folder gives samples of a policy the log-probabilities that the policy gives.

    The model is loaded once more, on the CPU, and freed. Merging an adapter rounds each weight, and
    another device adds in another order: both move a log-probability by the roundoff of the stored
    dtype of the logits, times the square root of the number of tokens (`lm.policy.checks`).

    Parameters
    ----------
    policy
        As it is in memory, with or without an adapter.
    folder
        What its `save` wrote.

    Raises
    ------
    WrongSave
        The folder is another policy; the message says how far it is from this one.
    """
    reloaded = load_model(folder, dtype=None)
    stored = load_ids(folder, reloaded.config)
    if stored != policy.ids:
        raise WrongSave(_message(folder, f"its token ids are {stored} and not {policy.ids}"))

    # Samples of the law without a transform, whose edges rounding may move a token over.
    ours = policy.with_model(policy.model).with_transform(IDENTITY)
    theirs = ours.with_model(reloaded)
    room = usable_positions(policy.model.config).number or LENGTH
    ours.max_new_tokens = theirs.max_new_tokens = min(LENGTH, room)
    samples = ours.sample(SAMPLES, generator=torch.Generator().manual_seed(0))

    # Both score: the sampler's rounding is no part of the question.
    here, there = (each.score(samples).cpu() for each in (ours, theirs))
    precisions = {computing_precision(each.model) for each in (ours, theirs)}
    lengths = samples.mask.sum(-1).cpu()
    allowed = torch.stack([same_law_tolerance(name, lengths) for name in precisions]).amax(0)
    allowed = allowed * (_logit_size(theirs, samples) / USUAL_SIZE).clamp(min=1.0)
    share = (here - there).abs() / allowed
    # A NaN is a mismatch, and the worst one.
    worst = int(share.where(~share.isnan(), torch.inf).argmax())
    if not bool(share[worst] <= 1.0):
        raise WrongSave(
            _message(
                folder,
                f"it gives a sample {float(there[worst]):.4f} nats where the policy gives it "
                f"{float(here[worst]):.4f} (rounding explains {float(allowed[worst]):.1g})",
            )
        )


def _logit_size(policy: Policy, samples: Samples) -> Tensor:
    """Return the largest of the two numbers whose difference is a log-probability; shape (n,).

    Only the model's own numbers show it: many a model adds a large constant to all its logits.
    """
    tokens, mask = samples.tokens.cpu(), samples.mask.cpu()
    start = torch.full_like(tokens[:, :1], policy.ids.bos_id)
    inputs = torch.cat([start, tokens[:, :-1]], dim=-1)
    logits = policy.model(input_ids=inputs, use_cache=False).logits.double()
    chosen = logits.gather(-1, tokens[..., None])[..., 0].abs()
    total = torch.logsumexp(logits, dim=-1).abs()
    return torch.maximum(chosen, total).where(mask, 0.0).amax(-1)


def _message(folder: Path, found: str) -> str:
    return (
        f"{folder}, loaded again, is not the policy that was saved: {found}. Do not use it. The "
        "checkpoints are right and stay; with lora.targets, leave out layers that share their "
        "weights with another layer, else report the model's config.json"
    )
