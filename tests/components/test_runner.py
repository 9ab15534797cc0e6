"""The runner: what it stores, what it retries or waits for, and how a job ends."""

from __future__ import annotations

import asyncio
import errno
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from serve_app.document import DocumentStatus, EngineInfo, Figure, Page, PageContent
from serve_app.document.ids import document_folder, new_document_id
from serve_app.document.spool import PageSpool
from serve_app.errors import (
    CorruptDocument,
    EngineLoading,
    PageTimeout,
    QueueFull,
    RecognitionFailed,
    ServiceUnavailable,
)
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import Dialect, JobRecord, JobState, encode_record
from serve_app.metrics.catalogue import JOBS_ENDED
from serve_app.outputs.formats import OutputFormat
from serve_app.outputs.rendering import Renderer
from serve_app.outputs.writer_client import WrittenFile
from serve_app.pipeline.results import Results
from serve_app.settings import FolderStoreSettings
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.sender import SpoolSender
from serve_app.storage.spool import ResultSpool
from serve_app.storage.spooled_writes import SpooledWrites
from tests.support.caches import no_cache
from tests.support.job_runs import REQUEST, Bench, Pages, files_in
from tests.support.metrics import grows


async def test_pages_and_the_end_are_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path, pages := Pages())
    with grows(JOBS_ENDED, state="done", reason=""):
        job = await bench.run()
    assert (job.state, job.done, job.failed, job.total, job.error) == (JobState.DONE, 3, 0, 3, None)
    assert job.expires is not None and job.ended is not None
    assert job.expires - job.ended == timedelta(seconds=bench.settings.jobs.keep_s)
    assert await bench.job_store.active_ids() == [] and await bench.job_store.ids_of_owner("me") == [job.id]
    assert pages.tried == [1, 2, 3] and [done for _, done, _ in bench.changes] == [0, 1, 2, 3, 3]
    reading, engine = await bench.job_store.page(job.id, 2)
    assert (reading.page.text, engine.name) == ("страница 2", "x")
    assert [figure.jpeg for figure in reading.figures] == [b"jpeg", b"picture"]
    assert f"![]({reading.figures[0].path})" == reading.page.markdown, "a figure has a name of its own in the document"


async def test_a_job_is_resumed_with_the_pages_that_are_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path, first := Pages())
    job = await bench.run()
    (page_2,) = (path for path in files_in(tmp_path) if path.name == "000002.json")
    page_2.unlink()
    job.state, job.ended = JobState.RUNNING, None
    await bench.job_store.save(job)
    again = Bench(tmp_path, pages := Pages())
    await again.runner.run(job)
    assert first.tried == [1, 2, 3] and pages.tried == [2]
    assert (await again.job_store.record(job.id)).done == 3


@pytest.mark.parametrize("damage", ["cut off", "gone"])
async def test_a_page_that_cannot_be_read_back_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    bench = Bench(tmp_path, Pages())
    job = await bench.run()
    (page_2,) = (path for path in files_in(tmp_path) if path.name == "000002.json")
    page_2.write_bytes(b"{")
    job.state, job.ended = JobState.RUNNING, None
    await bench.job_store.save(job)
    again = Bench(tmp_path, pages := Pages())
    if damage == "gone":  # it is listed, and not there: another process is taking it over in the spool

        async def page(job_id: str, number: int) -> tuple[PageContent, EngineInfo]:
            if number == 2 and not pages.tried:
                raise KeyError(number)
            return await JobStore.page(again.job_store, job_id, number)

        monkeypatch.setattr(again.job_store, "page", page)
    await again.runner.run(job)
    ended = await again.job_store.record(job.id)
    assert (ended.state, ended.done, pages.tried) == (JobState.DONE, 3, [2])


async def test_a_failed_page_is_retried_and_then_left_out_of_the_result(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, pages := Pages(page_1=[RecognitionFailed()], page_2=[PageTimeout()] * 9, page_3=[CorruptDocument()])
    )
    job = await bench.run()
    assert (job.state, job.done, job.failed) == (JobState.PARTIAL, 1, 2)
    assert sorted(pages.tried) == [1, 1, 2, 2, 2, 3]
    ends = {number: None if error is None else error.code for number, error in bench.finished.items()}
    assert ends == {1: None, 2: "page_timeout", 3: "corrupt_document"}
    read, given_up = await bench.job_store.finished_pages(job.id)
    assert read == [1] and [page.number for page in given_up] == [2, 3]


