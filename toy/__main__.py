"""Entry point of ``python -m toy``, also where a library is missing that a command needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

# The extra of this distribution that brings a library.
EXTRAS = dict.fromkeys(
    ("docstring_parser", "jsonargparse", "matplotlib", "numpy", "rich", "scipy"), "toy"
) | {"torch": "lm", "pandas": "study", "pyarrow": "study"}


def run(arguments: Sequence[str]) -> int:
    """Run a command, or say in one line which extra has to be installed for it.

    Parameters
    ----------
    arguments : sequence of str
        What follows ``python -m toy``.

    Returns
    -------
    int
        The exit code; 2 where a library is missing.
    """
    try:
        from toy.cli.main import main  # noqa: PLC0415 - numpy itself may be missing

        return main(arguments)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        print(
            f"python -m toy: {error.name} is not installed: "
            f"python -m pip install '.[{EXTRAS[error.name]}]' in a clone",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
