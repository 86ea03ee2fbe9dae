"""List the benchmarks and run them one after the other: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """List the benchmarks, then run the named ones (default: all); 1 if one broke its bound."""
    known = sorted(
        module.name
        for module in pkgutil.iter_modules([str(Path(__file__).parent)])
        if not module.name.startswith("_")
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(known)}")
    parser.add_argument("--list", action="store_true", help="only list them")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}: choose from {', '.join(known)}")
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in known}
    for name, module in modules.items():
        print(f"{name:16} {(module.__doc__ or '').splitlines()[0]}")
    if options.list:
        return 0
    codes = [modules[name].main([]) for name in options.names or known]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