async def test_an_output_that_cannot_be_made_costs_no_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Pages())
    request = REQUEST.model_copy(update={"outputs": (OutputFormat.PDF, OutputFormat.TEXT, OutputFormat.ZIP)})
    job = await bench.run(request=request)
    assert job.state is JobState.DONE
    folder = document_folder(job.id)
    assert {kind: made.key for kind, made in job.outputs.items()} == {
        OutputFormat.PDF: None,
        OutputFormat.TEXT: f"{folder}/result.txt",
        OutputFormat.ZIP: f"{folder}/result.zip",
    }
    error = job.outputs[OutputFormat.PDF].error
    assert error is not None and error.code == "corrupt_document", "the file of this test is none"
    with await bench.job_store.open_output(job.id, "result.txt") as file:
        assert "страница 2" in file.read().decode()


async def test_outages_of_the_engine_and_the_store_are_waited_for(tmp_path: Path) -> None:
    loading = EngineLoading(retry_after_s=1)
    bench = Bench(tmp_path, pages := Pages(page_1=[loading] * 5, page_3=[loading]))
    bench.store.fails = 2
    job = await bench.run()
    assert (job.state, job.done, job.failed) == (JobState.DONE, 3, 0)
    # Five times its engine was loading. Then the store was away for two writes, at one try or at two: pages are stored side by side.
    assert pages.tried.count(1) >= 7 and bench.store.fails == 0


async def test_pages_that_wait_in_the_spool_are_read_once_and_in_the_store_before_the_job_ends(tmp_path: Path) -> None:
    spool = ResultSpool(tmp_path / "spool", 10**6)
    bench = Bench(tmp_path / "store", pages := Pages(), spool=spool)
    bench.store.fails = 3  # at the first page, and at the end of the job twice
    waiting: list[int] = []
    bench.then = lambda: waiting.append(spool.waiting.results)
    job = await bench.run()
    assert (job.state, job.done, bench.store.fails) == (JobState.DONE, 3, 0)
    assert sorted(pages.tried) == [1, 2, 3] and max(waiting) == 3
    assert await bench.job_store.numbers_in_store(job.id) == [1, 2, 3]
    sender = SpoolSender(spool, bench.store, StoreMonitor(bench.store), bench.job_store.is_page_of_gone_job)
    assert await sender.send() == 3 and spool.waiting.results == 0, "sending them once more does no harm"
    assert await bench.job_store.numbers_in_store(job.id) == [1, 2, 3]
    content, _ = await bench.job_store.page(job.id, 2)
    assert len(content.figures) == 2


async def test_a_page_that_is_being_sent_from_the_spool_while_its_job_ends_stays_in_the_store(tmp_path: Path) -> None:
    spool = ResultSpool(tmp_path / "spool", 10**6)
    bench = Bench(tmp_path / "store", Pages(), spool=spool)
    bench.store.fails = 3
    ended = asyncio.Event()

    class Slow(FolderStore):
        async def put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
            await ended.wait()
            await super().put(key, data, content_type)

    slow = Slow(FolderStoreSettings(path=str(tmp_path / "store")))
    sending: list[asyncio.Task[int]] = []

    def send_once() -> None:
        if spool.waiting.results and not sending:
            sender = SpoolSender(spool, slow, StoreMonitor(slow), bench.job_store.is_page_of_gone_job)
            sending.append(asyncio.create_task(sender.send()))

    bench.then = send_once
    job = await bench.run()
    assert job.state is JobState.DONE
    ended.set()
    assert await sending[0] >= 1
    assert await bench.job_store.numbers_in_store(job.id) == [1, 2, 3]


async def test_a_page_that_the_store_has_and_does_not_list_yet_is_in_the_result(tmp_path: Path) -> None:
    bench = Bench(tmp_path, pages := Pages())
    bench.store.unlisted = (2,)
    job = await bench.run()
    assert (job.state, job.done, pages.tried) == (JobState.DONE, 3, [1, 2, 3])
    assert await bench.job_store.finished_pages(job.id) == ([1, 2, 3], [])
    with closing(PageSpool()) as spool:
        summary = await bench.job_store.load_document(job.id, spool)
        assert summary.status is DocumentStatus.DONE
        assert [page.text for page in spool.pages()] == ["страница 1", "страница 2", "страница 3"]


