"""Reward models: a sequence classifier of transformers, by its folder or its name on the hub."""

from __future__ import annotations

import functools
import importlib
import io
import json
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.errors import RunError, reason_of
from lm.features.made_feature import Made

# Texts of one forward pass.
BATCH = 64


def probability(model: str, label: str, *, device: str = "auto") -> Made:
    """Return the probability that a classifier gives a label, in [0, 1].

    Parameters
    ----------
    model
        A folder with config.json, safetensors and a tokenizer, or a name on the hub.
    label
        One of the names in id2label of its config.json.
    device
        auto takes a GPU if there is one; else cpu or cuda.
    """
    made = log_probability(model, label, device=device)
    return Made(
        f"probability of {label} by {model}",
        lambda texts: np.exp(made.values(texts)),
        bounds=(0.0, 1.0),
        reads=(model,),
    )


def log_probability(model: str, label: str, *, device: str = "auto") -> Made:
    """Return the log-probability that a classifier gives a label, in nats, at most 0.

    The parameters are those of probability. Where several labels may hold at once (problem_type
    multi_label_classification) it is that of this label alone.
    """
    _require_labels(model, label)
    _require_device(device)

    def values(texts: Sequence[str]) -> np.ndarray:
        loaded = _load(model, device)
        names = loaded.labels
        if label not in names:
            raise RunError(_no_label(model, label, names))
        return loaded.log_probs(texts)[:, names.index(label)]

    return Made(f"log-probability of {label} by {model}", values, reads=(model,))


def reward_model(model: str, *, device: str = "auto") -> Made:
    """Return the one number that a reward model gives a text: its logit, of any size.

    The parameters are those of probability; the model has one label only.
    """
    _require_device(device)

    def values(texts: Sequence[str]) -> np.ndarray:
        loaded = _load(model, device)
        if len(loaded.labels) != 1:
            raise RunError(
                f"reward_model({model!r}) has the labels {', '.join(loaded.labels)}, so it is a "
                f"classifier: write log_probability({model!r}, {loaded.labels[-1]!r})"
            )
        return loaded.logits(texts)[:, 0]

    return Made(f"reward by {model}", values, reads=(model,))


class _Loaded(NamedTuple):
    """A classifier in memory."""

    name: str
    model: Any
    tokenizer: Any
    labels: list[str]
    most_tokens: int

    def log_probs(self, texts: Sequence[str]) -> np.ndarray:
        logits = self.logits(texts)
        if self.model.config.problem_type == "multi_label_classification":
            return -np.logaddexp(0.0, -logits)
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits, shape (n, labels), of batches of about equal lengths."""
        torch = importlib.import_module("torch")
        rows = self.tokenizer(list(texts), truncation=False)["input_ids"]
        self._refuse_long(texts, rows)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        # Without a token to fill rows with, each text goes alone.
        size = 1 if self.tokenizer.pad_token_id is None else BATCH

        found = np.empty((len(texts), len(self.labels)))
        device = next(self.model.parameters()).device
        for start in range(0, len(order), size):
            part = order[start : start + size]
            batch = self.tokenizer(
                [texts[row] for row in part], padding=size > 1, return_tensors="pt"
            ).to(device)
            # Its own precision, whatever the policy's is.
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                logits = self.model(**batch).logits
            if tuple(logits.shape) != (len(part), len(self.labels)):
                raise RunError(
                    f"{self.name} returns logits of the shape {tuple(logits.shape)} for "
                    f"{len(part)} texts and {len(self.labels)} labels: it is no sequence classifier"
                )
            found[part] = logits.double().cpu().numpy()
        return found

    def _refuse_long(self, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.most_tokens:
                raise RunError(
                    f"{self.name} reads {self.most_tokens} tokens at most, but {text!r:.80} has "
                    f"{len(row)}: lower max_new_tokens, or take another classifier"
                )
            if len(row) == 0:
                raise RunError(
                    f"{self.name} cannot judge {text!r:.80}, which has no token: take a classifier "
                    "whose tokenizer adds a token of its own, or exclude empty texts"
                )


@functools.cache
def _load(name: str, device: str) -> _Loaded:
    """Load a classifier once a process, without any code of its folder."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    try:
        with redirect_stderr(io.StringIO()):
            model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    # Whatever the libraries raise of files that they cannot read.
    except Exception as error:
        raise RunError(f"the classifier {name} does not load: {reason_of(error)}") from error
    if info["missing_keys"]:
        raise RunError(
            f"the classifier {name} lacks the weights {', '.join(sorted(info['missing_keys']))}, "
            "for which transformers takes random numbers: it was not saved as a classifier"
        )

    place = device
    if device == "auto":
        place = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise RunError(f"{name} is wanted on cuda, but torch sees no GPU: leave device out")
    names = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
    limits = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    most = min(limit for limit in limits if limit is not None)
    return _Loaded(name, model.to(place).eval(), tokenizer, names, most)


def _require_device(device: str) -> None:
    if device not in {"auto", "cpu", "cuda"}:
        raise ValueError(f"the device of a classifier is {device!r}: it is auto, cpu or cuda")


def _require_labels(model: str, label: str) -> None:
    """Refuse a label that a local folder does not have, before anything is loaded."""
    path = Path(model) / "config.json"
    if not path.is_file():
        return  # a name on the hub, or a folder that is wrong: loading it says so
    try:
        names = list(json.loads(path.read_text(encoding="utf-8"))["id2label"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        return
    if label not in names:
        raise ValueError(_no_label(model, label, names))


def _no_label(model: str, label: str, names: Sequence[str]) -> str:
    return f"the classifier {model} has no label {label!r}: it has {', '.join(map(str, names))}"
