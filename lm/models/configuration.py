"""Read the configuration of a model folder, and refuse what cannot be loaded safely."""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lm.errors import reason_of
from lm.models.token_ids import ModelFolderError

ADAPTER_FILE = "adapter_config.json"


def read_config(folder: Path) -> PreTrainedConfig:
    """Read config.json of an existing folder.

    Raises
    ------
    ModelFolderError
        There is none or it cannot be read; the model needs code of its own, or is an architecture
        that transformers does not implement; or the folder holds an adapter without its model.
    """
    # An adapter, or no model at all.
    path = folder / "config.json"
    if (folder / ADAPTER_FILE).exists():
        raise ModelFolderError(
            f"{folder} holds an adapter ({ADAPTER_FILE}): merge it into its model and save that "
            "(for an adapter of peft: model.merge_and_unload().save_pretrained(folder))"
        )
    if not path.is_file():
        raise ModelFolderError(f"{folder} has no config.json, so it is not a Hugging Face folder")

    # What kind of model it is.
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(stored, dict):
        raise ModelFolderError(f"{path} must hold an object, not {stored!r:.60}")
    if stored.get("quantization_config"):
        raise ModelFolderError(
            f"{folder} holds quantised weights (quantization_config in config.json), which cannot "
            "be trained here: name the model that was quantised"
        )
    model_type, own_code = stored.get("model_type"), bool(stored.get("auto_map"))
    if own_code or not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        needs = "runs code of its own (auto_map)" if own_code else "is unknown here"
        raise ModelFolderError(
            f"{folder}: model_type {model_type!r} {needs}; only models that transformers "
            f"{transformers.__version__} implements itself are loaded (trust_remote_code is off)"
        )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each configuration has checks of its own, with errors of its own
        raise ModelFolderError(f"{path} is refused by transformers: {reason_of(error)}") from error
