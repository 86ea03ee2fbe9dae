"""How this process was launched, read from the environment alone: no torch is imported.

torchrun and accelerate tell each process its rank by environment variables, and accelerate what
else was asked of it. The command line needs both before anything heavy is loaded: one process
speaks, and what cannot be done is refused.
"""

from __future__ import annotations

import os

from lm.errors import RunError, UsageError

# How long a process that is not the main one waits, after an error, for the launcher to end it:
# the main process says the same thing, once.
GRACE_SECONDS = 5.0
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

# What accelerate would do on its own, and where it is said here: value that is let through, advice.
BELONGS_ELSEWHERE = {
    "ACCELERATE_MIXED_PRECISION": (
        "no",
        "precision belongs to the recipe. Set mixed_precision no in `accelerate config` and give "
        "the run --precision bfloat16 or float16",
    ),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        "1",
        "give the run --micro_batch_size instead, which cuts the batch without changing its "
        "gradient",
    ),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "false",
        "set fsdp_activation_checkpointing false and give the run --activation_checkpointing true",
    ),
    "FSDP_CPU_RAM_EFFICIENT_LOADING": (
        "false",
        "the frozen base needs its weights on every process. Pass "
        "--fsdp_cpu_ram_efficient_loading false",
    ),
}


def process_index() -> int:
    """Return this process's rank among all launched ones; 0 without a launcher."""
    return next((int(os.environ[name]) for name in RANKS if name in os.environ), 0)


def is_main() -> bool:
    """Return whether this process speaks and writes for all."""
    return process_index() == 0


def by_torchelastic() -> bool:
    """Return whether torchrun, or accelerate by way of it, started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def require_alone(command: str) -> None:
    """Raise a UsageError if several processes run a command that only one should."""
    processes = next((int(os.environ[name]) for name in SIZES if name in os.environ), 1)
    if processes > 1:
        raise UsageError(
            f"{processes} processes were launched, but each would do all of {command!r}: only "
            f"train shares its work. Run `python -m lm {command}` without a launcher"
        )


def refuse_launch(device: str) -> None:
    """Raise a RunError if the launcher asks for something that cannot be done.

    Parameters
    ----------
    device
        "cpu" or "cuda"; any other value is not judged.
    """
    wants = os.environ.get

    # Several processes that are one.
    by_accelerate = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if by_accelerate and not any(name in os.environ for name in SIZES):
        raise RunError(
            "the launcher was asked for several processes but started this one alone, as "
            "`accelerate launch --cpu` does without mpirun: use `torchrun --nproc_per_node 2` or "
            "`accelerate launch --multi_gpu --num_processes 2`, which work on CPUs too (for one "
            "process: `python -m lm train`)"
        )

    # Engines that are not here.
    if _true("ACCELERATE_USE_DEEPSPEED") or _true("ACCELERATE_USE_MEGATRON_LM"):
        raise RunError(
            "the launcher asks for DeepSpeed or Megatron-LM: this engine knows DDP and FSDP2; "
            "choose one of them in `accelerate config` (docs/scale.md)"
        )

    # FSDP, but another kind or another place.
    if _true("ACCELERATE_USE_FSDP"):
        if wants("FSDP_VERSION", "1") != "2":
            raise RunError(
                "the launcher asks for FSDP version 1, which torch has deprecated: pass "
                "--fsdp_version 2 to `accelerate launch`"
            )
        if device == "cpu":
            raise RunError(
                "the launcher asks for FSDP2 on a CPU, where accelerate silently runs DDP instead: "
                "launch without --use_fsdp here, or on GPUs (docs/scale.md)"
            )

    # What the recipe decides, not the launcher.
    for name, (allowed, advice) in BELONGS_ELSEWHERE.items():
        if wants(name, allowed).lower() != allowed:
            raise RunError(f"the launcher sets {name} to {wants(name)}: {advice}")


def _true(name: str) -> bool:
    return os.environ.get(name, "false").lower() in {"1", "true", "yes", "on"}
