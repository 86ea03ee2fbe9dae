"""``python -m lm``: train, measure and look at language models aligned by f-divergences."""

from __future__ import annotations

import os
import sys

# Two torch threads collapse beside another busy process unless idle OpenMP threads sleep; the
# setting is read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    from lm.cli.main import main
except ModuleNotFoundError as error:  # torch and its like are imported later, by a command
    if error.name is None or error.name.partition(".")[0] in {"lm", "fdpg_ref"}:
        raise
    print(
        f"python -m lm: {error.name} is not installed: python -m pip install '.[lm]' in a clone",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
