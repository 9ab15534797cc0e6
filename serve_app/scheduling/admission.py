"""Limits on work in progress. Over the limit, a client gets an error at once instead of waiting in a queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve_app.errors import QueueFull, ServiceUnavailable

BUSY_RETRY_AFTER_S = 5


class Admission:
    """A pool of `limit` slots, a number or a function that gives it. A request gets a slot at once or is refused."""

    def __init__(self, limit: int | Callable[[], int]) -> None:
        self._limit = limit if callable(limit) else lambda: limit
        self._in_use = 0
        self._closed = False

    @property
    def in_use(self) -> int:
        """The number of slots in use."""
        return self._in_use

    @property
    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Refuse new requests. Slots in use stay valid."""
        self._closed = True

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Use one slot. Raises QueueFull if none is free, and ServiceUnavailable after `close`."""
        if self._closed:
            raise ServiceUnavailable("The service is shutting down.", retry_after_s=BUSY_RETRY_AFTER_S)
        if self._in_use >= self._limit():
            raise QueueFull(retry_after_s=BUSY_RETRY_AFTER_S)
        self._in_use += 1
        try:
            yield
        finally:
            self._in_use -= 1


class SharedAdmission:
    """A pool of `limit` slots, of which each owner may use at most `each`."""

    def __init__(self, limit: int, *, each: int) -> None:
        self._all = Admission(limit)
        self._each = each
        self._in_use: Counter[str] = Counter()

    @contextmanager
    def slot(self, owner: str) -> Iterator[None]:
        """Use one slot for `owner`. Raises QueueFull if all slots, or all of this owner's, are in use."""
        if self._in_use[owner] >= self._each:
            raise QueueFull(
                f"This API key already has {self._each} of these requests open; end one first.",
                retry_after_s=BUSY_RETRY_AFTER_S,
            )
        with self._all.slot():
            self._in_use[owner] += 1
            try:
                yield
            finally:
                self._in_use[owner] -= 1
                self._in_use += Counter()  # drops owners without a slot
