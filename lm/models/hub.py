"""Find a model by the path of its folder, as a fetched one, or by its name on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from lm.config.base import PRETRAINED
from lm.config.code_model import code_model
from lm.models.token_ids import ModelFolderError

# Weights that hold no code, configurations and tokenizer files; nothing pickled, no Python. Kept
# apart from the weights in transformers' own format: other formats of the same numbers.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
UNWANTED = ("*/*", "consolidated*", "*.fp16.*", "*.bf16.*")

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class MissingModelFolder(FileNotFoundError):
    """A model that is neither a local folder nor to be had from the hub."""


def find_model(name_or_folder: str | os.PathLike[str]) -> Path:
    """Return the local folder of a model, downloading it if it is the name of one on the hub.

    Parameters
    ----------
    name_or_folder
        A folder comes first; then a model that ``python -m lm fetch`` brings, as smollm2, or that
        ``python -m lm base code`` trains, as code-2x64-seed1; else a name such as
        ``openai-community/gpt2``. With HF_HUB_OFFLINE=1 such a name is looked up in the local cache
        only.

    Returns
    -------
    Path
        The folder, or the snapshot in the hub's cache: weights in safetensors, configurations and
        tokenizer files.

    Raises
    ------
    MissingModelFolder
        There is no such folder, and the hub does not give such a model.
    ModelFolderError
        It is a file.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelFolderError(
            f"{folder} is a file: give the folder that holds config.json and the weights"
        )

    # What the project fetches or trains itself.
    name = os.fspath(name_or_folder)
    if name in PRETRAINED:
        fetched = PRETRAINED[name].folder()
        if not fetched.is_dir():
            raise MissingModelFolder(
                f"{name} is not in the cache of this folder yet: python -m lm fetch {name}"
            )
        return fetched
    try:
        code = code_model(name)
    except ValueError as error:
        raise MissingModelFolder(f"there is no model {name}: {error}") from error
    if code is not None:
        if not code.folder().is_dir():
            seed = f" --seed {code.seed}" if code.seed else ""
            raise MissingModelFolder(
                f"{name} is not in the cache of this folder yet, for this version of Python: "
                f"python -m lm base code --size {code.size}{seed}"
            )
        return code.folder()

    if not _HUB_NAME.fullmatch(name):
        raise MissingModelFolder(_advice(name, "and that is not a name on the Hugging Face hub"))
    return _download(name)


def _download(name: str) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
            )
        )
    except LocalEntryNotFoundError as error:
        offline = huggingface_hub.constants.HF_HUB_OFFLINE
        reason = (
            "and the local cache of the Hugging Face hub does not have it (HF_HUB_OFFLINE is set: "
            "unset it to download)"
            if offline
            else "and the Hugging Face hub cannot be reached"
        )
        raise MissingModelFolder(_advice(name, reason)) from error
    except (HfHubHTTPError, HFValidationError) as error:
        reason = f"and the Hugging Face hub refuses it ({str(error).splitlines()[0]})"
        raise MissingModelFolder(_advice(name, reason)) from error


def _advice(name: str, reason: str) -> str:
    return (
        f"there is no model folder {name}, {reason}; train the default base with "
        "`python -m lm base` or give the path of a local Hugging Face folder"
    )
