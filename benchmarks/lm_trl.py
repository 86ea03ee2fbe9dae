"""Seconds of one training step of TRL's GRPO and RLOO trainers, on the model of ``lm_step``.

The trainers sample as many completions of the same length after the same one-token prompt, score
them under a reference model (``beta`` is on), earn a reward for token 5, and make one optimiser
step a batch: float32, on the CPU, without logging, saving or evaluation. TRL's objective differs
from ours, though the work is alike. Run ``python -m benchmarks.lm_trl --trainer grpo --size S``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks._turns import Finished, Laps, summary
from benchmarks.lm_floor import SIZES
from benchmarks.lm_step import STEPS, WARM_UP

TRAINERS = ("grpo", "rloo")


def run_trl(
    trainer: str, size: str, threads: int, laps: Laps, *, activation: str = "gelu_new"
) -> None:
    """Train with TRL, calling ``laps`` after each step until it has enough.

    Parameters
    ----------
    trainer
        One of `TRAINERS`.
    size
        A key of `benchmarks.lm_floor.SIZES`.
    threads
        Of torch.
    laps
        Times the steps.
    activation
        Of the model folder: GPT-2's own, or "gelu_pytorch_tanh", the fused form of it.
    """
    import torch  # noqa: PLC0415 - nothing is imported to print the help
    from transformers import TrainerCallback  # noqa: PLC0415

    from benchmarks._lm_model import write_model  # noqa: PLC0415

    class Timing(TrainerCallback):
        """Asks for a turn before the first step and after every step."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            """Start."""
            laps.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """End a lap."""
            laps.lap()

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(Finished):
        write_model(SIZES[size], Path(name), activation=activation)
        _trainer(trainer, size, Path(name), laps.count, Timing()).train()


def _trainer(trainer: str, size: str, folder: Path, steps: int, timing: Any) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415

    from benchmarks._lm_model import PROMPT, REWARDED  # noqa: PLC0415

    def rewarded(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(REWARDED in row) for row in completion_ids]

    # Both come with the extra `bench` only, and trl's names are made on demand.
    trl: Any = importlib.import_module("trl")
    datasets: Any = importlib.import_module("datasets")
    make_config, make_trainer = {
        "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
        "rloo": (trl.RLOOConfig, trl.RLOOTrainer),
    }[trainer]
    samples, length = SIZES[size].samples, SIZES[size].length
    config = make_config(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=samples,
        gradient_accumulation_steps=1,
        num_generations=samples,
        max_completion_length=length,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        # Greater than zero, so that a reference model is scored as our base is.
        beta=0.05,
        activation_checkpointing=False,
        learning_rate=1e-5,
        optim="adamw_torch_fused",
        max_steps=steps + 1,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return make_trainer(
        model=str(folder),
        args=config,
        reward_funcs=rewarded,
        train_dataset=datasets.Dataset.from_dict({"prompt": [f"t{PROMPT}"] * (steps + 1)}),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[timing],
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the measurement and write it, where asked for, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lm_trl", description=__doc__)
    parser.add_argument("--trainer", choices=TRAINERS, default="grpo")
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--steps", type=int, default=STEPS, help="after the warm-up; at least 5")
    parser.add_argument("--fused", action="store_true", help="give the model the fused gelu")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    laps = Laps(options.steps + WARM_UP, turns=options.turns)
    activation = "gelu_pytorch_tanh" if options.fused else "gelu_new"
    run_trl(options.trainer, options.size, options.threads, laps, activation=activation)
    measured = summary(laps.made, warm_up=WARM_UP)
    setting = {"trainer": options.trainer, "size": options.size, "threads": options.threads}
    if not options.turns:
        print(json.dumps({**setting, **measured}, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps({**setting, **measured}, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
