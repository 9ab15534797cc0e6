"""Page slots: how many pages of a caller are in flight at one engine, and whose page comes next.

A caller is a replica that reads documents. There are as many slots as the engine can take pages from one caller now, so
the number grows and shrinks while documents are read. One document may use all of them; beside others it gets its share.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from serve_app.scheduling.fair_queue import FairQueue


class PageSlots:
    """Gives free slots to documents: owners take turns, and so do the documents of each owner.

    A document always has a slot for one page, whatever the others use, so the slots in use may exceed the capacity by one
    for each open document.
    """

    def __init__(self, capacity: Callable[[], int], in_line: Callable[[], int] = lambda: 0) -> None:
        """`capacity`: the number of slots at this moment. `in_line`: pages of documents that are not open yet."""
        self._capacity = capacity
        self._in_line = in_line
        self._asking: FairQueue[PageWindow] = FairQueue()
        self._in_use = 0

    @property
    def in_use(self) -> int:
        return self._in_use

    @property
    def waiting(self) -> int:
        """The number of pages that would use a slot now if one were free. Those of a document with a slow reader are not."""
        return sum(window.left for window in self._asking)

    @property
    def waiting_in_all(self) -> int:
        """The number of pages that wait at this caller, with those of documents that are not open yet."""
        return self.waiting + self._in_line()

    @property
    def behind(self) -> float:
        """Pages that wait at this caller, for each page in flight: what every call to the engine stands for besides itself."""
        return self.waiting_in_all / max(1, self._in_use)

    def open(
        self, pages: int, *, owner: str, document: str, most: int | None, on_grant: Callable[[], object]
    ) -> PageWindow:
        """Open the window of a document with this many pages, of which at most `most` are in flight; None: no limit.

        `on_grant` is called for each slot that the window gets after it asked for one. It must not take slots itself but
        only see to it that somebody does soon. Use the window as a context manager.
        """
        return PageWindow(self, pages, owner, document, most, on_grant)

    def _grant_free(self) -> None:
        """Give the free slots to the windows that ask for one. If the capacity has grown, that is noticed with the next release."""
        capacity = self._capacity()
        while self._in_use < capacity and self._asking:
            (window,) = self._asking.pop_batch(1)
            self._in_use += 1
            window._receive()

    def _take(self) -> None:
        self._in_use += 1

    def _release(self, slots: int) -> None:
        self._in_use -= slots
        self._grant_free()

    def _ask(self, window: PageWindow) -> None:
        self._asking.push(window, owner=window.owner, caller=window.document)
        self._grant_free()

    def _withdraw(self, window: PageWindow) -> None:
        self._asking.remove(window, owner=window.owner, caller=window.document)


class PageWindow:
    """The slots of one document. A context manager that releases all of them on exit."""

    def __init__(
        self,
        slots: PageSlots,
        pages: int,
        owner: str,
        document: str,
        most: int | None,
        on_grant: Callable[[], object],
    ) -> None:
        self.owner = owner
        self.document = document
        self.left = pages
        """Pages that have not taken a slot yet."""
        self._slots = slots
        self._most = most
        self._on_grant = on_grant
        self._in_use = 0
        self._granted = 0
        self._is_asking = False

    def __enter__(self) -> PageWindow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pause()
        self._slots._release(self._in_use)
        self._in_use = 0

    def take(self) -> bool:
        """Take a slot for the next page; False if there is none. Then the window has asked for one, unless it has `most`."""
        if self._most is not None and self._in_use >= self._most:
            return False
        if not self._granted:
            self._ask()
        if self._granted:
            self._granted -= 1
        elif self._in_use:
            return False
        else:
            self._withdraw()
            self._slots._take()
        self._in_use += 1
        self.left -= 1
        return True

    def release(self) -> None:
        """Release the slot of one page."""
        self._in_use -= 1
        self._slots._release(1)

    def pause(self) -> None:
        """Want no more slots until the next `take`."""
        self._withdraw()
        granted, self._granted = self._granted, 0
        self._slots._release(granted)

    def _ask(self) -> None:
        if not self._is_asking:
            self._is_asking = True
            self._slots._ask(self)

    def _withdraw(self) -> None:
        if self._is_asking:
            self._is_asking = False
            self._slots._withdraw(self)

    def _receive(self) -> None:
        self._is_asking = False
        self._granted += 1
        self._on_grant()
