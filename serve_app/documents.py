"""From a document's bytes to the typed document, recognized and stored."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from datetime import UTC, datetime

from serve_app.document import (
    Document,
    DocumentStatus,
    EngineInfo,
    ErrorInfo,
    Figure,
    Page,
    PageResult,
    StorageInfo,
)
from serve_app.errors import RecognitionFailed, ServiceError
from serve_app.options import RecognitionOptions
from serve_app.outputs.markdown import document_markdown, document_text
from serve_app.pipeline import PageOutcome, Pipeline
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.store import Store, StoreUnavailable

log = logging.getLogger("ray.serve.ingress")


class Documents:
    """Runs a document through the pipeline and puts the result into the store before it is answered."""

    def __init__(self, pipeline: Pipeline, store: Store, monitor: StoreMonitor, *, keep_source: bool) -> None:
        self._pipeline = pipeline
        self._store = store
        self._monitor = monitor
        self._keep_source = keep_source

    async def read(
        self,
        source: bytes,
        *,
        engine: str,
        options: RecognitionOptions,
        dpi_hint: int | None,
        timings_ms: dict[str, float],
        started: float,
    ) -> Document:
        """Recognize and store one document.

        `timings_ms` holds the stages that went before; `started` is the perf_counter() of the
        request's start. Raises ServiceError where no page could be recognized.
        """
        outcomes = [
            outcome async for outcome in self._pipeline.pages(source, engine=engine, options=options, dpi_hint=dpi_hint)
        ]
        outcomes.sort(key=lambda outcome: outcome.number)
        results = [outcome.result for outcome in outcomes if isinstance(outcome.result, PageResult)]
        if not results:
            errors = [outcome.result for outcome in outcomes if isinstance(outcome.result, ServiceError)]
            raise errors[0] if errors else RecognitionFailed()
        document = _assemble(outcomes, results, timings_ms)
        await self._keep(document, source, [figure for result in results for figure in result.reading.figures])
        document.timings_ms["total"] = _round(time.perf_counter() - started)
        return document

    async def _keep(self, document: Document, source: bytes, figures: list[Figure]) -> None:
        """Write the result; where that fails, the answer says so and still comes."""
        folder = document_folder(document.id)
        keys = {"result": f"{folder}/result.json", "markdown": f"{folder}/result.md"}
        # Beside the Markdown, at the paths by which it links them.
        keys.update({figure.path: f"{folder}/{figure.path}" for figure in figures})
        if self._keep_source:
            keys["source"] = f"{folder}/source"
        document.storage = StorageInfo(
            status="stored",
            uri=self._store.uri(folder),
            keys={name: self._store.full_key(key) for name, key in keys.items()},
        )
        started = time.perf_counter()
        writes = [
            self._store.put(keys["result"], document.model_dump_json(indent=2).encode(), "application/json"),
            self._store.put(keys["markdown"], document.markdown.encode(), "text/markdown; charset=utf-8"),
        ]
        writes += [self._store.put(keys[figure.path], figure.jpeg, "image/jpeg") for figure in figures]
        if self._keep_source:
            writes.append(self._store.put(keys["source"], source, "application/octet-stream"))
        failures = [failure for failure in await asyncio.gather(*writes, return_exceptions=True) if failure]
        failure = failures[0] if failures else None
        if failure is not None:
            document.storage = StorageInfo(status="failed")
            unexpected = None if isinstance(failure, StoreUnavailable) else failure
            log.error("document %s could not be stored: %s", document.id, failure, exc_info=unexpected)
        self._monitor.report(failure)
        document.timings_ms["store"] = _round(time.perf_counter() - started)


def new_document_id() -> str:
    """An id that cannot be guessed and that tells the day, and so the place of its result (UTC)."""
    return f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(12)}"


def document_folder(document_id: str) -> str:
    """`yyyy/mm/dd/id`: where the results of a document lie in the store."""
    day = document_id[:8]
    return f"{day[:4]}/{day[4:6]}/{day[6:8]}/{document_id}"


def _assemble(outcomes: list[PageOutcome], results: list[PageResult], timings_ms: dict[str, float]) -> Document:
    pages = [_page(outcome) for outcome in outcomes]
    stages = dict(timings_ms)
    for result in results:
        for stage, ms in result.timings_ms.items():
            stages[stage] = stages.get(stage, 0.0) + ms
    engine: EngineInfo = results[0].engine
    return Document(
        id=new_document_id(),
        status=DocumentStatus.DONE if len(results) == len(outcomes) else DocumentStatus.PARTIAL,
        pages=pages,
        text=document_text(pages),
        markdown=document_markdown(pages),
        engine=engine,
        degraded=any(page.degraded for page in pages),
        timings_ms={stage: round(ms, 1) for stage, ms in stages.items()},
        storage=StorageInfo(status="failed"),
    )


def _page(outcome: PageOutcome) -> Page:
    if isinstance(outcome.result, PageResult):
        return outcome.result.page
    error = ErrorInfo(code=outcome.result.code, message=outcome.result.message)
    return Page(number=outcome.number, width=0, height=0, dpi=0, error=error)


def _round(seconds: float) -> float:
    return round(seconds * 1000, 1)
