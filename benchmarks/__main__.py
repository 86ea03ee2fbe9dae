"""List the benchmarks, or run the named ones: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks, or list them all; 1 if one of them broke its bound."""
    known = sorted(
        path.stem
        for path in Path(__file__).parent.glob("[!_]*.py")
        if "def main(" in path.read_text(encoding="utf-8")
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(known)}")
    names = parser.parse_args(arguments).names
    for name in names:
        if name not in known:
            parser.error(f"unknown benchmark {name!r}: choose from {', '.join(known)}")
    if not names:
        for name in known:
            module = importlib.import_module(f"benchmarks.{name}")
            print(f"python -m benchmarks.{name:14} {(module.__doc__ or '').splitlines()[0]}")
    return max(
        (importlib.import_module(f"benchmarks.{name}").main([]) for name in names), default=0
    )


if __name__ == "__main__":
    sys.exit(main())
