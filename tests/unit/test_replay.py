"""Responses to requests with an Idempotency-Key: when they are stored, and when they are sent."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, BinaryIO

from fastapi import Response
from starlette.types import Message

from serve_app.document import DocumentStatus, DocumentSummary, EngineInfo, StorageInfo
from serve_app.ingress.idempotency.replay import _RecordingResponse
from serve_app.ingress.responses.document_events import EventStream

SUMMARY = DocumentSummary(
    id="1",
    status=DocumentStatus.DONE,
    page_count=1,
    engine=EngineInfo(name="x", version="1"),
    timings_ms={},
    storage=StorageInfo(status="stored"),
)


class Lease:
    """Notes what is committed in the list of all that happens."""

    def __init__(self, happened: list[Any]) -> None:
        self._happened = happened

    async def commit_with_response(self, body: BinaryIO, headers: dict[str, str]) -> None:
        body.seek(0)
        self._happened.append(("commit", body.read(), headers["content-type"]))


class Stream(EventStream):
    """Sends two events; `summary` is the state of the stream after that."""

    def __init__(self, summary: DocumentSummary | None) -> None:
        self.summary = summary

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for part in (b"one ", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def happened(response: Response) -> list[Any]:
    events: list[Any] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            events.append((message.get("body", b""), message.get("more_body", False)))

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    lease: Any = Lease(events)
    await _RecordingResponse(response, lease, AsyncExitStack())({"type": "http"}, receive, send)
    return events


async def test_a_response_is_stored_before_any_of_it_is_sent() -> None:
    events = await happened(Response(b"text", media_type="text/plain"))
    assert events[0] == ("commit", b"text", "text/plain; charset=utf-8")
    assert b"".join(part for part, _ in events[1:]) == b"text"


async def test_a_stream_is_sent_as_it_goes_and_stored_before_its_end() -> None:
    assert await happened(Stream(SUMMARY)) == [
        (b"one ", True),
        (b"two", True),
        ("commit", b"one two", "text/event-stream"),
        (b"", False),
    ]


async def test_a_stream_that_failed_is_not_stored() -> None:
    assert await happened(Stream(None)) == [(b"one ", True), (b"two", True), (b"", False)]
