"""A queue in which owners take turns, and so do the callers of each owner."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items of many owners, each with many callers. Items of one caller stay in order.

    A caller gets one turn among its owner's callers, however many items it has, and an owner one turn among the owners,
    however many callers it has. So a single page is served before the second page of a long document, and an owner who
    sends ten documents gets no more turns than one who sends a single one.
    """

    def __init__(self) -> None:
        # Ordered by turn. Owners and callers without items are removed.
        self._owners: OrderedDict[str, OrderedDict[str, deque[Item]]] = OrderedDict()
        self._last_batch: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return sum(len(items) for callers in self._owners.values() for items in callers.values())

    def __iter__(self) -> Iterator[Item]:
        """Iterate over all items, in no particular order."""
        return (item for callers in self._owners.values() for items in callers.values() for item in items)

    def __bool__(self) -> bool:
        return bool(self._owners)

    def push(self, item: Item, *, owner: str, caller: str) -> None:
        self._owners.setdefault(owner, OrderedDict()).setdefault(caller, deque()).append(item)

    def remove(self, item: Item, *, owner: str, caller: str) -> None:
        """Remove an item. Does nothing if it is no longer in the queue."""
        items = self._owners.get(owner, OrderedDict()).get(caller, deque())
        if item in items:
            items.remove(item)
            if not items:
                self._drop(owner, caller)

    def pop_batch(self, limit: int) -> list[Item]:
        """Remove and return up to `limit` items, one per turn.

        The owners and callers of the last batch move to the end now and not when that batch was taken, so those who
        arrived while it ran come first.
        """
        for owner, caller in self._last_batch:
            if owner in self._owners:
                self._owners.move_to_end(owner)
                if caller in self._owners[owner]:
                    self._owners[owner].move_to_end(caller)
        self._last_batch = []
        batch: list[Item] = []
        while self._owners and len(batch) < limit:
            owner, callers = next(iter(self._owners.items()))
            caller, items = next(iter(callers.items()))
            batch.append(items.popleft())
            self._last_batch.append((owner, caller))
            self._owners.move_to_end(owner)
            if items:
                callers.move_to_end(caller)
            else:
                self._drop(owner, caller)
        return batch

    def clear(self) -> None:
        self._owners.clear()

    def _drop(self, owner: str, caller: str) -> None:
        del self._owners[owner][caller]
        if not self._owners[owner]:
            del self._owners[owner]
