"""Jobs: their records, whose turn it is, and what the runner does when things go wrong."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from serve_app.document import EngineInfo, ErrorInfo, Figure, NativePage, Page, PageContent, PageResult, SourceFile
from serve_app.document.ids import document_folder, new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.errors import CorruptDocument, EngineLoading, PageTimeout, RecognitionFailed, ServiceError
from serve_app.jobs import runner as runner_module
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import JobRecord, JobState, as_stored
from serve_app.jobs.runner import Runner
from serve_app.outputs.formats import OutputFormat
from serve_app.paddlex.job import PaddlexJob
from serve_app.pipeline.dispatch import PageOutcome, Pipeline
from serve_app.pipeline.documents import Documents
from serve_app.pipeline.page_cache import PageCache
from serve_app.pipeline.request import DocumentRequest
from serve_app.pipeline.results import Results
from serve_app.settings import FolderStoreSettings, JobSettings, Limits, Settings
from serve_app.storage import StoreUnavailable
from serve_app.storage.folder import FolderStore
from serve_app.storage.links import Links
from serve_app.storage.monitor import StoreMonitor
from tests.support.caches import no_cache

REQUEST = DocumentRequest(engine="x", options=RecognitionOptions())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(runner_module, "LONGEST_PAUSE_S", 0.02)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class Pages:
    """Stands for a Pipeline with a document of three pages; `ends` is what becomes of each page, try by try."""

    def __init__(self, **ends: Sequence[ServiceError | None]) -> None:
        self._ends = {int(name.removeprefix("page_")): list(tries) for name, tries in ends.items()}
        self.tried: list[int] = []

    def slot(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def count_pages(self, source: SourceFile) -> int:
        if source.data == b"%PDF- damaged":
            raise CorruptDocument
        return 3

    async def pages(self, source: SourceFile, numbers: Sequence[int], **_: Any) -> AsyncIterator[PageOutcome]:
        for number in numbers:
            self.tried.append(number)
            ends = self._ends.get(number, [])
            end = ends.pop(0) if ends else None
            figure = Figure("imgs/img_in_image_box_1_2_3_4.jpg", b"jpeg")
            picture = Figure(f"pages/page-{number}.jpg", b"picture")  # which the store has beside what jobs keep
            page = Page(
                number=number, width=9, height=9, dpi=72, text=f"страница {number}", markdown=f"![]({figure.path})"
            )
            paddlex = NativePage({"width": 9, "height": 9, "parsing_res_list": []}, "", (("a", None),))
            result = PageResult(PageContent(page, (figure, picture), paddlex), EngineInfo(name="x", version="1"))
            yield PageOutcome(number, result if end is None else end)


class Flaky(FolderStore):
    """A folder that cannot be written to for as many times."""

    fails = 0

    def _put(self, key: str, data: Any, content_type: str) -> None:
        if "/page-results/" in key and self.fails > 0:
            self.fails -= 1
            raise StoreUnavailable("away")
        super()._put(key, data, content_type)


class Work:
    def __init__(self, folder: Path, pages: Pages, **limits: float) -> None:
        self.store = Flaky(FolderStoreSettings(path=str(folder)))
        self.job_store = JobStore(self.store, no_cache())
        self.settings = Settings(jobs=JobSettings(**cast(Any, limits)))
        self.heard: list[tuple[JobState, int, int]] = []
        self.ended: dict[int, ErrorInfo | None] = {}
        self.then: Callable[[], None] = lambda: None
        documents = Documents(
            cast(Pipeline, pages),
            Results(self.store, StoreMonitor(self.store), keep_source=False),
            no_cache(),
            limits=Limits(),
            share=lambda data: bytes(data),
            fetch=self._fetch,
        )
        self.runner = Runner(
            documents, self.job_store, Links(self.store, self.settings), self._download, self.settings, self._note
        )

    async def _fetch(self, data: bytes) -> bytes:
        return data

    async def _download(self, url: str) -> bytes:
        return b"%PDF- from " + url.encode()

    def _note(self, record: JobRecord, pages: Mapping[int, ErrorInfo | None]) -> None:
        self.heard.append((record.state, record.done, record.failed))
        self.ended.update(pages)
        self.then()

    async def run(self, source: bytes | None = b"%PDF-", **record: Any) -> JobRecord:
        job = JobRecord(id=new_document_id(), owner="me", **{"request": REQUEST, **record})
        await self.job_store.add(job, source)
        assert await self.job_store.active_ids() == [job.id]
        await self.runner.run(job)
        return await self.job_store.record(job.id)


async def test_each_page_is_kept_before_it_counts_and_the_end_is_kept(tmp_path: Path) -> None:
    work = Work(tmp_path, pages := Pages())
    job = await work.run()
    assert (job.state, job.done, job.failed, job.total, job.error) == (JobState.DONE, 3, 0, 3, None)
    assert job.expires is not None and job.ended is not None
    assert job.expires - job.ended == timedelta(seconds=work.settings.jobs.keep_s)
    assert await work.job_store.active_ids() == [] and await work.job_store.ids_of_owner("me") == [job.id]
    assert pages.tried == [1, 2, 3] and [done for _, done, _ in work.heard] == [0, 1, 2, 3, 3]
    reading, engine = await work.job_store.page(job.id, 2)
    assert (reading.page.text, engine.name) == ("страница 2", "x")
    assert [figure.jpeg for figure in reading.figures] == [b"jpeg", b"picture"]
    assert f"![]({reading.figures[0].path})" == reading.page.markdown, "a figure has a name of its own in the document"


async def test_a_job_that_was_left_goes_on_where_it_was(tmp_path: Path) -> None:
    work = Work(tmp_path, first := Pages())
    job = await work.run()
    (page_2,) = (path for path in files_in(tmp_path) if path.name == "000002.json")
    page_2.unlink()
    job.state, job.ended = JobState.RUNNING, None
    await work.job_store.save(job)
    again = Work(tmp_path, pages := Pages())
    await again.runner.run(job)
    assert first.tried == [1, 2, 3] and pages.tried == [2]
    assert (await again.job_store.record(job.id)).done == 3


async def test_a_page_that_fails_is_tried_again_and_then_the_others_are_the_result(tmp_path: Path) -> None:
    work = Work(
        tmp_path, pages := Pages(page_1=[RecognitionFailed()], page_2=[PageTimeout()] * 9, page_3=[CorruptDocument()])
    )
    job = await work.run()
    assert (job.state, job.done, job.failed) == (JobState.PARTIAL, 1, 2)
    assert sorted(pages.tried) == [1, 1, 2, 2, 2, 3]
    ends = {number: None if error is None else error.code for number, error in work.ended.items()}
    assert ends == {1: None, 2: "page_timeout", 3: "corrupt_document"}
    assert [page.number for page in await work.job_store.failed_pages(job.id)] == [2, 3]


async def test_forms_of_the_result_are_kept_and_one_that_cannot_be_made_costs_no_other(tmp_path: Path) -> None:
    work = Work(tmp_path, Pages())
    request = REQUEST.model_copy(update={"outputs": (OutputFormat.PDF, OutputFormat.TEXT, OutputFormat.ZIP)})
    job = await work.run(request=request)
    assert job.state is JobState.DONE
    folder = document_folder(job.id)
    assert {kind: made.key for kind, made in job.outputs.items()} == {
        OutputFormat.PDF: None,
        OutputFormat.TEXT: f"{folder}/result.txt",
        OutputFormat.ZIP: f"{folder}/result.zip",
    }
    error = job.outputs[OutputFormat.PDF].error
    assert error is not None and error.code == "corrupt_document", "the file of this test is none"
    with await work.job_store.open_output(job.id, "result.txt") as file:
        assert "страница 2" in file.read().decode()


async def test_what_passes_is_waited_for(tmp_path: Path) -> None:
    loading = EngineLoading(retry_after_s=1)
    work = Work(tmp_path, pages := Pages(page_1=[loading] * 5, page_3=[loading]))
    work.store.fails = 2
    job = await work.run()
    assert (job.state, job.done, job.failed) == (JobState.DONE, 3, 0)
    assert pages.tried.count(1) == 8, "five times its engine was loading, and twice the store was away"


async def test_a_document_that_cannot_be_read_is_a_failed_job_at_once(tmp_path: Path) -> None:
    work = Work(tmp_path, pages := Pages())
    job = await work.run(b"%PDF- damaged")
    assert job.error is not None and (job.state, job.error.code, pages.tried) == (
        JobState.FAILED,
        "corrupt_document",
        [],
    )
    none = Work(tmp_path / "none", Pages(**{f"page_{number}": [CorruptDocument()] * 9 for number in (1, 2, 3)}))
    job = await none.run()
    assert job.error is not None and (job.state, job.error.code) == (JobState.FAILED, "corrupt_document")
    assert await none.job_store.active_ids() == []


async def test_a_job_has_an_end_even_where_nothing_passes(tmp_path: Path) -> None:
    work = Work(tmp_path, Pages(page_1=[EngineLoading(retry_after_s=1)] * 10_000), job_s=0.5)
    job = await asyncio.wait_for(work.run(), 5)
    assert job.error is not None and (job.state, job.error.code) == (JobState.FAILED, "request_timeout")


async def test_a_url_is_fetched_once(tmp_path: Path) -> None:
    work = Work(tmp_path, Pages())
    job = await work.run(None, url="http://x/y")
    with await work.job_store.source(job.id) as file:
        assert file.read() == b"%PDF- from http://x/y"
    assert job.state is JobState.DONE


async def test_a_lost_picture_costs_no_more_than_itself(tmp_path: Path) -> None:
    work = Work(tmp_path, Pages())
    job = await work.run()
    (picture,) = [path for path in files_in(tmp_path) if path.name == "page-2.jpg"]
    picture.unlink()
    reading, _ = await work.job_store.page(job.id, 2)
    assert [figure.jpeg for figure in reading.figures] == [b"jpeg"]
    assert [warning.code for warning in reading.page.warnings] == ["figure_lost"]


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.DELETED])
async def test_who_has_ended_a_job_first_has_ended_it(tmp_path: Path, state: JobState) -> None:
    work = Work(tmp_path, Pages())
    job = JobRecord(id=new_document_id(), owner="me", request=REQUEST)
    await work.job_store.add(job, b"%PDF-")
    (record,) = [path for path in files_in(tmp_path) if path.name == "job.json"]

    def end_elsewhere() -> None:
        if work.heard[-1][1] == 2:
            record.write_bytes(as_stored(job.ended_as(state, keep_s=60)))

    work.then = end_elsewhere
    await work.runner.run(job)
    assert (await work.job_store.record(job.id)).state is state
    assert await work.job_store.active_ids() == []
    assert ("000001.json" in {path.name for path in files_in(tmp_path)}) is (state is JobState.CANCELLED)


async def test_what_is_cleared_leaves_nothing_but_the_record(tmp_path: Path) -> None:
    work = Work(tmp_path, Pages())
    paddlex = PaddlexJob(model="PaddleOCR-VL", batch_id="a/б", address="http://x/")
    job = await work.run(paddlex=paddlex, file_name="тайна.pdf")
    assert (await work.job_store.ids_of_batch("me", "a/б")) == [job.id] and "result.jsonl" in {
        path.name for path in files_in(tmp_path)
    }
    assert await work.job_store.ids_of_batch("you", "a/б") == []
    await work.job_store.purge(job.ended_as(JobState.EXPIRED, keep_s=0))
    left = [path.name for path in files_in(tmp_path) if "jobs/expires" not in str(path)]
    assert "тайна" in as_stored(job).decode() and "тайна" not in as_stored(await work.job_store.record(job.id)).decode()
    assert sorted(left) == [".link-key", ".ocr-store", "job.json"]
    later = datetime.now(UTC) + timedelta(seconds=work.settings.jobs.keep_s)
    assert {each async for _, each in work.job_store.expiring(later)} == {job.id}


async def test_a_deletion_that_was_broken_off_is_found_again(tmp_path: Path) -> None:
    work = Work(tmp_path, Pages())
    job = await work.run()
    await work.job_store.begin_purge(job.ended_as(JobState.DELETED, keep_s=60))
    assert await work.job_store.active_ids() == [job.id]
    assert await work.job_store.ids_of_owner("me") == [job.id]
    again = Work(tmp_path, Pages())
    await again.runner.run(job)
    assert await work.job_store.active_ids() == [] == await work.job_store.ids_of_owner("me")
    assert (await work.job_store.record(job.id)).state is JobState.DELETED


async def test_who_is_killed_while_a_job_is_made_leaves_nothing_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(tmp_path, Pages())
    job = JobRecord(id=new_document_id(), owner="me", request=REQUEST)

    class Killed(BaseException):
        pass

    async def killed(record: JobRecord) -> None:
        raise Killed

    monkeypatch.setattr(work.job_store, "save", killed)
    with pytest.raises(Killed):
        await work.job_store.add(job, b"%PDF-")
    folder = tmp_path / document_folder(job.id)
    left_behind = folder / ".1234.tmp"
    left_behind.write_bytes(b"half of it")
    os.utime(left_behind, (0, 0))
    found = [each async for _, each in work.job_store.expiring(datetime.now(UTC) + timedelta(days=3))]
    assert found == [job.id] and files_in(folder)
    await work.job_store.delete_all(job.id)
    assert not folder.exists()


async def test_a_page_counts_when_it_is_kept(tmp_path: Path) -> None:
    work = Work(tmp_path, Pages())
    kept: list[int] = []
    work.then = lambda: kept.append(len([path for path in files_in(tmp_path) if "page-results" in str(path)]))
    await work.run()
    assert all(there >= done for there, (_, done, _) in zip(kept, work.heard, strict=True)) and kept[-1] == 3


async def test_a_page_has_its_tries_whatever_else_is_waited_for(tmp_path: Path) -> None:
    loading = [EngineLoading(retry_after_s=1)] * 10
    work = Work(tmp_path, pages := Pages(page_1=[RecognitionFailed()] * 99, page_3=loading))
    job = await work.run()
    assert (job.state, job.done, job.failed) == (JobState.PARTIAL, 2, 1)
    assert pages.tried.count(1) == 3, "three tries in all, although its document was taken up ten times"


async def test_what_is_a_bug_fails_the_job_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(Results, "_put_pages", broken)
    job = await asyncio.wait_for(Work(tmp_path, Pages()).run(), 5)
    assert job.error is not None and (job.state, job.error.code) == (JobState.FAILED, "internal_error")


async def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put, failures = Results._put_pages, [OSError(errno.ENOSPC, "no room")] * 2

    async def full_at_first(self: Results, *arguments: Any) -> None:
        if failures:
            raise failures.pop()
        await put(self, *arguments)

    monkeypatch.setattr(Results, "_put_pages", full_at_first)
    assert (await asyncio.wait_for(Work(tmp_path, Pages()).run(), 5)).state is JobState.DONE


async def test_a_job_that_is_deleted_leaves_no_page_in_the_cache(tmp_path: Path) -> None:
    store = FolderStore(FolderStoreSettings(path=str(tmp_path)))
    cache = PageCache(store, StoreMonitor(store), Settings(cache_days=1), lambda engine: "1")
    digest = cache.digest(b"%PDF-")
    job = JobRecord(id=new_document_id(), owner="me", request=REQUEST, digest=digest)
    pages = cache.pages_of(SourceFile("1", b"", None, "me", digest), "tesseract", RecognitionOptions(), None)
    assert pages is not None
    page = Page(number=1, width=1, height=1, dpi=1)
    await pages.put(1, PageResult(PageContent(page), EngineInfo(name="tesseract", version="1")))
    assert await pages.get(1) is not None
    await JobStore(store, cache).purge(job)
    assert await pages.get(1) is None
