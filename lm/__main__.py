"""``python -m lm``: train, measure and look at language models aligned by f-divergences."""

from __future__ import annotations

import os
import sys

# Two torch threads collapse beside another busy process unless idle OpenMP threads sleep; the
# setting is read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from lm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
