"""Streams a document while it is read: an event for each page, then the summary, as SSE or as JSON lines.

start      {"id", "page_count", "pages": number of requested pages}
page       {"progress": {"done", "failed", "total"}, "page": a Page}; with `include_images`, also {"images": {path: base64}}
document   a DocumentSummary: the last event if any page was read
error      {"code", "message"}: the last event otherwise
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app.document import DocumentSummary, PageContent
from serve_app.errors import ServiceError
from serve_app.outputs.formats import MEDIA_TYPES, OutputFormat
from serve_app.pipeline.document_run import DocumentRun
from serve_app.runtime.end_line import note
from serve_app.runtime.temp_dir import log_failure

log = logging.getLogger("ray.serve.ingress")


class EventResponse(StreamingResponse):
    """Sends events as they come. Closes them and `resources` after the last one, or when the client disconnects."""

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        media_type: str,
        resources: AbstractContextManager[Any],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        all_headers = {
            **(headers or {}),
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # proxies must not buffer events
        }
        super().__init__(events, headers=all_headers, media_type=media_type)
        self._events = events
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._resources:
            async with aclosing(self._events):
                await super().__call__(scope, receive, send)


class EventStream(EventResponse):
    """Reads a document and sends its events. A client who disconnects ends the work.

    `summary` is set once the event `document` has been sent, which is the last one of a document that could be read.
    """

    def __init__(
        self,
        run: DocumentRun,
        media_type: str,
        resources: AbstractContextManager[Any],
        *,
        include_images: bool = False,
    ) -> None:
        frame = as_sse if media_type == MEDIA_TYPES[OutputFormat.EVENTS] else _as_line
        self.summary: DocumentSummary | None = None
        super().__init__(
            self._frames(run, frame, include_images=include_images),
            media_type,
            resources,
            {"X-Document-ID": run.id},
        )

    async def _frames(
        self, run: DocumentRun, frame: Callable[[str, dict[str, Any]], str], *, include_images: bool
    ) -> AsyncGenerator[str, None]:
        async with aclosing(self._document_events(run, include_images=include_images)) as events:
            async for kind, data in events:
                yield frame(kind, data)

    async def _document_events(
        self, run: DocumentRun, *, include_images: bool
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        total = len(run.numbers)
        yield "start", {"id": run.id, "page_count": run.page_count, "pages": total}
        done = failed = 0
        try:
            async with aclosing(run.pages()) as pages:
                async for content in pages:
                    page = content.page
                    done, failed = done + (page.error is None), failed + (page.error is not None)
                    progress = {"done": done, "failed": failed, "total": total}
                    event = {"progress": progress, "page": page.model_dump(mode="json")}
                    if include_images:
                        event["images"] = _images(content)
                    yield "page", event
            summary = await run.finish()
        except ServiceError as error:
            note(error=error.code)
            yield "error", {"code": error.code, "message": error.message}
            return
        except Exception as error:
            failure = log_failure(log, error, f"document {run.id} failed")
            yield "error", {"code": failure.code, "message": failure.message}
            return
        except (GeneratorExit, asyncio.CancelledError):
            note(left_after=done + failed)
            raise
        yield "document", summary.model_dump(mode="json")
        self.summary = summary


def _images(content: PageContent) -> dict[str, str]:
    return {figure.path: base64.b64encode(figure.jpeg).decode() for figure in content.figures}


def as_sse(kind: str, data: dict[str, Any]) -> str:
    """Frame a server-sent event."""
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _as_line(kind: str, data: dict[str, Any]) -> str:
    return json.dumps({"event": kind, **data}, ensure_ascii=False) + "\n"
