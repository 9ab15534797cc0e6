"""Makes glibc return freed memory to the system instead of keeping it for the next document."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h

LARGE_BYTES = 256 * 2**10
"""Freed blocks of at least this size go back at once. By default glibc raises the threshold to 32 MB over time."""

ARENAS = 2
"""By default glibc makes up to 8 arenas per core, and threads of one arena cannot use free memory of another."""


def limit_arenas() -> None:
    """Set up a process whose many threads work on large and small documents in turn."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(_M_ARENA_MAX, ARENAS)


def trim_heap() -> None:
    """Return free memory within the heap to the system. Takes some milliseconds."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
