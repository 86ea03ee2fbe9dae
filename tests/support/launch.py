"""Start N processes of one program as a launcher would, on this machine, with gloo between them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Two ranks import torch and transformers side by side on two cores: far beyond what any needs.
TIMEOUT_SECONDS = 240


def launch(
    program: list[str], *, processes: int = 2, changes: dict[str, str] | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """Run ``python PROGRAM`` in every process and return them when all have ended."""
    port = free_port()
    started = []
    try:
        for rank in range(processes):
            environment = quiet_environment() | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            process = subprocess.Popen(
                [sys.executable, *program],
                cwd=ROOT,
                env=environment | (changes or {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
        return [_finish(process) for process in started]
    finally:
        for process in started:
            process.kill()


def quiet_environment() -> dict[str, str]:
    """Return an environment of one thread a process, without a launcher's leftovers."""
    launched = ("ACCELERATE_", "FSDP_", "MASTER_", "TORCHELASTIC_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(launched)}
    paths = [str(ROOT), str(ROOT / "tests")]
    return kept | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
