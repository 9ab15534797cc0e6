"""Pauses between retries."""

from __future__ import annotations

from collections.abc import Iterator


def backoff(first_s: float, longest_s: float) -> Iterator[float]:
    """Yield pauses in seconds without end. Each is twice as long as the last, up to `longest_s`."""
    pause_s = first_s
    while True:
        yield min(pause_s, longest_s)
        pause_s = min(2 * pause_s, longest_s)
