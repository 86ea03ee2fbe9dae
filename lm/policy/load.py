"""From a model's folder or name to its policy: where another family than causal models enters."""

from __future__ import annotations

import os

import torch

from lm.config.sampling import SamplingConfig
from lm.errors import border
from lm.models.folder import load_model
from lm.models.hub import find_model
from lm.models.token_ids import ModelFolderError, load_ids
from lm.models.tokenizer import load_vocabulary
from lm.phases import phase
from lm.policy.causal import CausalPolicy
from lm.policy.transforms import IDENTITY


def load_policy(
    name_or_folder: str | os.PathLike[str],
    *,
    max_new_tokens: int | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    transform: SamplingConfig = IDENTITY,
) -> CausalPolicy:
    """Load a model as a frozen policy.

    Parameters
    ----------
    name_or_folder
        A local Hugging Face folder of a causal model, or its name on the hub
        (`lm.models.hub.find_model`); with fdpg_ref.json or with eos_token_id (and optionally
        bos_token_id and pad_token_id) in its configuration.
    max_new_tokens
        Length limit; None takes the folder's.
    dtype
        Of the weights; None keeps the stored one.
    device
        Where the weights go.
    transform
        The policy's sampling transform.

    Returns
    -------
    CausalPolicy
        Without gradients; `trainable_copy` gives one to train.

    Raises
    ------
    MissingModelFolder
        There is no such folder and no such model on the hub (a FileNotFoundError).
    ModelFolderError
        The folder cannot be used (a ValueError): remote code, pickled weights, foreign ids, no
        length limit.
    """
    path = find_model(name_or_folder)
    loading = f"loading the model {name_or_folder}"
    with (
        phase(loading),
        border(
            loading,
            "Its files are damaged, or this architecture cannot be used here: --debug true shows "
            "where",
        ),
    ):
        # The weights, the ids and the limit.
        model = load_model(path, dtype=dtype)
        ids = load_ids(path, model.config)
        limit = ids.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit is None:
            raise ModelFolderError(
                f"{path} fixes no length limit for samples: give max_new_tokens (on the command "
                "line --max_new_tokens N)"
            )

        policy = CausalPolicy(
            model.requires_grad_(False),
            bos_id=ids.bos_id,
            eos_ids=ids.eos_ids,
            pad_id=ids.pad_id,
            max_new_tokens=limit,
            letters=ids.letters,
            transform=transform,
            vocabulary=load_vocabulary(path, ids, model.config.get_text_config().vocab_size),
        )
        policy.scorer.to(device)
        with phase("checking that sampler and scorer of the model have one law"):
            fault = policy.fault()
        if fault:
            raise ModelFolderError(f"{path} ({type(model).__name__}) cannot be used: {fault}")
    return policy
