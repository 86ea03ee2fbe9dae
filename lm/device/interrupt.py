"""Signals that ask a run to stop: it finishes its step and saves, then ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lm.device.launched import by_torchelastic, is_main

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STANDARD_ERROR = 2
# How often a launched process looks for its launcher, and how long it may then take to save.
LOOK_SECONDS = 5.0
GRACE_SECONDS = 120.0


class Interrupt:
    """Whether this process was asked to stop.

    Attributes
    ----------
    received
        The first signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """Remember a signal; a second Ctrl-C stops at once.

        Raises
        ------
        KeyboardInterrupt
            SIGINT came while the first request was being followed. A second SIGTERM does not
            count: launchers and schedulers send it more than once.
        """
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            self.received = signal.Signals(number)
            _say(f"{self.received.name}: finishing this step and saving (Ctrl-C: stop at once)")


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Let SIGTERM and Ctrl-C set a flag instead of ending the process.

    Signals that are ignored stay ignored (as in a worker whose parent follows them), and outside
    the main thread, where Python handles none, nothing changes.

    A process that torchrun or accelerate started is asked to stop when its launcher is gone, and
    ended where that does not help: waiting for another process it would never see the signal, and
    hold the run's lock for ever.

    Yields
    ------
    Interrupt
        To be asked after every step.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    ended = threading.Event()
    if by_torchelastic():
        arguments = (os.getppid(), ended)
        threading.Thread(target=_follow_the_launcher, args=arguments, daemon=True).start()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # None is a handler that was not set by Python: it could not be put back.
    ours = [number for number in SIGNALS if before[number] not in {signal.SIG_IGN, None}]
    try:
        for number in ours:
            signal.signal(number, interrupt.receive)
        yield interrupt
    finally:
        ended.set()
        for number in ours:
            signal.signal(number, before[number])


def _follow_the_launcher(launcher: int, ended: threading.Event) -> None:
    while os.getppid() == launcher:
        if ended.wait(LOOK_SECONDS):
            return
    os.kill(os.getpid(), signal.SIGTERM)
    if not ended.wait(GRACE_SECONDS):
        _say(f"the launcher is gone and no step ended in {GRACE_SECONDS:.0f} s: stopping")
        # The main thread sits in a wait that no exception reaches.
        os._exit(1)


def _say(message: str) -> None:
    # A handler may run in the middle of a print, which cannot be entered twice.
    if is_main():
        os.write(STANDARD_ERROR, f"\nlm: {message}\n".encode())
