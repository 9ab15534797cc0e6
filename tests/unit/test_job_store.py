"""The store of jobs: what is lost, purged or left behind."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve_app.document import EngineInfo, Page, PageContent, PageResult, SourceFile
from serve_app.document.ids import document_folder, new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import Dialect, JobRecord, JobState, encode_record
from serve_app.pipeline.page_cache import PageCache
from serve_app.settings import FolderStoreSettings, Settings
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import StoreMonitor
from tests.support.job_runs import REQUEST, Bench, Pages, files_in


async def test_a_lost_figure_is_a_warning_of_its_page(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Pages())
    job = await bench.run()
    (picture,) = [path for path in files_in(tmp_path) if path.name == "page-2.jpg"]
    picture.unlink()
    reading, _ = await bench.job_store.page(job.id, 2)
    assert [figure.jpeg for figure in reading.figures] == [b"jpeg"]
    assert [warning.code for warning in reading.page.warnings] == ["figure_lost"]


async def test_a_purge_leaves_only_the_record(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Pages())
    job = await bench.run(batch_id="a/б", dialect=Dialect(name="lines", payload={"mark": ""}), file_name="тайна.pdf")
    assert (await bench.job_store.ids_of_batch("me", "a/б")) == [job.id] and "result.lines" in {
        path.name for path in files_in(tmp_path)
    }
    assert await bench.job_store.ids_of_batch("you", "a/б") == []
    await bench.job_store.purge(job.ended_as(JobState.EXPIRED, keep_s=0))
    left = [path.name for path in files_in(tmp_path) if "jobs/expires" not in str(path)]
    assert (
        "тайна" in encode_record(job).decode()
        and "тайна" not in encode_record(await bench.job_store.record(job.id)).decode()
    )
    assert sorted(left) == [".ocr-store", "job.json"]
    purged = await bench.job_store.record(job.id)
    assert (purged.dialect, purged.batch_id, purged.url, purged.outputs) == (None, None, None, {})
    later = datetime.now(UTC) + timedelta(seconds=bench.settings.jobs.keep_s)
    assert {each async for _, each in bench.job_store.expiring(later)} == {job.id}


async def test_an_interrupted_purge_is_completed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Pages())
    job = await bench.run()
    await bench.job_store.begin_purge(job.ended_as(JobState.DELETED, keep_s=60))
    assert await bench.job_store.active_ids() == [job.id]
    assert await bench.job_store.ids_of_owner("me") == [job.id]
    again = Bench(tmp_path, Pages())
    await again.runner.run(job)
    assert await bench.job_store.active_ids() == [] == await bench.job_store.ids_of_owner("me")
    assert (await bench.job_store.record(job.id)).state is JobState.DELETED


async def test_what_a_process_leaves_that_is_killed_while_it_adds_a_job_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, Pages())
    job = JobRecord(id=new_document_id(), owner="me", request=REQUEST)

    class Killed(BaseException):
        pass

    async def killed(record: JobRecord) -> None:
        raise Killed

    monkeypatch.setattr(bench.job_store, "save", killed)
    with pytest.raises(Killed):
        await bench.job_store.add(job, b"%PDF-")
    assert await bench.job_store.active_ids() == [], "nobody runs a job that has no record"
    folder = tmp_path / document_folder(job.id)
    left_behind = folder / ".1234.tmp"
    left_behind.write_bytes(b"half of it")
    os.utime(left_behind, (0, 0))
    found = [each async for _, each in bench.job_store.expiring(datetime.now(UTC) + timedelta(days=3))]
    assert found == [job.id] and files_in(folder)
    await bench.job_store.delete_all(job.id)
    assert not folder.exists()


async def test_a_purge_deletes_the_cached_pages_too(tmp_path: Path) -> None:
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
