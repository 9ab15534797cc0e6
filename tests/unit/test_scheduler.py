"""The scheduler and the progress board: which jobs run, what is seen of them, and what stopping one leaves."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from serve_app.document import ErrorInfo
from serve_app.document.ids import new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.jobs.progress import ProgressBoard
from serve_app.jobs.record import JobRecord, JobState, Priority
from serve_app.jobs.scheduler import LEAST_IN_FLIGHT, Scheduler
from serve_app.pipeline.request import DocumentRequest


def job(
    owner: str = "a", priority: Priority = Priority.INTERACTIVE, engine: str = "x", total: int | None = None
) -> JobRecord:
    request = DocumentRequest(engine=engine, options=RecognitionOptions())
    return JobRecord(id=new_document_id(), owner=owner, priority=priority, request=request, total=total)


class Desk:
    """A scheduler whose jobs end when they are told to, with an exception perhaps."""

    def __init__(self, in_flight: int | None, capacity: int = 0, documents: int = 1000, **capacities: int) -> None:
        self.board = ProgressBoard()
        self.scheduler = Scheduler(
            self._run,
            self.board,
            in_flight=in_flight,
            capacity=lambda engine: capacities.get(engine, capacity),
            documents=lambda: documents,
        )
        self.started: list[str] = []
        self._ends: dict[str, asyncio.Future[None]] = {}

    async def _run(self, record: JobRecord) -> None:
        self.started.append(record.id)
        end = self._ends[record.id] = asyncio.get_running_loop().create_future()
        await end

    async def end(self, record: JobRecord, error: Exception | None = None) -> None:
        end = self._ends[record.id]
        end.set_exception(error) if error is not None else end.set_result(None)
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_as_many_jobs_run_as_there_are_slots_and_the_next_one_follows() -> None:
    desk = Desk(in_flight=1)
    first, second, third = job(), job(), job()
    for each in (first, second, second, third):
        desk.scheduler.add(each)
    await settle()
    assert desk.started == [first.id]
    assert (desk.scheduler.running, desk.scheduler.waiting) == (1, 2)
    assert [desk.scheduler.position(each.id) for each in (first, second, third)] == [None, 1, 2]
    await desk.end(first)
    assert desk.started == [first.id, second.id]
    assert first.id not in desk.scheduler and desk.board.get(first.id) is None
    await desk.end(second)
    assert desk.started == [first.id, second.id, third.id], "the one that was added twice runs once"


async def test_an_interactive_job_of_an_owner_with_none_running_does_not_wait_for_a_slot() -> None:
    desk = Desk(in_flight=1)
    bulk, mine, my_second, yours = job("a", Priority.BULK), job("a"), job("a"), job("b")
    for each in (bulk, mine, my_second, yours):
        desk.scheduler.add(each)
    await settle()
    assert desk.started == [bulk.id, mine.id], (
        "a second slot at most, for an owner whose only running job is a bulk one"
    )
    await desk.end(bulk)
    assert desk.started[2:] == [yours.id], "and the owner with a running job waits for a slot of the first kind"


async def test_a_stopped_job_is_gone_and_makes_room() -> None:
    desk = Desk(in_flight=1)
    running, queued, last = job(), job(), job()
    for each in (running, queued, last):
        desk.scheduler.add(each)
    await settle()
    await desk.scheduler.stop(queued.id)
    assert desk.started == [running.id] and queued.id not in desk.scheduler
    await desk.scheduler.stop(running.id)
    assert desk.board.get(running.id) is None
    await settle()
    assert desk.started == [running.id, last.id]
    desk.scheduler.add(queued)
    assert desk.scheduler.position(queued.id) == 1, "it may come again"


async def test_a_job_that_stops_unexpectedly_may_be_added_again() -> None:
    desk = Desk(in_flight=1)
    desk.scheduler.add(record := job())
    await settle()
    await desk.end(record, RuntimeError("a bug"))
    assert record.id not in desk.scheduler
    desk.scheduler.add(record)
    await settle()
    assert desk.started == [record.id, record.id]


async def test_a_job_that_has_ended_is_not_run() -> None:
    desk = Desk(in_flight=1)
    desk.scheduler.add(job().ended_as(JobState.CANCELLED, keep_s=60))
    await settle()
    assert desk.started == [] and desk.scheduler.running == desk.scheduler.waiting == 0


async def test_watchers_get_what_is_newer_than_what_they_have_seen() -> None:
    board = ProgressBoard()
    board.add(record := job())
    waiting = asyncio.create_task(board.wait_for_change(record.id, 0, 60))
    await settle()
    assert not waiting.done()
    error = ErrorInfo(code="page_timeout", message="")
    board.update(record, {1: None, 2: error})
    progress = await asyncio.wait_for(waiting, 5)
    assert progress is not None and (progress.version, progress.pages) == (1, {1: None, 2: error})
    assert await board.wait_for_change(record.id, 0, 60) is progress, "at once"
    assert await board.wait_for_change(record.id, 1, 0.01) is progress, "after the wait"


async def test_watchers_of_a_job_that_is_removed_do_not_wait_for_nothing() -> None:
    board = ProgressBoard()
    board.add(record := job())
    waiting = asyncio.create_task(board.wait_for_change(record.id, 0, 60))
    await settle()
    board.remove(record.id)
    assert await asyncio.wait_for(waiting, 5) is None
    assert await board.wait_for_change(record.id, -1, 0) is None


def test_the_estimate_is_the_pace_of_new_pages_times_what_is_left() -> None:
    now = 100.0
    board = ProgressBoard(clock=lambda: now)
    record = job().model_copy(update={"state": JobState.RUNNING, "started": datetime.now(UTC), "total": 10})
    board.add(record)
    board.restart_pace()
    now += 50
    board.update(record, {1: None, 2: None})
    assert board.left_s(record, 1) is None, "pages that are restored tell no pace"
    now += 2
    record.done = 3
    board.update(record, {3: None})
    assert board.left_s(record, 1) == 14.0
    assert board.left_s(record, 2) == 28.0, "two jobs share the pace"
    now += 7
    record.done = 4
    board.update(record, {4: None})
    assert board.left_s(record, 1) == 18.0, "a fifth of the latest page, four of the earlier ones: 3 s a page"


async def test_without_a_limit_jobs_start_while_the_running_ones_do_not_keep_the_engines_busy() -> None:
    desk = Desk(in_flight=None, capacity=128)
    jobs = [job() for _ in range(10)]
    for each in jobs:
        desk.scheduler.add(each)
    await settle()
    assert len(desk.started) == LEAST_IN_FLIGHT, "how long they are is not known yet"
    for each in jobs[:4]:
        each.total = 100
    desk.scheduler.start_next()
    await settle()
    assert len(desk.started) == 4, "400 pages are enough"
    for each in jobs[:4]:
        each.done, each.failed = 60, 10
    desk.scheduler.start_next()
    await settle()
    assert len(desk.started) == 5, "120 pages are too few; the next job may be long"
    for each in jobs[:5]:
        each.total = each.done = 1
    desk.scheduler.start_next()
    await settle()
    assert len(desk.started) == 9 and desk.scheduler.free == 0, "5 of one page, and 4 that may be long"


async def test_jobs_for_a_small_engine_do_not_start_because_a_large_one_is_idle_nor_hold_up_its_jobs() -> None:
    desk = Desk(in_flight=None, large=128, small=8)
    for _ in range(20):
        desk.scheduler.add(job(engine="small", total=8))
    await settle()
    assert len(desk.started) == LEAST_IN_FLIGHT
    large = [job(engine="large", total=50) for _ in range(5)]
    for each in large:
        desk.scheduler.add(each)
    await settle()
    assert desk.started[LEAST_IN_FLIGHT:] == [each.id for each in large[:3]], "in their order, until 128 pages are left"
    assert desk.scheduler.free == 0


async def test_no_more_jobs_start_than_there_may_be_documents() -> None:
    desk = Desk(in_flight=None, documents=6, one=100, other=100)
    for _ in range(10):
        desk.scheduler.add(job(engine="one", total=1))
        desk.scheduler.add(job(engine="other", total=1))
    await settle()
    assert len(desk.started) == 6


async def test_without_a_limit_and_without_engines_some_jobs_run() -> None:
    desk = Desk(in_flight=None)
    assert desk.scheduler.free == LEAST_IN_FLIGHT
    for _ in range(6):
        desk.scheduler.add(job())
    await settle()
    assert len(desk.started) == LEAST_IN_FLIGHT
    await desk.scheduler.stop_all()
    assert len(desk.started) == LEAST_IN_FLIGHT and desk.scheduler.waiting == 0


async def test_the_pages_of_waiting_jobs_are_counted_by_engine() -> None:
    desk = Desk(in_flight=1)
    running, fresh, resumed = job(), job(), job()
    resumed.total, resumed.done, resumed.failed = 50, 20, 5
    for each in (running, fresh, resumed):
        desk.scheduler.add(each)
    assert (desk.scheduler.pages_in_line("x"), desk.scheduler.pages_in_line("other")) == (1 + 25, 0)
    await settle()
    await desk.end(running)
    assert desk.scheduler.pages_in_line("x") == 25
    await desk.scheduler.stop(resumed.id)
    assert desk.scheduler.pages_in_line("x") == 0
