"""Versions and machine, as they are recorded with every run."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata

import torch

PACKAGES = ("fdpg-ref", "torch", "transformers", "accelerate", "numpy", "safetensors")


def environment() -> dict[str, str | int | None]:
    """Return the facts that a reader needs to reproduce a figure: versions, device, threads.

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


def environment_changes(recorded: Mapping[str, str | int | None]) -> list[str]:
    """Return what differs from a recorded environment and may change the last digits of a run.

    Parameters
    ----------
    recorded
        What `environment` returned when the run began.

    Returns
    -------
    list of str
        ``torch is 2.13.0 now, but was 2.12.0``.
    """
    now = environment()
    names = [name for name in now if name != "cpu_count" and recorded.get(name) != now[name]]
    return [f"{name} is {now[name]} now, but was {recorded.get(name)}" for name in names]
