"""Build, save and load models: plain Hugging Face folders, nothing pickled, no code of theirs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lm.token_ids import ModelFolderError, TokenIds, save_ids

Model = TypeVar("Model", bound=PreTrainedModel)


class MissingModelFolder(FileNotFoundError):
    """A model folder that does not exist."""


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


def save_model(model: PreTrainedModel, ids: TokenIds, folder: Path) -> None:
    """Write weights (safetensors), configuration and ids into an existing folder."""
    with _quiet_transformers():
        model.save_pretrained(folder)
    save_ids(ids, folder)


def load_model(folder: Path, *, dtype: torch.dtype | None) -> PreTrainedModel:
    """Load a causal model from a local folder, without dropout and in evaluation mode.

    Parameters
    ----------
    folder
        A folder that transformers' save_pretrained wrote, with weights in safetensors.
    dtype
        Of the weights; None keeps the stored one.

    Returns
    -------
    PreTrainedModel
        The model. Nothing is downloaded and no code of the folder is run.

    Raises
    ------
    MissingModelFolder
        There is no such folder.
    ModelFolderError
        The folder is not a causal language model that can be loaded safely.
    """
    config = _read_config(folder)
    if not any(folder.glob("*.safetensors")):
        raise ModelFolderError(
            f"{folder} has no weights in safetensors format; save the model again with "
            "model.save_pretrained(folder) (pickled weights are not loaded)"
        )
    try:
        with _quiet_transformers():
            loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype="auto" if dtype is None else dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise ModelFolderError(f"{folder} does not load as a causal model: {error}") from error
    model, info = cast(tuple[PreTrainedModel, dict[str, set[str]]], loaded)
    if info["missing_keys"]:
        # transformers would go on with random numbers in their place.
        raise ModelFolderError(
            f"{folder} lacks the weights {', '.join(sorted(info['missing_keys']))}: the file is "
            "incomplete or belongs to another architecture"
        )
    return disable_dropout(model).eval()


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
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if not folder.exists():
            os.replace(partial, folder)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


def _read_config(folder: Path) -> PreTrainedConfig:
    if not folder.is_dir():
        raise MissingModelFolder(
            f"there is no model folder {folder}; train the default base with `python -m lm base` "
            "or give the path of a local Hugging Face folder"
        )
    path = folder / "config.json"
    if not path.is_file():
        raise ModelFolderError(f"{folder} has no config.json, so it is not a Hugging Face folder")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelFolderError(f"{path} is not valid JSON: {error}") from error
    model_type = stored.get("model_type")
    if model_type not in CONFIG_MAPPING:
        needs = "runs code of its own" if "auto_map" in stored else "is unknown here"
        raise ModelFolderError(
            f"{folder}: model_type {model_type!r} {needs}; only models that transformers "
            f"{transformers.__version__} implements itself are loaded (trust_remote_code is off)"
        )
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _zero_rates(owner: PreTrainedConfig | torch.nn.Module) -> None:
    for name, value in list(vars(owner).items()):
        if "drop" in name and isinstance(value, float):
            setattr(owner, name, 0.0)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' own progress bars, which would break ours, and put them back."""
    logging = transformers.utils.logging
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
