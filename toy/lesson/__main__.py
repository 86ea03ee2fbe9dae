"""``python -m toy.lesson FILE.png`` draws the picture of the README."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from toy.lesson.drawing import fields_figure, house_style


def main(arguments: Sequence[str]) -> int:
    """Write the picture to the named file; 2 if it is not the name of one PNG file."""
    if len(arguments) != 1 or not arguments[0].endswith(".png"):
        print("usage: python -m toy.lesson FILE.png", file=sys.stderr)
        return 2
    house_style()
    fields_figure((0.62, 0.28, 0.10)).savefig(arguments[0], dpi=130)
    print(arguments[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
