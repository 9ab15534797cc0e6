"""Jobs of the official API: their data in the job's record, and the result that clients download."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, BinaryIO

from pydantic import BaseModel, Field

from serve_app.document import NativePage
from serve_app.document.ids import document_folder
from serve_app.errors import ServiceError
from serve_app.paddlex.engine_options import is_preprocessed
from serve_app.paddlex.exports import export_spool
from serve_app.paddlex.requests import LayoutParsingFields, LinesFields
from serve_app.paddlex.responses import layout_parsing_results, native_pages, ocr_results, write_lines
from serve_app.paddlex.restructuring import restructure_pages, restructuring_of
from serve_app.pipeline.document_run import DocumentRun
from serve_app.pipeline.documents import Documents
from serve_app.settings import Settings
from serve_app.storage.links import Links

log = logging.getLogger("ray.serve.jobs")

LINES_MODELS = ("PP-OCRv5", "PP-OCRv5-latin", "PP-OCRv6")
LAYOUT_MODELS = ("PP-StructureV3", "PaddleOCR-VL", "PaddleOCR-VL-1.5", "PaddleOCR-VL-1.6")

RESULT = "result.jsonl"
RESULT_TYPE = "application/x-ndjson; charset=utf-8"  # without a charset, clients guess one

LONGEST_LINK_S = 604_800
"""Signed links of S3 last a week at most."""


class PaddlexJob(BaseModel):
    """The part of a job's record that belongs to the official API. `payload` holds checked fields of /layout-parsing or /ocr."""

    model: str
    payload: dict[str, Any] = Field(default_factory=dict)
    address: str = Field(description="Base URL of this service, for the URLs in the result")

    @property
    def reads_lines(self) -> bool:
        return self.model in LINES_MODELS

    @property
    def layout(self) -> LayoutParsingFields:
        return LayoutParsingFields.model_validate(self.payload)

    @property
    def lines(self) -> LinesFields:
        return LinesFields.model_validate(self.payload)


class PaddlexResultWriter:
    """Writes the JSON lines that clients of the official job API download, one for each page."""

    file_name = RESULT
    media_type = RESULT_TYPE

    def __init__(self, settings: Settings, documents: Documents, links: Links) -> None:
        self._settings = settings
        self._documents = documents
        self._links = links

    async def write(self, payload: Mapping[str, Any], run: DocumentRun, file: BinaryIO) -> None:
        """Write the lines. `payload` is a PaddlexJob as JSON. Raises ServiceError and StoreUnavailable."""
        job = PaddlexJob.model_validate(payload)
        folder = document_folder(run.id)
        link_s = min(int(self._settings.jobs.keep_s) + 1, LONGEST_LINK_S)  # as long as the result itself is kept

        def picture(path: str) -> str:
            return self._links.url(f"{folder}/{path}", job.address, seconds=link_s)

        if job.reads_lines:
            preprocessed = is_preprocessed(run.request.options)
            lines = ocr_results(job.lines, run.spool, picture, preprocessed=preprocessed)
            await asyncio.to_thread(write_lines, "ocrResults", lines, run.spool, kind=run.kind, to=file)
            return
        layout = job.layout
        restructured = await self._restructure(layout, run) if layout.restructure_pages else None
        exports = await export_spool(run.writers, run.spool, restructured, layout.output_formats)
        with exports:
            pages = layout_parsing_results(layout, run.spool, restructured, picture, exports)
            await asyncio.to_thread(write_lines, "layoutParsingResults", pages, run.spool, kind=run.kind, to=file)

    async def _restructure(self, layout: LayoutParsingFields, run: DocumentRun) -> list[NativePage] | None:
        """Join the pages into one document. Returns None if that fails: then the result has the pages as they are."""
        pages = await asyncio.to_thread(native_pages, run.spool, layout)
        restructuring = restructuring_of(layout)
        try:
            return await restructure_pages(self._documents.pipeline, self._settings, pages, restructuring)
        except ServiceError as error:
            log.warning("job %s: its pages are not restructured: %s", run.id, error.message)
            return None
