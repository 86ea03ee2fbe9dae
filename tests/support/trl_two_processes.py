"""What test_trl_processes looks at: gradients that two processes find together, as JSON.

``torchrun --nproc_per_node 2 tests/support/trl_two_processes.py FOLDER``: FOLDER holds a model.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

from support import trl_runs as runs


def main(folder: Path) -> None:
    """Compare each case with one process's exact gradient and write what the main one found."""
    warnings.simplefilter("ignore")
    model, found = str(folder / "model"), {}
    cases = {
        # A group on each process.
        "a group each": (runs.PROMPTS[1:], {"num_generations": runs.N}),
        # Every completion twice, one half of the group on each process.
        "a group on both": (runs.PROMPTS[2:], {"num_generations": 2 * runs.N}),
        "micro-batches": (
            runs.PROMPTS[1:],
            {
                "num_generations": runs.N,
                "per_device_train_batch_size": 11,
                "gradient_accumulation_steps": 11,
            },
        ),
    }

    # Each process trains a step of each; the main one writes what it found.
    for name, (prompts, options) in cases.items():
        whole = {"per_device_train_batch_size": runs.N, "ddp_backend": "gloo"}
        args = runs.settings(folder / "run", **(whole | options))
        trainer = runs.trainer_of(model, args, prompts=prompts)
        gradient = runs.one_step(trainer)
        exact = runs.exact_gradient(runs.wide(model), model, args.divergence, prompts=prompts)
        found[name] = runs.error(gradient, exact)
        rank, processes = trainer.accelerator.process_index, trainer.accelerator.num_processes
        found["processes"] = processes
        if rank == 0:
            _ = (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
