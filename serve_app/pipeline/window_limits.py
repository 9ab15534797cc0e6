"""How many documents and pages a replica that reads documents may have in progress, by the engines' replicas now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

LEAST_DOCUMENTS = 64
LEAST_PAGES = 8
"""Pages in flight at an engine at least, also without a replica: the first one starts only if pages wait for it. Enough to keep an
engine busy that is faster than decoding. Few, since those that have queued at the first replica do not move to later ones."""


@dataclass(frozen=True)
class WindowLimits:
    """Follows `capacity`, the pages that an engine's replicas can take from one caller now. Settings are upper bounds.

    `queue`: documents in progress. Half as many pages are in flight at each engine, and one of each document in any case.
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
