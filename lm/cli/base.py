"""``python -m lm base``: the models that the project trains itself, of names and of functions."""

from __future__ import annotations

from lm.code_models.train import read_code_facts, train_code
from lm.config.base import BaseConfig
from lm.config.code_model import CodeConfig
from lm.training.base import read_facts, train_base


def run_base(config: BaseConfig | CodeConfig) -> None:
    """Train a base model, or find it in the cache, and print its figures."""
    if isinstance(config, CodeConfig):
        _run_code(config)
    else:
        _run_names(config)


def _run_names(config: BaseConfig) -> None:
    folder = train_base(config)
    facts = read_facts(folder)
    source = facts.source_nats_per_character
    print(f"{facts.nats_per_character:.4f} nats per character (entropy of the source {source:.4f})")
    for name, value in facts.moments.items():
        print(f"E[{name}] = {value:.5f}")
    print(f"model: {folder}")


def _run_code(config: CodeConfig) -> None:
    folder = train_code(config)
    facts = read_code_facts(folder)
    print(
        f"{facts.functions:,} functions of Python {facts.python} ({facts.held_out:,} held out), "
        f"SHA-256 {facts.sha256}"
    )
    print(f"{facts.nats_per_character:.4f} nats per character of the functions held out")
    print(f"E[valid_python] = {facts.compiles:.3f}, of 512 samples")
    print(f"model: {folder}")
    seed = f"-seed{config.seed}" if config.seed else ""
    if CodeConfig(size=config.size, seed=config.seed) == config:
        print(f"in a recipe: model: code-{config.size}{seed}")
