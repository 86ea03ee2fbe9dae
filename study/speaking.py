"""Saying that work goes on, where nothing else is printed for longer than two seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

SECONDS = 2.0


@contextmanager
def speaking(what: str) -> Iterator[None]:
    """Say on standard error what goes on; without a terminal a line every two seconds."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(what):
            yield
        return

    started, done = time.monotonic(), threading.Event()

    def say() -> None:
        while not done.wait(SECONDS):
            passed = time.monotonic() - started
            print(f"{what} ... ({passed:.0f} s)", file=sys.stderr, flush=True)

    voice = threading.Thread(target=say, daemon=True)
    voice.start()
    try:
        yield
    finally:
        done.set()
        voice.join()