async def test_a_page_is_found_in_the_spool_and_a_deleted_job_leaves_none_there(tmp_path: Path) -> None:
    spool = ResultSpool(tmp_path / "spool", 10**6)
    bench = Bench(tmp_path / "store", Pages(), spool=spool)
    job = JobRecord(id=new_document_id(), owner="me", request=REQUEST)
    await bench.job_store.add(job, b"%PDF-")
    bench.store.fails = 1
    figure = Figure("imgs/a.jpg", b"jpeg")
    page = Page(number=7, width=1, height=1, dpi=1, markdown="![](imgs/a.jpg)")
    await bench.job_store.save_page(job.id, PageContent(page, (figure,)), EngineInfo(name="x", version="1"))
    other = JobStore(bench.store, no_cache(), SpooledWrites(bench.store, StoreMonitor(bench.store), spool))
    for each in (bench.job_store, other):
        assert await each.page_numbers(job.id) == [7] and await each.numbers_in_store(job.id) == []
        content, engine = await each.page(job.id, 7)
        assert content.figures == (figure,) and engine.name == "x"
    await other.purge(job.ended_as(JobState.DELETED, keep_s=60))
    assert spool.waiting.results == 0 and await bench.job_store.page_numbers(job.id) == []


@pytest.mark.parametrize("record_too", [False, True], ids=["deleted", "and its record"])
async def test_a_page_in_the_spool_of_one_node_is_not_left_in_the_store_when_its_job_was_deleted_at_another(
    tmp_path: Path, record_too: bool
) -> None:
    spool = ResultSpool(tmp_path / "spool", 10**6)
    bench = Bench(tmp_path / "store", Pages(), spool=spool)
    elsewhere = JobStore(bench.store, no_cache(), SpooledWrites(bench.store, StoreMonitor(bench.store), None))
    jobs = [JobRecord(id=new_document_id(), owner="me", request=REQUEST) for _ in range(2)]
    content = PageContent(Page(number=7, width=1, height=1, dpi=1), (Figure("imgs/a.jpg", b"jpeg"),))
    for job in jobs:
        await bench.job_store.add(job, b"%PDF-")
    bench.store.fails = 1
    for job in jobs:
        await bench.job_store.save_page(job.id, content, EngineInfo(name="x", version="1"))
    deleted, kept = jobs
    await elsewhere.purge(deleted.ended_as(JobState.DELETED, keep_s=60))
    if record_too:
        await elsewhere.delete_all(deleted.id)
    sender = SpoolSender(spool, bench.store, StoreMonitor(bench.store), bench.job_store.is_page_of_gone_job)
    await sender.send()
    assert spool.waiting.results == 0
    assert await bench.job_store.numbers_in_store(kept.id) == [7]
    left = await bench.store.keys_below(document_folder(deleted.id))
    assert left == ([] if record_too else [f"{document_folder(deleted.id)}/job.json"])


async def test_a_document_that_cannot_be_read_fails_the_job_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, pages := Pages())
    job = await bench.run(b"%PDF- damaged")
    assert job.error is not None and (job.state, job.error.code, pages.tried) == (
        JobState.FAILED,
        "corrupt_document",
        [],
    )
    none = Bench(tmp_path / "none", Pages(**{f"page_{number}": [CorruptDocument()] * 9 for number in (1, 2, 3)}))
    job = await none.run()
    assert job.error is not None and (job.state, job.error.code) == (JobState.FAILED, "corrupt_document")
    assert await none.job_store.active_ids() == []


async def test_a_job_fails_after_its_longest_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Pages(page_1=[EngineLoading(retry_after_s=1)] * 10_000), job_s=0.5)
    job = await asyncio.wait_for(bench.run(), 5)
    assert job.error is not None and (job.state, job.error.code) == (JobState.FAILED, "request_timeout")


async def test_a_document_is_fetched_once_and_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Pages())
    job = await bench.run(None, url="http://x/y")
    with await bench.job_store.open_source(job.id) as file:
        assert file.read() == b"%PDF- from http://x/y"
    assert job.state is JobState.DONE


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.DELETED])
async def test_the_first_end_of_a_job_holds(tmp_path: Path, state: JobState) -> None:
    bench = Bench(tmp_path, Pages())
    job = JobRecord(id=new_document_id(), owner="me", request=REQUEST)
    await bench.job_store.add(job, b"%PDF-")
    (record,) = [path for path in files_in(tmp_path) if path.name == "job.json"]

    def end_elsewhere() -> None:
        if bench.changes[-1][1] == 2:
            record.write_bytes(encode_record(job.ended_as(state, keep_s=60)))

    bench.then = end_elsewhere
    await bench.runner.run(job)
    assert (await bench.job_store.record(job.id)).state is state
    assert await bench.job_store.active_ids() == []
    assert ("000001.json" in {path.name for path in files_in(tmp_path)}) is (state is JobState.CANCELLED)


