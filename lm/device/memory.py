"""Between the phases of a run, freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import functools
from typing import Any


class _Heap(ctypes.Structure):
    """What mallinfo2 of glibc fills in."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def release_freed_memory(*, above: int = 0) -> None:
    """Let the C library give back what was freed.

    It keeps blocks below 32 MiB for later, and the activations of a step are such blocks: beside a
    model of 135M parameters, a GiB and more that the next phase, of other sizes, cannot use, and
    that grows from step to step. Elsewhere than with glibc nothing happens.

    Parameters
    ----------
    above
        Only if more bytes than these are free: touching them again takes some time.
    """
    library = _glibc()
    if library is not None and library.mallinfo2().fordblks > above:
        _ = library.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    try:
        library: Any = ctypes.CDLL(None)
        _ = library.malloc_trim
        library.mallinfo2.restype = _Heap
        library.mallinfo2.argtypes = ()
    # Another C library, an older one, or a system that does not open a program's own symbols.
    except (AttributeError, OSError, TypeError):
        return None
    return library
