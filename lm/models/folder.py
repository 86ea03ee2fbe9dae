"""Build, save and load models: plain Hugging Face folders, nothing pickled, no code of theirs."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from lm.config.sampling import SamplingConfig
from lm.errors import reason_of
from lm.models.adapter import has_adapter, merged_model
from lm.models.configuration import read_config
from lm.models.fused import fuse_gelu
from lm.models.hub import MissingModelFolder, find_model
from lm.models.token_ids import ModelFolderError, TokenIds, save_ids
from lm.models.vocabulary import Vocabulary

__all__ = [
    "MissingModelFolder",
    "ModelFolderError",
    "atomic_folder",
    "build_gpt2",
    "disable_dropout",
    "load_model",
    "save_model",
]

LFS_POINTER = b"version https://git-lfs"
Model = TypeVar("Model", bound=PreTrainedModel)


def build_gpt2(
    *, vocabulary_size: int, positions: int, layers: int, width: int, heads: int, seed: int
) -> GPT2LMHeadModel:
    """Build a GPT-2 without dropout, its weights drawn from a seed; the global seed is untouched.

    Parameters
    ----------
    vocabulary_size, positions, layers, width, heads
        Sizes; `heads` divides `width`.
    seed
        Seed of the weights.

    Returns
    -------
    GPT2LMHeadModel
        In evaluation mode, float32.
    """
    config = GPT2Config(
        vocab_size=vocabulary_size,
        n_positions=positions,
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        # The fused form of GPT-2's own tanh gelu, which costs 7 to 40 % of a step as Python ops.
        activation_function="gelu_pytorch_tanh",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return disable_dropout(GPT2LMHeadModel(config)).eval()


def disable_dropout(model: Model) -> Model:
    """Set every dropout rate of a model to zero, in its configuration and in its modules.

    A policy, its proposal and its base must be the same function in training mode and out of it:
    with dropout in one of them KL(pi‖a) is not zero before the first step.
    """
    _zero_rates(model.config)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        _zero_rates(module)
    return model


def save_model(
    model: PreTrainedModel,
    ids: TokenIds,
    folder: Path,
    *,
    vocabulary: Vocabulary | None = None,
    transform: SamplingConfig | None = None,
) -> None:
    """Write weights (safetensors), configuration, ids and tokenizer into an existing folder.

    Parameters
    ----------
    model
        An adapter is merged into a copy of it: the folder needs no peft.
    ids
        Also written to generation_config.json, so that ``generate`` starts and ends texts as the
        policy does and draws from the same law.
    folder
        Exists.
    vocabulary
        Its files are written too, so that the folder is complete.
    transform
        The policy's; none by default.
    """
    plain = merged_model(model) if has_adapter(model) else model
    with quiet_transformers():
        plain.save_pretrained(folder)
        _generation_config(ids, transform or SamplingConfig()).save_pretrained(folder)
    save_ids(ids, folder)
    if vocabulary is not None:
        vocabulary.save(folder)


def load_model(
    name_or_folder: str | os.PathLike[str], *, dtype: torch.dtype | None
) -> PreTrainedModel:
    """Load a causal model, without dropout and in evaluation mode.

    Parameters
    ----------
    name_or_folder
        A folder that transformers' save_pretrained wrote, with weights in safetensors, or the name
        of such a model on the Hugging Face hub: see `lm.models.hub.find_model`.
    dtype
        Of the weights; None keeps the stored one.

    Returns
    -------
    PreTrainedModel
        The model. No code of the folder is run and nothing is unpickled.

    Raises
    ------
    MissingModelFolder
        There is no such folder, and no such model on the hub.
    ModelFolderError
        The folder is not a causal language model that can be loaded safely.
    """
    # Refuse what cannot be loaded safely.
    folder = find_model(name_or_folder)
    config = read_config(folder)
    if not any(folder.glob("*.safetensors")):
        raise ModelFolderError(
            f"{folder} has no weights in safetensors format; save the model again with "
            "model.save_pretrained(folder) (pickled weights are not loaded)"
        )
    _refuse_pointers(folder)

    # Load, and run nothing of the folder.
    try:
        with quiet_transformers():
            loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype="auto" if dtype is None else dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (ValueError, OSError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelFolderError(
            f"{folder} does not load as a causal model: {reason_of(error)}"
        ) from error

    # Refuse a model of which a part is missing.
    model, info = cast(tuple[PreTrainedModel, dict[str, set[str]]], loaded)
    if info["missing_keys"]:
        # transformers would use random numbers in their place.
        raise ModelFolderError(
            f"{folder} lacks the weights {', '.join(sorted(info['missing_keys']))}: the file is "
            "incomplete or belongs to another architecture"
        )
    _refuse_nan(folder, model)
    return fuse_gelu(_with_plain_embeddings(disable_dropout(model))).eval()


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Write a folder under a temporary name and rename it when everything is in it.

    Whoever finds `folder` finds it complete. If another process finished the same folder first,
    its result stays and this one is dropped.

    Parameters
    ----------
    folder
        The final name; its parents are created.

    Yields
    ------
    Path
        The temporary folder to write into.
    """
    # Not by the process alone: a killed one may have left a folder, and its number comes again.
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if not folder.exists():
            os.replace(partial, folder)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


def _refuse_pointers(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ModelFolderError(
                    f"{path} is a pointer of Git LFS, and not the weights: run git lfs pull in "
                    "the clone"
                )


def _refuse_nan(folder: Path, model: PreTrainedModel) -> None:
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise ModelFolderError(
                f"{folder}: the weight {name} holds NaN or infinity, so no probability is a "
                "number: the file is damaged, or its training diverged. Use an earlier one"
            )


def _with_plain_embeddings(model: PreTrainedModel) -> PreTrainedModel:
    # torch gives no gradient to the row of an embedding's padding_idx, which transformers sets to
    # the pad token: where that is the start token as well, its embedding would never be trained.
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None
    return model


def _generation_config(ids: TokenIds, transform: SamplingConfig) -> GenerationConfig:
    # top_k is given even if it is off: transformers' own default is 50.
    return GenerationConfig(
        bos_token_id=ids.bos_id,
        eos_token_id=list(ids.eos_ids),
        pad_token_id=ids.pad_id,
        do_sample=True,
        temperature=transform.temperature,
        top_k=transform.top_k,
        top_p=transform.top_p,
        min_p=transform.min_p or None,
        max_new_tokens=ids.max_new_tokens,
    )


def _zero_rates(owner: PreTrainedConfig | torch.nn.Module) -> None:
    for name, value in list(vars(owner).items()):
        if "drop" in name and isinstance(value, float):
            setattr(owner, name, 0.0)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' own progress bars, which would break ours, and put them back."""
    logging = transformers.utils.logging
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
