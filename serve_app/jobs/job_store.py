"""Where jobs are kept: their records, documents, pages, and the small indexes by which they are found.

All that belongs to a job lies in its document's folder. Beside that, `jobs/active/{id}` is there as long as there is
work on it, its deletion included; `jobs/webhooks/{id}` as long as somebody is to be told of its end;
`jobs/of/{owner}/{id}` and `jobs/batches/{owner}/{batch}/{id}` as long as it is listed; `jobs/expires/{day}/{id}` until
it is swept. Keys follow from the job, and each write replaces the same thing, so two that work on the same job write
the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import BinaryIO

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
from serve_app.jobs.record import JobRecord, as_stored, record_of
from serve_app.pipeline.page_cache import PageCache
from serve_app.runtime.mapped_file import FileContent, unnamed_file
from serve_app.storage import Store
from serve_app.storage.day_index import DayIndex

JSON = "application/json"
OCTETS = "application/octet-stream"

ABANDONED = timedelta(days=2)
"""After this time, what there is of a job without a record is nobody's any more."""


class JobStore:
    """Methods raise StoreUnavailable, and KeyError for a job, or a page, that is not there."""

    def __init__(self, store: Store, cache: PageCache) -> None:
        """`cache`: where the pages of jobs may be as well, until those are deleted."""
        self._store = store
        self._cache = cache
        self._expiries = DayIndex(store, "jobs/expires")

    async def add(self, record: JobRecord, source: FileContent | None) -> None:
        """Keep a new job and its document; on return it survives whatever happens.

        Who is killed in between leaves what is found by its expiry.
        """
        await self._expiries.add(record.created + ABANDONED, record.id)
        if source is not None:
            await self.save_source(record.id, source)
        await self.save(record)
        await self._store.put(_active_key(record.id), b"", OCTETS)  # from here on it will be done
        await self._expiries.remove(f"{record.created + ABANDONED:%Y%m%d}", record.id)
        await self._store.put(_owner_key(record), b"", OCTETS)
        if record.batch_id is not None:
            await self._store.put(_batch_key(record, record.batch_id), b"", OCTETS)

    async def save(self, record: JobRecord) -> None:
        await self._store.put(_record_key(record.id), as_stored(record), JSON)

    def location(self, job_id: str) -> str:
        """Where all of a job lies, for the log."""
        return self._store.uri(document_folder(job_id))

    async def record(self, job_id: str) -> JobRecord:
        return record_of(await self._store.get(_record_key(job_id)))

    async def active_ids(self) -> list[str]:
        """Ids of the jobs that are not at their end, oldest first."""
        return [key.rpartition("/")[2] for key in await self._store.keys_below("jobs/active")]

    async def ids_of_owner(self, owner: str) -> list[str]:
        """Ids of an owner's jobs, newest first."""
        keys = await self._store.keys_below(f"jobs/of/{_folder_of(owner)}")
        return [key.rpartition("/")[2] for key in reversed(keys)]

    async def ids_of_batch(self, owner: str, batch_id: str) -> list[str]:
        """Ids of an owner's jobs that were submitted as parts of a batch, oldest first."""
        keys = await self._store.keys_below(f"jobs/batches/{_folder_of(owner)}/{_folder_of(batch_id)}")
        return [key.rpartition("/")[2] for key in keys]

    async def save_output(self, job_id: str, name: str, file: BinaryIO, media_type: str) -> str:
        """Keep one more form of a job's result, beside the others; returns its key in the store."""
        key = f"{document_folder(job_id)}/{name}"
        await self._store.put(key, file, media_type)
        return self._store.full_key(key)

    async def open_output(self, job_id: str, name: str) -> BinaryIO:
        """A form of the result that is kept, for the caller to close."""
        return await self._store.open(f"{document_folder(job_id)}/{name}")

    async def finish(self, record: JobRecord) -> None:
        """Keep a job that is at its end."""
        await self.save(record)
        await self.index_finished(record)

    async def index_finished(self, record: JobRecord) -> None:
        """The part of `finish` that comes when the record is kept."""
        if record.webhook is not None and record.webhook.state == "pending":
            await self._store.put(_webhook_key(record.id), b"", OCTETS)
        if record.expires is not None:
            await self._expiries.add(record.expires, record.id)
        await self._store.delete(_active_key(record.id))

    async def abandon(self, job_id: str) -> None:
        """Nobody is to look after a job any more whose record is lost; what else there is of it stays."""
        await self._store.delete(_webhook_key(job_id))
        await self._store.delete(_active_key(job_id))

    async def delete_all(self, job_id: str) -> None:
        """Delete all that is there of a job, its record too: nothing is known of it any more."""
        await self._store.delete_below(document_folder(job_id))
        await self._store.delete(_webhook_key(job_id))
        await self._store.delete(_active_key(job_id))

    async def undelivered_ids(self) -> list[str]:
        """Ids of the jobs whose webhooks are not at their end."""
        return [key.rpartition("/")[2] for key in await self._store.keys_below("jobs/webhooks")]

    async def save_webhook(self, record: JobRecord) -> None:
        """Keep what became of a webhook."""
        await self.save(record)
        if record.webhook is None or record.webhook.state != "pending":
            await self._store.delete(_webhook_key(record.id))

    async def open_source(self, job_id: str) -> BinaryIO:
        return await self._store.open(_source_key(job_id))

    async def save_source(self, job_id: str, source: FileContent) -> None:
        with await asyncio.to_thread(unnamed_file, source) as file:
            await self._store.put(_source_key(job_id), file, OCTETS)

    async def save_page(self, job_id: str, content: PageContent, engine: EngineInfo) -> None:
        """Keep what was read of a page; its figures where the job's result has them."""
        folder = document_folder(job_id)
        for figure in content.figures:
            await self._store.put(f"{folder}/{figure.path}", figure.jpeg, "image/jpeg")
        encoded = encode_content(content, inline_figures=False, engine=engine)
        await self._store.put(_page_key(job_id, content.page.number), encoded, JSON)

    async def page_numbers(self, job_id: str) -> list[int]:
        """Pages that are kept, in order."""
        keys = await self._store.keys_below(f"{document_folder(job_id)}/page-results")
        return sorted(int(key.rpartition("/")[2].removesuffix(".json")) for key in keys)

    async def page(self, job_id: str, number: int) -> tuple[PageContent, EngineInfo]:
        """A page of a job, and the engine that read it. Raises ValueError if it is damaged."""
        decoded = decode_content(await self._store.get(_page_key(job_id, number)))
        if decoded.engine is None:
            raise ValueError("a stored page does not name its engine")
        page = decoded.content.page
        figures = []
        for path in decoded.linked_figures:
            try:
                figures.append(Figure(path, await self._store.get(f"{document_folder(job_id)}/{path}")))
            except KeyError:
                page.warnings.append(_figure_lost(path))
        return replace(decoded.content, figures=tuple(figures)), decoded.engine

    async def save_summary(self, job_id: str, summary: DocumentSummary, spool: PageSpool) -> None:
        """Keep what is said of the whole document, from which, with its pages, all outputs can be made."""
        failed = [page.model_dump(mode="json") for page in spool.pages() if page.error is not None]
        kept = {
            "summary": summary.model_dump(mode="json"),
            "changes": [asdict(change) for change in spool.structure.all_changes],
            "pages": spool.numbers,
            "failed": failed,
        }
        await self._store.put(_summary_key(job_id), json.dumps(kept).encode(), JSON)

    async def summary(self, job_id: str) -> DocumentSummary:
        """What is said of the document of a job that is done."""
        kept = json.loads(await self._store.get(_summary_key(job_id)))
        return DocumentSummary.model_validate(kept["summary"])

    async def failed_pages(self, job_id: str) -> list[Page]:
        """Pages that could not be read, each with its error; none as long as others may still be."""
        try:
            kept = json.loads(await self._store.get(_summary_key(job_id)))
        except KeyError:
            return []
        return [Page.model_validate(page) for page in kept["failed"]]

    async def load_document(self, job_id: str, spool: PageSpool) -> DocumentSummary:
        """Put all pages of a job that is done into the spool."""
        kept = json.loads(await self._store.get(_summary_key(job_id)))
        for number in await self.page_numbers(job_id):
            content, _ = await self.page(job_id, number)
            spool.add(content)
        for page in kept["failed"]:
            spool.add(PageContent(Page.model_validate(page)))
        summary = DocumentSummary.model_validate(kept["summary"])
        lost = ErrorInfo(code="page_lost", message="This page was read, and is not in the store any more.")
        for number in kept["pages"]:
            if number not in spool:
                spool.add(PageContent(Page(number=number, width=0, height=0, dpi=0, error=lost)))
                summary.status = DocumentStatus.PARTIAL
        spool.structure = Structure(BlockChange(**change) for change in kept["changes"])
        return summary

    async def begin_purge(self, record: JobRecord) -> None:
        """Keep that a job is gone; from here on it is, and its contents will be cleared, by whomever."""
        await self._store.put(_active_key(record.id), b"", OCTETS)
        await self.save(record)

    async def purge(self, record: JobRecord) -> None:
        """Delete all that is kept of a job that is gone but its record, which says what became of it, for a time."""
        await self.begin_purge(record)
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
        """Day and id of each job whose day has come, to `drop_expiry` when it was looked after."""
        return self._expiries.due(now)

    async def drop_expiry(self, day: str, job_id: str) -> None:
        await self._expiries.remove(day, job_id)


def _figure_lost(path: str) -> ErrorInfo:
    return ErrorInfo(code="figure_lost", message=f"The picture {path} was read, and is not in the store any more.")


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
    """Names may hold what keys may not."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]
