"""The job queue: whose turn it is."""

from __future__ import annotations

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
