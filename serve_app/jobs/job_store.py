"""The store of jobs: their records, documents and pages, and small indexes of them.

Everything of a job is in its document's folder. The indexes are empty objects:

- `jobs/active/{id}` while there is work to do, which includes deleting the job;
- `jobs/webhooks/{id}` while its webhook is pending;
- `jobs/of/{owner}/{id}` and `jobs/batches/{owner}/{batch}/{id}` while it is listed;
- `jobs/expires/{day}/{id}` until its results, and later its record, are deleted.

Keys follow from the job, and a second write replaces the first with the same content. So it is safe if two replicas
work on one job.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from serve_app.document import (
    DocumentStatus,
    DocumentSummary,
    EngineInfo,
    ErrorInfo,
    Figure,
    Page,
    PageContent,
)
from serve_app.document.codec import decode_content, encode_content
from serve_app.document.ids import document_folder
from serve_app.document.outline import BlockChange, Structure
from serve_app.document.spool import PageSpool
from serve_app.document.warnings import WarningCode, warning
from serve_app.jobs.record import JobRecord, decode_record, encode_record
from serve_app.pipeline.page_cache import PageCache
from serve_app.runtime.mapped_file import FileContent, unnamed_file
from serve_app.storage import Store
from serve_app.storage.day_index import DayIndex
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.spool import objects_in
from serve_app.storage.spooled_writes import Put, SpooledWrites

JSON = "application/json"
OCTETS = "application/octet-stream"

ABANDONED_AFTER = timedelta(days=2)
"""Time after which the files of a job are deleted whose submission was interrupted."""


class JobStore:
    """Methods raise StoreUnavailable, and KeyError for a job, a page or an output that does not exist."""

    def __init__(self, store: Store, cache: PageCache, writes: SpooledWrites | None = None) -> None:
        """`cache` may hold pages of jobs too; a purge deletes them there. `writes`: by default, no page waits in a spool."""
        self._store = store
        self._cache = cache
        self._writes = writes or SpooledWrites(store, StoreMonitor(store), None)
        self._expiries = DayIndex(store, "jobs/expires")

    async def add(self, record: JobRecord, source: FileContent | None) -> None:
        """Store a new job and its document. On return the job is durable.

        If the process is killed before that, the job's expiry is in the index, and what was stored gets deleted.
        """
        await self._expiries.add(record.created + ABANDONED_AFTER, record.id)
        if source is not None:
            await self.save_source(record.id, source)
        await self.save(record)
        await self._store.put(_active_key(record.id), b"", OCTETS)  # from here on it will be run
        await self._expiries.remove(f"{record.created + ABANDONED_AFTER:%Y%m%d}", record.id)
        await self._store.put(_owner_key(record), b"", OCTETS)
        if record.batch_id is not None:
            await self._store.put(_batch_key(record, record.batch_id), b"", OCTETS)

    async def save(self, record: JobRecord) -> None:
        await self._store.put(_record_key(record.id), encode_record(record), JSON)

    def location(self, job_id: str) -> str:
        """Return the URI of a job's folder, for the log."""
        return self._store.uri(document_folder(job_id))

    async def record(self, job_id: str) -> JobRecord:
        """Read a record. Raises ValueError if it is damaged or of an unknown version."""
        return decode_record(await self._store.get(_record_key(job_id)))

    async def is_submitted(self, job_id: str) -> bool:
        """Whether `add` has come so far that the job will be run, or has been."""
        try:
            if (await self.record(job_id)).state.is_active:
                await self._store.get(_active_key(job_id))
        except (KeyError, ValueError):
            return False
        return True

    async def is_gone(self, job_id: str) -> bool:
        """Whether a job has been deleted, or has expired. False if its record cannot be read. Raises StoreUnavailable."""
        try:
            return (await self.record(job_id)).state.is_gone
        except KeyError:  # the record is deleted last
            return True
        except ValueError:
            return False

    async def active_ids(self) -> list[str]:
        """Return the ids of the jobs with work to do, oldest first."""
        return [key.rpartition("/")[2] for key in await self._store.keys_below("jobs/active")]

    async def ids_of_owner(self, owner: str) -> list[str]:
        """Return the ids of an owner's jobs, newest first."""
        keys = await self._store.keys_below(f"jobs/of/{_folder_of(owner)}")
        return [key.rpartition("/")[2] for key in reversed(keys)]

    async def ids_of_batch(self, owner: str, batch_id: str) -> list[str]:
        """Return the ids of an owner's jobs in a batch, oldest first."""
        keys = await self._store.keys_below(f"jobs/batches/{_folder_of(owner)}/{_folder_of(batch_id)}")
        return [key.rpartition("/")[2] for key in keys]

    async def save_output(self, job_id: str, name: str, file: BinaryIO, media_type: str) -> str:
        """Store a file in the job's folder; return its full key."""
        key = f"{document_folder(job_id)}/{name}"
        await self._store.put(key, file, media_type)
        return self._store.full_key(key)

    async def open_output(self, job_id: str, name: str) -> BinaryIO:
        """Open a file that `save_output` stored; the caller closes it."""
        return await self._store.open(f"{document_folder(job_id)}/{name}")

    async def finish(self, record: JobRecord) -> None:
        """Store the record of a job that has ended, and update the indexes."""
        await self.save(record)
        await self.index_finished(record)

    async def index_finished(self, record: JobRecord) -> None:
        """Update the indexes for a job whose stored record says that it has ended."""
        if record.webhook is not None and record.webhook.state == "pending":
            await self._store.put(_webhook_key(record.id), b"", OCTETS)
        if record.expires is not None:
            await self._expiries.add(record.expires, record.id)
        await self._store.delete(_active_key(record.id))

    async def keep_active(self, job_id: str) -> None:
        """Have a job looked at again by whichever replica has it then."""
        await self._store.put(_active_key(job_id), b"", OCTETS)

    async def abandon(self, job_id: str) -> None:
        """Remove a job whose record is lost from the indexes of work; its other files stay."""
        await self._store.delete(_webhook_key(job_id))
        await self._store.delete(_active_key(job_id))

    async def delete_all(self, job_id: str) -> None:
        """Delete a job with its record: from now on it is unknown."""
        await self.drop_spooled(job_id)
        await self._store.delete_below(document_folder(job_id))
        await self._store.delete(_webhook_key(job_id))
        await self._store.delete(_active_key(job_id))

    async def undelivered_ids(self) -> list[str]:
        """Return the ids of the jobs whose webhooks are pending."""
        return [key.rpartition("/")[2] for key in await self._store.keys_below("jobs/webhooks")]

    async def save_webhook(self, record: JobRecord) -> None:
        """Store the record after an attempt to deliver its webhook."""
        await self.save(record)
        if record.webhook is None or record.webhook.state != "pending":
            await self._store.delete(_webhook_key(record.id))

    async def open_source(self, job_id: str) -> BinaryIO:
        return await self._store.open(_source_key(job_id))

    async def save_source(self, job_id: str, source: FileContent) -> None:
        with await asyncio.to_thread(unnamed_file, source) as file:
            await self._store.put(_source_key(job_id), file, OCTETS)

    async def save_page(self, job_id: str, content: PageContent, engine: EngineInfo) -> None:
        """Store a finished page, with its figures at the paths that the job's result uses too. It may wait in the spool."""
        write = partial(_put_page, job_id, content, engine)
        await self._writes.write(f"{job_id}.{content.page.number:06d}", write)

    async def store_page(self, job_id: str, content: PageContent, engine: EngineInfo) -> None:
        """Store a finished page in the store itself."""
        await _put_page(job_id, content, engine, self._store.put)

    async def page_numbers(self, job_id: str) -> list[int]:
        """Return the numbers of the stored pages, ascending, those in the spool of this node included."""
        spooled = await self._spooled(f"{job_id}.")  # first: one that is sent meanwhile is in the store then
        return sorted({int(name.rpartition(".")[2]) for name in spooled} | set(await self.numbers_in_store(job_id)))

    async def numbers_in_store(self, job_id: str) -> list[int]:
        """Return the numbers of the pages in the store itself, ascending."""
        keys = await self._store.keys_below(f"{document_folder(job_id)}/page-results")
        return sorted(int(key.rpartition("/")[2].removesuffix(".json")) for key in keys)

    async def page(self, job_id: str, number: int) -> tuple[PageContent, EngineInfo]:
        """Read a stored page, and which engine read it. Raises ValueError if it is damaged."""
        spooled = await self._spooled_page(job_id, number)

        async def get(key: str) -> bytes:
            return spooled[key] if key in spooled else await self._store.get(key)

        decoded = decode_content(await get(_page_key(job_id, number)))
        if decoded.engine is None:
            raise ValueError("a stored page does not name its engine")
        page = decoded.content.page
        figures = []
        for path in decoded.linked_figures:
            try:
                figures.append(Figure(path, await get(f"{document_folder(job_id)}/{path}")))
            except KeyError:
                page.warnings.append(_figure_lost(path))
        return replace(decoded.content, figures=tuple(figures)), decoded.engine

    async def drop_spooled(self, job_id: str) -> None:
        """Remove the pages of a job that is being deleted from the spool of this node."""
        if (spool := self._writes.spool) is not None:
            await asyncio.to_thread(spool.drop, f"{job_id}.")

    async def is_page_of_gone_job(self, name: str) -> bool:
        """Whether a result that `save_page` has written into the spool belongs to a job that is gone. Raises StoreUnavailable."""
        job_id, dot, _ = name.partition(".")
        return dot == "." and await self.is_gone(job_id)

    async def _spooled(self, name: str) -> dict[str, Path]:
        return {} if (spool := self._writes.spool) is None else await asyncio.to_thread(spool.find, name)

    async def _spooled_page(self, job_id: str, number: int) -> dict[str, bytes]:
        """Return the values of a page that waits in the spool, by their keys; none if it does not."""
        for path in (await self._spooled(f"{job_id}.{number:06d}")).values():
            with suppress(
                FileNotFoundError, ValueError
            ):  # it has just been sent; if it is damaged, the store may have it
                return {each.key: each.data for each in await asyncio.to_thread(list, objects_in(path))}
        return {}

    async def save_summary(self, job_id: str, summary: DocumentSummary, spool: PageSpool) -> None:
        """Store what, together with the pages, is needed to make any output: the summary, the structure, the failed pages."""
        failed = [page.model_dump(mode="json") for page in spool.pages() if page.error is not None]
        stored = {
            "summary": summary.model_dump(mode="json"),
            "changes": [asdict(change) for change in spool.structure.all_changes],
            "pages": spool.numbers,
            "failed": failed,
        }
        await self._store.put(_summary_key(job_id), json.dumps(stored).encode(), JSON)

    async def summary(self, job_id: str) -> DocumentSummary:
        """Read the document summary of a job that is done."""
        stored = json.loads(await self._store.get(_summary_key(job_id)))
        return DocumentSummary.model_validate(stored["summary"])

    async def finished_pages(self, job_id: str) -> tuple[list[int], list[Page]]:
        """Return the numbers of the pages that were read, ascending, and the pages that failed, each with its error.

        Those of a job that has reached its end come from its summary: Swift, for one, may list an object only some time after
        it has stored it.
        """
        try:
            stored = json.loads(await self._store.get(_summary_key(job_id)))
        except KeyError:
            return await self.page_numbers(job_id), []
        return _read_and_failed(stored)

    async def load_document(self, job_id: str, spool: PageSpool) -> DocumentSummary:
        """Load the pages of a job that is done into `spool`; return the summary."""
        stored = json.loads(await self._store.get(_summary_key(job_id)))
        summary = DocumentSummary.model_validate(stored["summary"])
        lost = ErrorInfo(code="page_lost", message="This page was read, but is no longer in the store.")
        read, failed = _read_and_failed(stored)
        for number in read:
            try:
                content, _ = await self.page(job_id, number)
            except KeyError:
                content = PageContent(Page(number=number, width=0, height=0, dpi=0, error=lost))
                summary.status = DocumentStatus.PARTIAL
            spool.add(content)
        for page in failed:
            spool.add(PageContent(page))
        spool.structure = Structure(BlockChange(**change) for change in stored["changes"])
        return summary

    async def begin_purge(self, record: JobRecord) -> None:
        """Store the record of a deleted or expired job. From then on the job is gone, and another replica purges it if this one
        dies.
        """
        await self._store.put(_active_key(record.id), b"", OCTETS)
        await self.save(record)

    async def purge(self, record: JobRecord) -> None:
        """Delete everything of a deleted or expired job except its record, which stays until it expires too."""
        await self.begin_purge(record)
        await self.drop_spooled(record.id)
        await self._store.delete(_owner_key(record))
        if record.batch_id is not None:
            await self._store.delete(_batch_key(record, record.batch_id))
        if record.digest is not None:
            await self._cache.forget(record.owner, record.digest)
        await self._store.delete_below(document_folder(record.id), but=_record_key(record.id))
        await self._store.delete(_webhook_key(record.id))
        if record.expires is not None:
            await self._expiries.add(record.expires, record.id)
        await self.save(record.without_contents())
        await self._store.delete(_active_key(record.id))

    def expiring(self, now: datetime) -> AsyncIterator[tuple[str, str]]:
        """Yield day and id of each job that expires today or has expired; call `drop_expiry` with both once it is dealt with."""
        return self._expiries.due(now)

    async def drop_expiry(self, day: str, job_id: str) -> None:
        await self._expiries.remove(day, job_id)


