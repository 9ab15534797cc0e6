"""Runs one job to its end, from the point that earlier attempts have reached."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import BinaryIO, cast

from serve_app.document import DocumentStatus, DocumentSummary, EngineInfo, ErrorInfo, Page, PageContent
from serve_app.errors import RequestTimeout, ServiceError, ServiceUnavailable
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import JobRecord, JobState, OutputFile
from serve_app.jobs.result_writer import ResultWriter
from serve_app.jobs.verdict import Verdict, verdict
from serve_app.metrics.catalogue import JOBS_ENDED
from serve_app.outputs.formats import file_type
from serve_app.pipeline.document_run import DocumentRun
from serve_app.pipeline.documents import Documents
from serve_app.pipeline.timings import Timings
from serve_app.runtime import tracing
from serve_app.runtime.end_line import end_line, facts_collected
from serve_app.runtime.mapped_file import FileContent, map_file
from serve_app.runtime.request_context import use_request_id
from serve_app.runtime.temp_dir import no_room
from serve_app.scheduling.backoff import backoff
from serve_app.scheduling.few_at_once import FewAtOnce
from serve_app.settings import JobSettings
from serve_app.storage import StoreUnavailable

log = logging.getLogger("ray.serve.jobs")

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0

SAVES_AT_ONCE = 8
"""Pages of a job that are being stored at once. S3 takes some 50 ms a page, and one after another they would hold up all but
twenty engines of a second a page."""


@dataclass
class _Failures:
    """Failed tries of a job's pages, and the pages that are given up. Shared by all attempts at the job."""

    tries: Counter[int] = field(default_factory=Counter)
    pages: dict[int, Page] = field(default_factory=dict)


