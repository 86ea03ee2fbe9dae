"""Where the benchmarks keep their results, and on which machine they were measured."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine(*libraries: str) -> str:
    """Return the processor, its cores, the system, and the versions of some libraries."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = [f"{name} {version(name)}" for name in libraries]
    processor = f"{names[0]}, {len(names)} cores" if names else platform.machine()
    return ", ".join([processor, platform.system(), *versions])


def write_results(folder: Path, name: str, record: dict[str, Any], page: str) -> None:
    """Write a measurement as NAME.json for programs and NAME.md for readers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