async def _put_page(job_id: str, content: PageContent, engine: EngineInfo, put: Put) -> None:
    folder = document_folder(job_id)
    for figure in content.figures:
        await put(f"{folder}/{figure.path}", figure.jpeg, "image/jpeg")
    encoded = encode_content(content, inline_figures=False, engine=engine)
    await put(_page_key(job_id, content.page.number), encoded, JSON)


def _read_and_failed(stored: Mapping[str, Any]) -> tuple[list[int], list[Page]]:
    """Return which pages the stored summary of a job says were read, and those that failed."""
    failed = [Page.model_validate(page) for page in stored["failed"]]
    return sorted(set(stored["pages"]) - {page.number for page in failed}), failed


def _figure_lost(path: str) -> ErrorInfo:
    return warning(WarningCode.FIGURE_LOST, f"The picture {path} was read, but is no longer in the store.")


def _record_key(job_id: str) -> str:
    return f"{document_folder(job_id)}/job.json"


def _source_key(job_id: str) -> str:
    return f"{document_folder(job_id)}/source"


def _page_key(job_id: str, number: int) -> str:
    return f"{document_folder(job_id)}/page-results/{number:06d}.json"


def _summary_key(job_id: str) -> str:
    return f"{document_folder(job_id)}/summary.json"


def _active_key(job_id: str) -> str:
    return f"jobs/active/{job_id}"


def _webhook_key(job_id: str) -> str:
    return f"jobs/webhooks/{job_id}"


def _owner_key(record: JobRecord) -> str:
    return f"jobs/of/{_folder_of(record.owner)}/{record.id}"


def _batch_key(record: JobRecord, batch_id: str) -> str:
    return f"jobs/batches/{_folder_of(record.owner)}/{_folder_of(batch_id)}/{record.id}"


def _folder_of(name: str) -> str:
    """Hash it, as a name may hold characters that store keys may not."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]
