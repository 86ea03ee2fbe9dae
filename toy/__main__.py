"""Entry point of ``python -m toy``."""

from __future__ import annotations

import sys

from toy.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
