"""Versions and machine, as they are recorded with every run."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch

PACKAGES = ("fdpg-ref", "torch", "transformers", "accelerate", "numpy", "safetensors")


def environment() -> dict[str, str | int | None]:
    """Return what a reader needs to reproduce a figure: versions, device, threads.

    Returns
    -------
    dict
        Names and values, ready for JSON; no path and no host name.
    """
    versions = {name: metadata.version(name) for name in PACKAGES}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": gpu,
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
