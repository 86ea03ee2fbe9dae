"""A model as target: log p of texts under another policy over the same vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from lm.config import RunConfig
from lm.device.amp import Amp
from lm.errors import RunError
from lm.policy.drawing import rows_in_memory
from lm.policy.load import load_policy
from lm.policy.prompts import Prompts
from lm.policy.protocol import Policy
from lm.target.decoded import Reading

# Rows scored at once keep their states in the processor's cache.
CHUNK_ROWS = 512


def load_teacher(config: RunConfig, base: Policy) -> Policy:
    """Load the run's teacher where the base is, in its dtype and with its transform.

    Raises
    ------
    RunError
        It speaks in other tokens than the base, or allows another number of them.
    """
    teacher = load_policy(
        config.target.teacher or "",
        max_new_tokens=config.max_new_tokens,
        dtype=Amp(config.precision, str(base.device)).weights_dtype,
        device=str(base.device),
        transform=base.transform,
    )
    check_teacher(teacher, base)
    return teacher


def check_teacher(teacher: Policy, base: Policy) -> None:
    """Raise a RunError unless the teacher speaks in the base's tokens and allows as many.

    Parameters
    ----------
    teacher, base
        Loaded for the same run, with the same length limit and sampling transform.
    """
    difference = _difference(teacher, base)
    if difference:
        raise RunError(
            f"target.teacher has another vocabulary than the model that is trained ({difference}), "
            "so that a sequence of one is none of the other: take a teacher with the same tokenizer"
        )
    if teacher.max_new_tokens != base.max_new_tokens:
        raise RunError(
            f"target.teacher stops after {teacher.max_new_tokens} tokens and the model after "
            f"{base.max_new_tokens}: set max_new_tokens, which holds for both"
        )


def _difference(teacher: Policy, base: Policy) -> str:
    """Return the first difference of two vocabularies in words; an empty text if there is none."""
    theirs, ours = teacher.vocabulary.token_ids, base.vocabulary.token_ids
    for token in [*ours, *theirs]:
        if theirs.get(token) != ours.get(token):
            return f"the id of {token!r} is {theirs.get(token)} there and {ours.get(token)} here"
    # Their order means nothing.
    roles = {
        "end tokens": (set(teacher.ids.eos_ids), set(base.ids.eos_ids)),
        "start token": ({teacher.ids.bos_id}, {base.ids.bos_id}),
    }
    for role, (there, here) in roles.items():
        if there != here:
            return f"the {role} are {sorted(there)} there and {sorted(here)} here"
    # Models of one family pad their embeddings to different sizes; a longer one can read all ids.
    if teacher.vocabulary_size < base.vocabulary_size:
        return f"it has {teacher.vocabulary_size} ids and the model {base.vocabulary_size}"
    return ""


@torch.no_grad()
def teacher_log_prob(teacher: Policy, reading: Reading) -> Tensor:
    """Return log p(x) of texts under a teacher.

    Parameters
    ----------
    teacher
        Frozen, over the vocabulary that the tokens belong to.
    reading
        n texts.

    Returns
    -------
    Tensor
        Shape (n,), nats, in the teacher's precision.
    """
    rows = [torch.tensor(row) for row in reading.tokens]
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.nn.utils.rnn.pad_sequence(
        rows, batch_first=True, padding_value=teacher.ids.pad_id
    )
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    prompts, context = None, 1
    if any(reading.prompts):
        ids = teacher.vocabulary.encode_prompts(reading.prompts)
        prompts = Prompts.from_ids(ids, pad_id=teacher.ids.pad_id)
        context = prompts.tokens.shape[1]
    parts = []
    # Texts of like length together, so that little is computed on padding.
    order = torch.argsort(lengths, stable=True)
    for some in order.split(min(CHUNK_ROWS, rows_in_memory(teacher, context))):
        longest = int(lengths[some].max())
        own = None if prompts is None else prompts.rows(some)
        parts.append(teacher.log_prob(tokens[some, :longest], mask[some, :longest], prompts=own))
    return torch.cat(parts)[torch.argsort(order)]
