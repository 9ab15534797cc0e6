"""What glibc does with memory that a process has freed: give it back, rather than keep it for the next document."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h

LARGE_BYTES = 256 * 2**10
"""From this size on, what is freed goes back at once. Left to itself, glibc raises that to 32 MB by and by."""

ARENAS = 2
"""Left to itself, each thread has an arena of its own, up to 8 a core, and what is free in one is of no use to others."""


def limit_arenas() -> None:
    """For a process that works on large and on small documents in turn, in many threads."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(_M_ARENA_MAX, ARENAS)


def trim_heap() -> None:
    """Give back what is free within the heap; takes some milliseconds."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