class Runner:
    """Reads the documents of jobs through the pipeline. Each page is stored before it counts as done."""

    def __init__(
        self,
        documents: Documents,
        job_store: JobStore,
        result_writers: Mapping[str, ResultWriter],
        fetch: Callable[[str], Awaitable[FileContent]],
        limits: JobSettings,
        on_change: Callable[[JobRecord, Mapping[int, ErrorInfo | None]], None],
        *,
        first_pause_s: float = FIRST_PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        """`result_writers` by the names of their dialects. `fetch` downloads a document.

        `on_change` is called after each change of a record, once the change is stored if it must be, with the pages that
        have just finished and the errors of those that failed. The pauses are those between tries.
        """
        self._documents = documents
        self._job_store = job_store
        self._result_writers = result_writers
        self._fetch = fetch
        self._limits = limits
        self._on_change = on_change
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s

    async def run(self, record: JobRecord) -> None:
        """Run a job and store its end. Raises only CancelledError; any other failure becomes the error of the job."""
        use_request_id(record.id)  # the task has that of the request that happened to start it
        with facts_collected(), tracing.job(record.id):
            try:
                async with asyncio.timeout(self._limits.job_s):
                    await self._run_through_outages(record)
            except TimeoutError:
                await self._end(record, JobState.FAILED, RequestTimeout("The job was not done in time."))
            except ServiceError as error:
                await self._end(record, JobState.FAILED, error)
            except Exception:
                log.exception("job %s failed", record.id)
                failure = ServiceError("The service failed; its log has the details under this job's id.")
                await self._end(record, JobState.FAILED, failure)

    async def _run_through_outages(self, record: JobRecord) -> None:
        failures = _Failures()
        pauses = self._pauses()
        while True:
            done_before = record.done
            try:
                await self._attempt(record, failures)
                return
            except Exception as error:
                if verdict(error) is not Verdict.WAIT:
                    raise
                reason, record.waiting_for = _outage(error)
            if record.done > done_before:
                pauses = self._pauses()
            pause_s = next(pauses)
            log.warning("job %s: waiting %.0f s: %s", record.id, pause_s, reason)
            self._on_change(record, {})
            await asyncio.sleep(pause_s)

    async def _attempt(self, record: JobRecord, failures: _Failures) -> None:
        """Run the job to its end, or until an error, which it raises. `verdict` decides what follows."""
        if await self._is_ended_elsewhere(record.id):
            return
        if record.started is None:
            record.started = datetime.now(UTC)
        record.state = JobState.RUNNING
        with await self._open(record) as run:
            await self._restore(record, run, failures)
            await self._read(record, run, failures)
            if await self._is_ended_elsewhere(record.id):  # it may have been deleted, with its pages
                return
            await self._save_lost_pages(record, run)
            summary = await run.finish_job()
            await self._job_store.save_summary(record.id, summary, run.spool)
            await self._save_outputs(record, run, summary)
            await self._save_dialect_result(record, run)
        state = JobState.PARTIAL if summary.status is DocumentStatus.PARTIAL else JobState.DONE
        await self._end(record, state, None)

    async def _is_ended_elsewhere(self, job_id: str) -> bool:
        """Whether another replica has stored the end of a job; announces it then."""
        if (ended := await self._ended_elsewhere(job_id)) is None:
            return False
        self._on_change(ended, {})
        return True

    async def _open(self, record: JobRecord) -> DocumentRun:
        return await self._documents.open(
            await self._source(record),
            record.request,
            owner=record.owner,
            timings=Timings(),
            document_id=record.id,
            limit_s=self._limits.job_s,
        )

    async def _source(self, record: JobRecord) -> FileContent:
        try:
            with await self._job_store.open_source(record.id) as file:
                return map_file(file)
        except KeyError:
            if record.url is None:  # an upload is stored before the job's id goes out
                raise StoreUnavailable(f"the document of job {record.id} is missing") from None
        with Timings().measure("fetch"):
            source = await self._fetch(record.url)
        await self._job_store.save_source(record.id, source)  # so that a later attempt reads the same document
        return source

    async def _restore(self, record: JobRecord, run: DocumentRun, failures: _Failures) -> None:
        """Take over the pages of earlier attempts, and store the updated record."""
        requested = set(run.numbers)
        for number in await self._job_store.page_numbers(record.id):
            if number not in requested:
                continue
            try:
                run.collector.restore(*await self._job_store.page(record.id, number))
            except (KeyError, ValueError) as error:
                # Another process has just taken it over in the spool, or it is damaged.
                log.warning("job %s: page %d is read again, as it cannot be read back: %s", record.id, number, error)
        record.digest = run.digest
        record.page_count, record.total = run.page_count, len(run.numbers)
        record.done, record.failed = len(run.spool), len(failures.pages)
        for page in failures.pages.values():
            run.collector.add_failed(page)
        record.waiting_for = None
        if record.done:
            log.info("job %s: resumed with %d of %d page(s) done", record.id, record.done, record.total)
        await self._job_store.save(record)
        self._on_change(record, {page.number: page.error for page in run.spool.pages()})

    async def _read(self, record: JobRecord, run: DocumentRun, failures: _Failures) -> None:
        """Read the remaining pages until each is done, or given up. Raises ServiceError for an outage, or if all failed."""
        for pause_s in self._pauses():
            retries = await self._read_once(record, run, failures)
            if not retries:
                return
            log.warning("job %s: %d page(s) failed; retrying in %.0f s", record.id, len(retries), pause_s)
            await asyncio.sleep(pause_s)
            run.collector.retract(retries)

    async def _read_once(self, record: JobRecord, run: DocumentRun, failures: _Failures) -> list[int]:
        """Try each remaining page once; return the numbers of those to retry."""
        retries: list[int] = []
        outage: ErrorInfo | None = None
        try:
            async with FewAtOnce(SAVES_AT_ONCE) as saves, aclosing(run.pages()) as pages:
                async for content in pages:
                    page = content.page
                    tries = failures.tries[page.number] + 1
                    match verdict(page.error, tries):
                        case Verdict.WAIT:
                            outage = page.error
                            continue
                        case Verdict.RETRY:
                            failures.tries[page.number] = tries
                            retries.append(page.number)
                            continue
                        case Verdict.DONE:
                            await saves.start(self._save_page(record, content, run.collector.engine))
                            continue
                        case Verdict.FAIL:
                            failures.pages[page.number] = page
                            record.failed += 1
                    self._on_change(record, {page.number: page.error})
        except ServiceError:  # no page at all could be read
            if not retries:
                raise
        if outage is not None:
            raise ServiceUnavailable(outage.message)
        return retries

    async def _save_page(self, record: JobRecord, content: PageContent, engine: EngineInfo) -> None:
        await self._job_store.save_page(record.id, content, engine)
        record.done += 1
        log.debug("job %s: page %d is done", record.id, content.page.number)
        self._on_change(record, {content.page.number: content.page.error})

    async def _save_lost_pages(self, record: JobRecord, run: DocumentRun) -> None:
        """Store the pages that were done and are not in the store: they wait in a spool, or have since been lost from the store.

        What waits in the spool stays there, to be sent once more. A sender that is just sending a page would take it for one of a
        deleted job if it were gone, and delete it in the store.
        """
        stored = set(await self._job_store.numbers_in_store(record.id))
        missing = [page.number for page in run.spool.pages() if page.error is None and page.number not in stored]
        if missing:
            log.warning("job %s: %d page(s) are not in the store; storing them again", record.id, len(missing))
        for number in missing:
            await self._job_store.store_page(record.id, run.spool.content(number), run.collector.engine)

    async def _save_outputs(self, record: JobRecord, run: DocumentRun, summary: DocumentSummary) -> None:
        for output in record.request.outputs:
            try:
                with await run.renderer.render(output, summary, record.request.output_options) as written:
                    name, media_type = file_type(output, len(run.numbers))
                    key = await self._job_store.save_output(record.id, name, written.file, media_type)
            except ServiceError as error:  # one output that fails must not cost the others
                if verdict(error) is Verdict.WAIT:
                    raise
                log.warning("job %s: cannot make %s: %s", record.id, output, error.message)
                record.outputs[output] = OutputFile(error=ErrorInfo(code=error.code, message=error.message))
            else:
                record.outputs[output] = OutputFile(key=key, warnings=written.warnings, pages_drawn=written.pages_drawn)

    async def _save_dialect_result(self, record: JobRecord, run: DocumentRun) -> None:
        if record.dialect is None:
            return
        writer = self._result_writers[record.dialect.name]
        with cast(BinaryIO, tempfile.TemporaryFile()) as file:
            await writer.write(record.dialect.payload, run, file)
            file.seek(0)
            await self._job_store.save_output(record.id, writer.file_name, file, writer.media_type)

    async def _end(self, record: JobRecord, state: JobState, error: ServiceError | None) -> None:
        info = None if error is None else ErrorInfo(code=error.code, message=error.message)
        ended = record.ended_as(state, keep_s=self._limits.keep_s, error=info)
        for pause_s in self._pauses():
            try:
                ended = await self._finish(ended)
                break
            except StoreUnavailable as failure:
                log.warning("job %s: cannot store its end; retrying in %.0f s: %s", record.id, pause_s, failure)
                await asyncio.sleep(pause_s)
        JOBS_ENDED.inc(state=ended.state, reason="" if ended.error is None else ended.error.code)
        log_end(ended)
        self._on_change(ended, {})

    async def _finish(self, ended: JobRecord) -> JobRecord:
        """Store the end of a job, unless it has ended already; return the record that is stored then.

        It has ended already only if two Jobs replicas overlap, and the other one got the request to cancel or delete it.
        """
        if (stored := await self._ended_elsewhere(ended.id)) is not None:
            return stored
        await self._job_store.finish(ended)
        return ended

    async def _ended_elsewhere(self, job_id: str) -> JobRecord | None:
        """Return the record of a job that has ended already, and complete its deletion or its indexes; else return None."""
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

    def _pauses(self) -> Iterator[float]:
        return backoff(self._first_pause_s, self._longest_pause_s)


def log_end(job: JobRecord) -> None:
    """Log the line of a job that has ended, with what was noted while it ran."""
    seconds = None if job.ended is None else round((job.ended - job.created).total_seconds(), 1)
    error = None if job.error is None else job.error.code
    facts = end_line(key=job.owner or None, error=error, s=seconds, done=job.done, failed=job.failed, total=job.total)
    log.info("job %s %s: %s", job.id, job.state, facts)


def _outage(error: Exception) -> tuple[str, str]:
    """Return the reason for a wait in two wordings: for the log, and for the job's owner."""
    if isinstance(error, ServiceError):
        return error.code, error.message
    if isinstance(error, StoreUnavailable):
        return str(error), "The store is not available."
    return "no disk space left", no_room().message