async def test_a_page_counts_only_once_it_is_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Pages())
    kept: list[int] = []
    bench.then = lambda: kept.append(len([path for path in files_in(tmp_path) if "page-results" in str(path)]))
    await bench.run()
    assert all(there >= done for there, (_, done, _) in zip(kept, bench.changes, strict=True)) and kept[-1] == 3


async def test_waiting_for_an_outage_adds_no_tries_to_a_failing_page(tmp_path: Path) -> None:
    loading = [EngineLoading(retry_after_s=1)] * 10
    bench = Bench(tmp_path, pages := Pages(page_1=[RecognitionFailed()] * 99, page_3=loading))
    job = await bench.run()
    assert (job.state, job.done, job.failed) == (JobState.PARTIAL, 2, 1)
    assert pages.tried.count(1) == 3, "three tries in all, although its document was taken up ten times"


async def test_a_bug_fails_the_job_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(Results, "_put_result", broken)
    job = await asyncio.wait_for(Bench(tmp_path, Pages()).run(), 5)
    assert job.error is not None and (job.state, job.error.code) == (JobState.FAILED, "internal_error")


async def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put, failures = Results._put_result, [OSError(errno.ENOSPC, "no room")] * 2

    async def full_at_first(self: Results, *arguments: Any) -> None:
        if failures:
            raise failures.pop()
        await put(self, *arguments)

    monkeypatch.setattr(Results, "_put_result", full_at_first)
    assert (await asyncio.wait_for(Bench(tmp_path, Pages()).run(), 5)).state is JobState.DONE


async def test_the_result_of_a_dialect_is_made_by_its_writer(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Pages())
    job = await bench.run(dialect=Dialect(name="lines", payload={"mark": "> "}))
    with await bench.job_store.open_output(job.id, "result.lines") as file:
        assert file.read().decode() == "> страница 1\n> страница 2\n> страница 3\n"
    unknown = await bench.run(dialect=Dialect(name="of a later version", payload={}))
    assert unknown.error is not None and (unknown.state, unknown.error.code) == (JobState.FAILED, "internal_error")


async def test_an_outage_while_an_output_is_made_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render, outages = Renderer.render, [QueueFull(), ServiceUnavailable()]

    async def busy_at_first(self: Renderer, output: OutputFormat, *arguments: Any, **options: Any) -> WrittenFile:
        if output is OutputFormat.TEXT and outages:
            raise outages.pop()
        return await render(self, output, *arguments, **options)

    monkeypatch.setattr(Renderer, "render", busy_at_first)
    request = REQUEST.model_copy(update={"outputs": (OutputFormat.TEXT,)})
    job = await asyncio.wait_for(Bench(tmp_path, Pages()).run(request=request), 5)
    assert job.state is JobState.DONE and job.outputs[OutputFormat.TEXT].error is None and outages == []


async def test_a_page_that_is_lost_while_the_job_runs_is_stored_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Pages())

    def lose_page_1() -> None:
        if bench.changes[-1] == (JobState.RUNNING, 3, 0):  # earlier, it may be about to be stored
            (page_1,) = (path for path in files_in(tmp_path) if path.name == "000001.json")
            page_1.unlink()

    bench.then = lose_page_1
    job = await bench.run()
    assert await bench.job_store.page_numbers(job.id) == [1, 2, 3]


async def test_several_pages_are_stored_at_once_and_none_after_the_job_is_stopped(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Pages())
    saving: list[int] = []
    all_begun, go_on = asyncio.Event(), asyncio.Event()
    save_page = bench.job_store.save_page

    async def slow(job_id: str, content: PageContent, engine: EngineInfo) -> None:
        saving.append(content.page.number)
        if len(saving) == 3:
            all_begun.set()
        await go_on.wait()
        await save_page(job_id, content, engine)

    bench.job_store.save_page = slow  # type: ignore[method-assign]  # the real store, made slow
    running = asyncio.create_task(bench.run())
    await all_begun.wait()
    assert not [path for path in files_in(tmp_path) if "page-results" in str(path)]
    running.cancel()
    await asyncio.wait({running})
    go_on.set()
    await asyncio.sleep(0.05)
    assert not [path for path in files_in(tmp_path) if "page-results" in str(path)]
    (job_id,) = await bench.job_store.active_ids()
    await bench.runner.run(await bench.job_store.record(job_id))
    assert (await bench.job_store.record(job_id)).done == 3
