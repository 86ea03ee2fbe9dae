"""``python -m toy.lesson FILE.png`` draws the picture of the README."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from toy.files import PICTURE, is_picture, replacing, require_writable
from toy.lesson.drawing import fields_figure, house_style


def main(arguments: Sequence[str]) -> int:
    """Write the picture to the named file; 2 if it cannot be written there."""
    if len(arguments) != 1:
        print("usage: python -m toy.lesson FILE.png", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    try:
        require_writable(path, suffix=".png", ours=is_picture)
        house_style()
        with replacing(path) as partial:
            figure = fields_figure((0.62, 0.28, 0.10))
            figure.savefig(partial, dpi=130, format="png", metadata={**PICTURE})
    except (ValueError, OSError) as error:
        print(f"python -m toy.lesson: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
