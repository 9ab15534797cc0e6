"""One job, from wherever it was left to its end."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import BinaryIO, cast

from serve_app.document import DocumentStatus, DocumentSummary, ErrorInfo, Page
from serve_app.document.ids import document_folder
from serve_app.errors import (
    ENGINE_UNAVAILABLE,
    PageTimeout,
    QueueFull,
    RecognitionFailed,
    RequestTimeout,
    ServiceError,
    ServiceUnavailable,
)
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import JobRecord, JobState, OutputFile
from serve_app.outputs.formats import FILE_NAMES, MEDIA_TYPES
from serve_app.paddlex.engine_options import is_preprocessed
from serve_app.paddlex.exports import exports_of_spool
from serve_app.paddlex.job import RESULT, RESULT_TYPE, PaddlexJob
from serve_app.paddlex.responses import pages_read
from serve_app.paddlex.restructuring import restructure_pages, restructuring_of
from serve_app.pipeline.document_run import DocumentRun
from serve_app.pipeline.documents import Documents
from serve_app.pipeline.timings import Timings
from serve_app.runtime.mapped_file import FileContent, mapped
from serve_app.runtime.temp_dir import is_no_room, no_room
from serve_app.settings import Settings
from serve_app.storage import StoreUnavailable
from serve_app.storage.links import Links

log = logging.getLogger("ray.serve.jobs")

PAGE_TRIES = 3
LONGEST_LINK_S = 604_800
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0

_BUSY: tuple[type[ServiceError], ...] = (*ENGINE_UNAVAILABLE, QueueFull, ServiceUnavailable)
_PASSING: tuple[type[Exception], ...] = (*_BUSY, StoreUnavailable)
"""What is waited for until the job's time is over: the document is not to blame."""

_PASSING_CODES = {error.code for error in _BUSY}
_TRIED_AGAIN = {RecognitionFailed.code, PageTimeout.code}
"""Codes of failed pages for which another try may go better."""


@dataclass
class _Trouble:
    """Of a job's pages while it is worked on: how often they failed, and those that are not tried any more."""

    tries: Counter[int] = field(default_factory=Counter)
    failed: dict[int, Page] = field(default_factory=dict)


