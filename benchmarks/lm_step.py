"""Seconds of one training step of the lm engine, logging included, at the sizes S, M and L.

The engine is `lm.train.train` itself. ``--contender`` times another program on the same work, such
as the plain-torch floor. Run ``python -m benchmarks.lm_step --size S --threads 2 --json F``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

# Two threads collapse beside another busy process unless idle OpenMP threads sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks._laps import Laps, summary
from benchmarks.lm_floor import SIZES
from lm.errors import UsageError
from lm.run.owned import holds_keys, require_replaceable_file

WARM_UP, STEPS = 2, 7


def main(arguments: list[str] | None = None) -> int:
    """Print the measurement and write it, where asked for, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lm_step", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--steps", type=int, default=STEPS, help="after the warm-up; at least 5")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--contender", default="engine", help="as lm_speed names them")
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.json is not None:
        try:
            ours = holds_keys("contender", "size", "threads")
            require_replaceable_file(options.json, "a measurement", ours)
        except UsageError as error:
            parser.error(str(error))

    # Not imported to print the help.
    import torch  # noqa: PLC0415

    from benchmarks._contenders import CONTENDERS  # noqa: PLC0415

    if options.contender not in CONTENDERS:
        parser.error(f"no contender {options.contender!r}: choose from {', '.join(CONTENDERS)}")
    torch.set_num_threads(options.threads)
    laps = Laps(options.steps + WARM_UP, turns=options.turns)
    CONTENDERS[options.contender](SIZES[options.size], laps)
    setting = {name: getattr(options, name) for name in ("contender", "size", "threads")}
    text = json.dumps({**setting, **summary(laps.made, warm_up=WARM_UP)}, indent=1)
    if not options.turns:
        print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
