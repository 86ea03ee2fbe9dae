"""Train a model by f-DPG inside TRL: the script of every recipe in this folder.

    python examples/trl/train.py --model MODEL --prompts prompts.jsonl \
        --rewards examples/trl/rewards.py:digits --output_dir runs/trl --beta 0.1

Options are those of FDPGConfig and with it of TRL's GRPOConfig; docs/engines.md explains ours.
"""

from __future__ import annotations

import runpy
from dataclasses import dataclass, field
from typing import Any

from datasets import load_dataset  # pyright: ignore[reportMissingImports]
from peft import LoraConfig
from transformers import HfArgumentParser

from lm.engines.trl import FDPGConfig, FDPGTrainer


@dataclass
class Script:
    """What is trained, and on what."""

    model: str = field(metadata={"help": "A model folder or hub name: policy and reference."})
    prompts: str = field(metadata={"help": "JSON lines with the key prompt; log_z for column."})
    rewards: list[str] = field(metadata={"help": "Reward functions, as file.py:name."})
    lora_rank: int = field(default=0, metadata={"help": "Rank of adapters; 0 trains all weights."})


def load_function(name: str) -> Any:
    """Return a function of a Python file, which is executed."""
    path, _, function = name.rpartition(":")
    return runpy.run_path(path)[function]


def main() -> None:
    """Train, then write the model and its card."""
    script, args = HfArgumentParser([Script, FDPGConfig]).parse_args_into_dataclasses()
    adapters = None
    if script.lora_rank:
        adapters = LoraConfig(r=script.lora_rank, target_modules="all-linear")

    trainer = FDPGTrainer(
        script.model,
        [load_function(name) for name in script.rewards],
        args,
        load_dataset("json", data_files=script.prompts, split="train"),
        peft_config=adapters,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)
    trainer.create_model_card(dataset_name=script.prompts)


if __name__ == "__main__":
    main()
