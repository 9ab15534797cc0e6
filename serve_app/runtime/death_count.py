"""Counts the processes that each document has killed."""

from __future__ import annotations

from collections import OrderedDict

REMEMBERED_DOCUMENTS = 1000


class DeathCount:
    """Counts deaths of processes by document. A document with too many deaths is given up.

    Only the documents of the latest deaths are remembered, so memory is bounded.
    """

    def __init__(self, most: int, *, remembered: int = REMEMBERED_DOCUMENTS) -> None:
        """A document is given up after `most` deaths."""
        self._most = most
        self._remembered = remembered
        self._deaths: OrderedDict[str, int] = OrderedDict()

    def add(self, document_id: str) -> None:
        self._deaths[document_id] = self._deaths.pop(document_id, 0) + 1
        while len(self._deaths) > self._remembered:
            self._deaths.popitem(last=False)

    def is_given_up(self, document_id: str) -> bool:
        return self._deaths.get(document_id, 0) >= self._most

    def forget(self, document_id: str) -> None:
        """Start from zero with this document."""
        self._deaths.pop(document_id, None)
