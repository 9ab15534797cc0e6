"""A bound on what is held at once: over it, a clear refusal instead of a growing queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.errors import QueueFull, ServiceUnavailable

BUSY_RETRY_AFTER_S = 5


class Admission:
    """`limit` places; who finds none gets QueueFull at once, and after `close` everybody ServiceUnavailable."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._closed = False

    @property
    def held(self) -> int:
        """Places that are taken."""
        return self._held

    @property
    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    @contextmanager
    def place(self) -> Iterator[None]:
        if self._closed:
            raise ServiceUnavailable("The service is being stopped.", retry_after_s=BUSY_RETRY_AFTER_S)
        if self._held >= self._limit:
            raise QueueFull(retry_after_s=BUSY_RETRY_AFTER_S)
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def take_spare(self) -> bool:
        """Take one more place if there are many: half of them are kept for those who have none. Give it back."""
        if 2 * (self._held + 1) > self._limit:
            return False
        self._held += 1
        return True

    def give_spare(self) -> None:
        self._held -= 1


class SharedAdmission:
    """`limit` places of which nobody has more than `each`; who finds none gets QueueFull at once."""

    def __init__(self, limit: int, *, each: int) -> None:
        self._all = Admission(limit)
        self._each = each
        self._held: Counter[str] = Counter()

    @contextmanager
    def place(self, owner: str) -> Iterator[None]:
        if self._held[owner] >= self._each:
            raise QueueFull(retry_after_s=BUSY_RETRY_AFTER_S)
        with self._all.place():
            self._held[owner] += 1
            try:
                yield
            finally:
                self._held[owner] -= 1
                self._held += Counter()  # those who have none are not remembered