class Runner:
    """Does jobs through the one way of a page, and keeps each page before it counts."""

    def __init__(
        self,
        documents: Documents,
        job_store: JobStore,
        links: Links,
        fetch: Callable[[str], Awaitable[FileContent]],
        settings: Settings,
        changed: Callable[[JobRecord, Mapping[int, ErrorInfo | None]], None],
    ) -> None:
        """`changed` hears of each change of a record, after that is kept as far as it has to be.

        It also hears which pages have come to their end with that, those that failed with their error.
        """
        self._documents = documents
        self._job_store = job_store
        self._fetch = fetch
        self._links = links
        self._settings = settings
        self._limits = settings.jobs
        self._changed = changed

    async def run(self, record: JobRecord) -> None:
        """Do the job to its end, which is kept. Raises nothing but CancelledError: a failure is the job's."""
        trouble = _Trouble()
        try:
            async with asyncio.timeout(self._limits.job_s):
                await self._patiently(record, lambda: self._done(record, trouble))
        except TimeoutError:
            await self._end(record, JobState.FAILED, RequestTimeout("The job was not done in its time."))
        except ServiceError as error:
            await self._end(record, JobState.FAILED, error)
        except Exception:
            log.exception("job %s failed", record.id)
            failure = ServiceError("The service failed; the log has the details under this job's id.")
            await self._end(record, JobState.FAILED, failure)

    async def _patiently(self, record: JobRecord, work: Callable[[], Awaitable[None]]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            before = record.done
            try:
                await work()
                return
            except OSError as error:
                if not is_no_room(error):
                    raise
                reason, record.waiting_for = "no disk space left", no_room().message
            except _PASSING as error:
                reason = error.code if isinstance(error, ServiceError) else str(error)
                record.waiting_for = error.message if isinstance(error, ServiceError) else "The store is not available."
            if record.done > before:
                pause_s = FIRST_PAUSE_S
            log.warning("job %s waits %.0f s: %s", record.id, pause_s, reason)
            self._changed(record, {})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _done(self, record: JobRecord, trouble: _Trouble) -> None:
        if (ended := await self._ended_elsewhere(record.id)) is not None:
            self._changed(ended, {})
            return
        if record.started is None:
            record.started = _now()
        record.state = JobState.RUNNING
        with ExitStack() as held:
            source = await self._source(record, held)
            reading = held.enter_context(
                await self._documents.open(
                    source,
                    record.request,
                    owner=record.owner,
                    timings=Timings(),
                    document_id=record.id,
                    limit_s=self._limits.job_s,
                )
            )
            del source
            record.digest = reading.digest
            record.page_count, record.total = reading.page_count, len(reading.numbers)
            await self._restore(record, reading, trouble)
            record.waiting_for = None
            await self._job_store.save(record)
            self._changed(record, {page.number: page.error for page in reading.spool.pages()})
            await self._read(record, reading, trouble)
            await self._keep_what_is_missing(record, reading)
            summary = await reading.finish(of_job=True)
            await self._job_store.keep_summary(record.id, summary, reading.spool)
            await self._keep_outputs(record, reading, summary)
            if record.paddlex is not None:
                await self._keep_lines(record, record.paddlex, reading)
        state = JobState.PARTIAL if summary.status is DocumentStatus.PARTIAL else JobState.DONE
        await self._end(record, state, None)

    async def _source(self, record: JobRecord, held: ExitStack) -> FileContent:
        try:
            file = await self._job_store.source(record.id)
        except KeyError:
            if record.url is None:  # it was there when the job's id went out
                raise StoreUnavailable(f"the document of job {record.id} is not there") from None
            source = await self._fetch(record.url)
            await self._job_store.keep_source(record.id, source)  # what is read again after a kill is the same document
            return source
        return mapped(held.enter_context(file))

    async def _restore(self, record: JobRecord, reading: DocumentRun, trouble: _Trouble) -> None:
        chosen = set(reading.numbers)
        for number in await self._job_store.page_numbers(record.id):
            if number in chosen:
                reading.collector.restore(*await self._job_store.page(record.id, number))
        record.done, record.failed = len(reading.spool), len(trouble.failed)
        for page in trouble.failed.values():
            reading.collector.add_failed(page)
        if record.done:
            log.info("job %s goes on with %d of %d page(s) done", record.id, record.done, record.total)

    async def _read(self, record: JobRecord, reading: DocumentRun, trouble: _Trouble) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            again: list[int] = []
            waiting: ErrorInfo | None = None
            try:
                async with aclosing(reading.pages()) as pages:
                    async for content in pages:
                        page = content.page
                        if page.error is None:
                            await self._job_store.keep_page(record.id, content, reading.collector.engine)
                            record.done += 1
                            log.info("job %s: page %d is done", record.id, page.number)
                        elif page.error.code in _PASSING_CODES:
                            waiting = page.error
                            continue
                        if page.error is not None and page.error.code in _TRIED_AGAIN:
                            trouble.tries[page.number] += 1
                            if trouble.tries[page.number] < PAGE_TRIES:
                                again.append(page.number)
                                continue
                        if page.error is not None:
                            trouble.failed[page.number] = page
                            record.failed += 1
                        self._changed(record, {page.number: page.error})
            except ServiceError:  # no page could be read
                if not again:
                    raise
            if waiting is not None:
                raise ServiceUnavailable(waiting.message)
            if not again:
                return
            log.warning("job %s: %d page(s) failed and are tried again in %.0f s", record.id, len(again), pause_s)
            await asyncio.sleep(pause_s)
            pause_s *= 2
            reading.collector.retract(again)

    async def _keep_what_is_missing(self, record: JobRecord, reading: DocumentRun) -> None:
        """All that counts as done is in the store, whatever has become of the store meanwhile."""
        kept = set(await self._job_store.page_numbers(record.id))
        for page in reading.spool.pages():
            if page.error is None and page.number not in kept:
                log.warning("job %s: page %d was not in the store any more, and is kept again", record.id, page.number)
                await self._job_store.keep_page(record.id, reading.spool.content(page.number), reading.collector.engine)

    async def _keep_outputs(self, record: JobRecord, reading: DocumentRun, summary: DocumentSummary) -> None:
        for kind in record.request.outputs:
            try:
                with await reading.renderer.rendered(kind, summary) as file:
                    key = await self._job_store.save_output(record.id, FILE_NAMES[kind], file, MEDIA_TYPES[kind])
            except _PASSING:
                raise
            except ServiceError as error:  # the others are worth having without it
                log.warning("job %s: no %s is made: %s", record.id, kind, error.message)
                record.outputs[kind] = OutputFile(error=ErrorInfo(code=error.code, message=error.message))
            else:
                record.outputs[kind] = OutputFile(key=key)

    async def _keep_lines(self, record: JobRecord, paddlex: PaddlexJob, reading: DocumentRun) -> None:
        """The result as PaddleOCR's clients fetch it."""
        restructured = None
        if not paddlex.of_lines and paddlex.layout.restructure_pages:
            pages = await asyncio.to_thread(pages_read, reading.spool, paddlex.layout)
            try:
                restructured = await restructure_pages(
                    self._documents.pipeline, self._settings, pages, restructuring_of(paddlex.layout)
                )
            except ServiceError as error:  # what was read is worth more than that
                log.warning("job %s: pages are not made one piece: %s", record.id, error.message)
        formats = None if paddlex.of_lines else paddlex.layout.output_formats
        exports = await exports_of_spool(self._documents.writers, reading.spool, restructured, formats)
        folder = document_folder(record.id)
        link_s = min(int(self._limits.keep_s) + 1, LONGEST_LINK_S)  # as long as the result is there
        with exports, tempfile.TemporaryFile() as file:
            write = paddlex.writer(
                reading.spool,
                restructured,
                lambda path: self._links.of(f"{folder}/{path}", paddlex.address, seconds=link_s),
                exports,
                kind=reading.kind,
                preprocessed=is_preprocessed(record.request.options),
            )
            await asyncio.to_thread(write, file)
            file.seek(0)
            await self._job_store.save_output(record.id, RESULT, cast(BinaryIO, file), RESULT_TYPE)

    async def _end(self, record: JobRecord, state: JobState, error: ServiceError | None) -> None:
        told = None if error is None else ErrorInfo(code=error.code, message=error.message)
        ended = record.ended_as(state, keep_s=self._limits.keep_s, error=told)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                ended = await self._closed(ended)
                break
            except StoreUnavailable as failure:
                log.warning("job %s cannot be closed yet: %s", record.id, failure)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        log.info("job %s: key %r, %s, %d of %s page(s)", ended.id, ended.owner, ended.state, ended.done, ended.total)
        self._changed(ended, {})

    async def _closed(self, ended: JobRecord) -> JobRecord:
        """What is kept of a job at its end: that of whoever has ended it first.

        Nobody else does, unless there were two Jobs for a moment, of which only one has heard that it was cancelled.
        """
        if (stored := await self._ended_elsewhere(ended.id)) is not None:
            return stored
        await self._job_store.finish(ended)
        return ended

    async def _ended_elsewhere(self, job_id: str) -> JobRecord | None:
        """The record of a job that is at its end already, after all is done that belongs to that."""
        try:
            stored = await self._job_store.record(job_id)
        except KeyError:
            return None
        if stored.state.is_active:
            return None
        if stored.state.is_gone:
            await self._job_store.purge(stored)
        else:
            await self._job_store.index_finished(stored)
        return stored


def _now() -> datetime:
    return datetime.now(UTC)
