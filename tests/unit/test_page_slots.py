"""Who gets the slots of an engine: turns, shares, and a capacity that changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from serve_app.scheduling.page_slots import PageSlots, PageWindow


class Engine:
    """Slots, and documents that take whatever they get."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.in_line = 0
        self.slots = PageSlots(lambda: self.capacity, lambda: self.in_line)
        self.windows: dict[str, PageWindow] = {}
        self.in_flight: Counter[str] = Counter()

    def document(self, name: str, pages: int = 100, *, owner: str = "", most: int | None = None) -> None:
        self.windows[name] = self.slots.open(pages, owner=owner, document=name, most=most, on_grant=lambda: None)
        self.take_all()

    def done(self, name: str, pages: int = 1) -> None:
        for _ in range(pages):
            self.in_flight[name] -= 1
            self.windows[name].release()
            self.take_all()

    def take_all(self) -> None:
        for name, window in self.windows.items():
            while window.left and window.take():
                self.in_flight[name] += 1

    def of(self, *names: str) -> Sequence[int]:
        return [self.in_flight[name] for name in names]


def test_a_document_alone_has_all_slots_and_others_get_theirs_in_turns_as_its_pages_finish() -> None:
    engine = Engine(12)
    engine.document("a")
    assert engine.of("a") == [12]
    engine.document("b")
    assert engine.of("a", "b") == [12, 1], "the first page of a document never waits"
    engine.done("a", 6)
    assert engine.of("a", "b") == [8, 4], "one slot less than the first page took, and then each in turn"
    engine.done("a", 8)
    assert engine.of("a", "b") == [4, 8]
    assert engine.slots.in_use == 12


def test_owners_share_before_their_documents_do() -> None:
    engine = Engine(12)
    engine.document("first", 24, owner="x")
    for name in ("a", "b", "c"):
        engine.document(name, owner="x")
    engine.document("d", owner="y")
    engine.done("first", 24)
    assert engine.of("first", "d") == [0, 6]
    assert sorted(engine.of("a", "b", "c")) == [2, 2, 2]


def test_the_capacity_may_grow_and_shrink_while_documents_are_read() -> None:
    engine = Engine(4)
    engine.document("a")
    engine.capacity = 10
    engine.done("a")
    assert engine.of("a") == [10], "noticed with the next slot that is released"
    engine.capacity = 2
    engine.done("a", 7)
    assert engine.of("a") == [3]
    engine.done("a")
    assert engine.of("a") == [2]
    engine.capacity = 0
    engine.done("a", 5)
    assert engine.of("a") == [1], "a document goes on with one page, also without capacity"


def test_a_document_has_no_more_than_its_own_limit_and_leaves_the_others_to_others() -> None:
    engine = Engine(10)
    engine.document("a", most=3)
    engine.document("b")
    assert engine.of("a", "b") == [3, 7]
    engine.done("a")
    engine.done("b", 3)
    assert engine.of("a", "b") == [3, 7]


def test_a_window_that_is_closed_or_paused_gives_back_what_it_has_and_was_given() -> None:
    engine = Engine(4)
    engine.document("a")
    given = engine.slots.open(5, owner="", document="b", most=None, on_grant=lambda: None)
    assert given.take() and not given.take()
    for _ in range(3):  # one too many were in use, the first document asked before, and the second one gets the third
        engine.windows["a"].release()
    assert engine.slots.in_use == 4
    given.pause()
    assert engine.slots.in_use == 3, "the second document has not taken what it was given"
    with given, engine.windows["a"]:
        pass
    assert engine.slots.in_use == 0 and engine.slots.waiting == 0


def test_a_call_stands_for_its_share_of_the_pages_that_wait() -> None:
    engine = Engine(4)
    assert engine.slots.behind == 0
    engine.document("a", 4)
    assert engine.slots.behind == 0
    engine.document("b", 16)
    assert engine.slots.in_use == 5 and engine.slots.waiting == 15
    assert engine.slots.in_use * (1 + engine.slots.behind) == pytest.approx(4 + 16)
    engine.in_line = 100
    assert engine.slots.in_use * (1 + engine.slots.behind) == pytest.approx(120)
    engine.windows["b"].pause()
    engine.in_line = 0
    assert engine.slots.behind == 0, "nobody wants these pages now"


def test_grants_are_announced() -> None:
    slots = PageSlots(lambda: 1)
    granted: list[str] = []
    first = slots.open(1, owner="", document="a", most=None, on_grant=lambda: None)
    second = slots.open(3, owner="", document="b", most=None, on_grant=lambda: granted.append("b"))
    assert first.take() and second.take() and not second.take()
    first.release()
    assert granted == [] and slots.in_use == 1, "the second document's first page has the slot"
    second.release()
    assert granted == ["b"] and second.take()
