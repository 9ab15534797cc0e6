"""How many documents and pages a replica that reads documents may have in progress, by the engines' replicas now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

LEAST_DOCUMENTS = 64
LEAST_PAGES = 8
"""Also without a replica: the first one starts only if pages wait for it. Enough for an engine that is faster than decoding, and
few, since they have all queued at the first replica when others start."""


@dataclass(frozen=True)
class WindowLimits:
    """Follows `capacity`, the pages that an engine's replicas can take from one caller now. Settings are upper bounds.

    `queue`: documents in progress; pages in flight beside the first of each document may be half as many.
    `pages_of_document`: pages of one document in flight.
    """

    capacity: Callable[[str], int]
    queue: int | None = None
    pages_of_document: int | None = None

    def documents(self, engines: Iterable[str]) -> int:
        """Documents in progress, of all engines together."""
        return self.queue or max([LEAST_DOCUMENTS, *map(self.capacity, engines)])

    def pages(self, engine: str) -> int:
        """Pages in flight at this engine."""
        pages = max(LEAST_PAGES, self.capacity(engine))
        return pages if self.queue is None else min(pages, self.queue // 2)
