"""The job queue: whose turn it is."""

from __future__ import annotations

import time

from serve_app.jobs.queue import JobQueue
from serve_app.jobs.record import Priority


def test_owners_take_turns_and_interactive_jobs_go_first() -> None:
    queue = JobQueue()
    for job, owner in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")):
        queue.add(job, owner, Priority.INTERACTIVE)
    queue.add("bulk", "c", Priority.BULK)
    assert queue.in_order() == ["a1", "b1", "a2", "a3", "bulk"]
    queue.remove("a2")
    assert [queue.pop() for _ in range(5)] == ["a1", "b1", "a3", "bulk", None]


def test_the_position_is_that_in_the_order_whatever_happens_to_the_queue() -> None:
    queue = JobQueue()

    def positions_are_those_of_the_order() -> bool:
        order = queue.in_order()
        return [queue.position(job_id) for job_id in order] == list(range(1, len(order) + 1))

    for number in range(20):
        queue.add(f"job {number}", f"owner {number % 7 % 4}", (Priority.BULK, Priority.INTERACTIVE)[number % 3 > 0])
        assert positions_are_those_of_the_order() and len(queue.in_order()) == number + 1
    queue.remove("job 3")
    assert queue.position("job 3") is None and positions_are_those_of_the_order()
    first = queue.pop()
    assert first is not None and queue.position(first) is None and positions_are_those_of_the_order()
    other = queue.pop_interactive(exclude_owners={"owner 0"})
    assert other is not None and queue.position(other) is None and positions_are_those_of_the_order()


def test_an_owner_with_ten_thousand_jobs_makes_a_look_no_slower_for_a_hundred_others() -> None:
    queue = JobQueue()
    for number in range(10_000):
        queue.add(f"many {number}", "many", Priority.INTERACTIVE)
    for number in range(100):
        queue.add(f"one {number}", f"owner {number}", Priority.INTERACTIVE)
    started = time.process_time()
    for number in range(100):
        assert queue.position(f"one {number}") == number + 2
    assert time.process_time() - started < 0.5, "the order is made once, in one step a job"


def test_an_interactive_job_of_another_owner_may_be_popped() -> None:
    queue = JobQueue()
    queue.add("bulk", "c", Priority.BULK)
    for job, owner in (("a1", "a"), ("b1", "b"), ("b2", "b")):
        queue.add(job, owner, Priority.INTERACTIVE)
    assert queue.pop_interactive(exclude_owners={"a"}) == "b1"
    assert queue.pop_interactive(exclude_owners={"a", "b"}) is None
    assert queue.in_order() == ["a1", "b2", "bulk"]


def test_every_fourth_job_is_a_bulk_one() -> None:
    queue = JobQueue()
    for number in range(8):
        queue.add(f"i{number}", "a", Priority.INTERACTIVE)
        queue.add(f"b{number}", "b", Priority.BULK)
    popped = [queue.pop() for _ in range(8)]
    assert popped == ["i0", "i1", "i2", "b0", "i3", "i4", "i5", "b1"]
