from __future__ import annotations

from collections.abc import Iterator

import pytest

from serve_app.scheduling.fair_queue import FairQueue


def filled(*items: str) -> FairQueue[str]:
    """`owner document page` in three characters, as in "a12"."""
    queue: FairQueue[str] = FairQueue()
    for item in items:
        push(queue, item)
    return queue


def push(queue: FairQueue[str], item: str) -> None:
    queue.push(item, owner=item[0], caller=item[:2])


def drained(queue: FairQueue[str], limit: int = 1) -> Iterator[list[str]]:
    while queue:
        yield queue.pop_batch(limit)


@pytest.mark.parametrize(
    ("items", "order"),
    [
        ("", ""),
        ("a11 a12 a13", "a11 a12 a13"),
        ("a11 a12 a13 a21", "a11 a21 a12 a13"),
        ("a11 a12 a13 b11", "a11 b11 a12 a13"),
        ("a11 a12 a21 a22 a31 a32 b11 b12 b13", "a11 b11 a21 b12 a31 b13 a12 a22 a32"),
        ("a11 b11 c11 c21 b12 a12", "a11 b11 c11 a12 b12 c21"),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 4, 100])
def test_owners_take_turns_and_callers_take_the_turns_of_their_owner(items: str, order: str, limit: int) -> None:
    batches = list(drained(filled(*items.split()), limit))
    assert [item for batch in batches for item in batch] == order.split()
    assert all(len(batch) == limit for batch in batches[:-1])


def test_who_comes_while_a_batch_runs_is_before_those_in_it() -> None:
    queue = filled("a11", "a12", "b11", "b12")
    assert queue.pop_batch(2) == ["a11", "b11"]
    push(queue, "c11")
    assert list(drained(queue)) == [["c11"], ["a12"], ["b12"]]


def test_the_document_that_comes_while_another_of_its_owner_runs_is_next() -> None:
    queue = filled("a11", "a12", "a13")
    assert queue.pop_batch(1) == ["a11"]
    push(queue, "a21")
    assert list(drained(queue)) == [["a21"], ["a12"], ["a13"]]


def test_an_owner_who_was_away_gets_no_turns_for_it() -> None:
    queue = filled()
    for _ in range(10):
        push(queue, "a11")
        queue.pop_batch(1)
    for item in ("b11", "b12", "b13", "a12"):
        push(queue, item)
    assert list(drained(queue)) == [["b11"], ["a12"], ["b12"], ["b13"]]


def test_newcomers_without_end_do_not_starve_a_long_document() -> None:
    queue = filled("a11", "a12", "a13", "a14", "a15")
    done: list[str] = []
    for number in range(60):  # five of them always wait
        queue.push(f"new {number}", owner=str(number), caller="")
        if number >= 5:
            done += queue.pop_batch(1)
    assert sum(item.startswith("a") for item in done) == 5


def test_removed_items_are_passed_over_and_others_stay() -> None:
    queue = filled("a11", "a12", "b11")
    for item in ("a11", "b11", "b11", "z99"):
        queue.remove(item, owner=item[0], caller=item[:2])
    assert (len(queue), list(queue)) == (1, ["a12"])
    assert list(drained(queue)) == [["a12"]]


def test_owners_and_callers_without_items_are_forgotten() -> None:
    queue = filled()
    for number in range(50):
        queue.push("page", owner="a", caller=f"document {number}")
        queue.push("page", owner=str(number), caller="document")
        if number % 2:
            queue.remove("page", owner="a", caller=f"document {number}")
        queue.pop_batch(2)
    list(drained(queue, 100))
    assert len(queue._owners) == len(queue) == 0
    assert queue.pop_batch(1) == [] and len(queue._last_batch) == 0


def test_a_cleared_queue_is_empty() -> None:
    queue = filled("a11", "b11")
    queue.clear()
    assert (len(queue), bool(queue), queue.pop_batch(1)) == (0, False, [])
