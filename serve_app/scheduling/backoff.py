"""How long to pause before each next try."""

from __future__ import annotations

from collections.abc import Iterator


def backoff(first_s: float, longest_s: float) -> Iterator[float]:
    """Yield pauses in seconds for ever, each twice as long as the one before, up to `longest_s`."""
    pause_s = first_s
    while True:
        yield min(pause_s, longest_s)
        pause_s = min(2 * pause_s, longest_s)
