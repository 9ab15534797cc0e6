"""Events of a document while it is read."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.types import Message

from serve_app.document.outline import Structure
from serve_app.errors import EngineLoading
from serve_app.ingress.responses.document_events import EventResponse, EventStream
from serve_app.pipeline.dispatch import PageOutcome
from serve_app.runtime.end_line import end_line, facts_collected
from tests.support.two_pages import FIGURE, TwoPages, opened


async def test_a_client_who_leaves_a_stream_is_in_the_line_of_its_request(tmp_path: Path) -> None:
    with facts_collected(), await opened(tmp_path, TwoPages(Structure([]))) as run:
        stream = EventStream(run, "application/x-ndjson", nullcontext())
        events = cast(AsyncGenerator[str, None], stream.body_iterator)
        assert json.loads(await anext(events))["event"] == "start"
        assert json.loads(await anext(events))["event"] == "page"
        await events.aclose()
        assert "left_after=1" in end_line().split()


async def test_a_stream_has_each_page_with_its_figures_and_ends_with_the_document(tmp_path: Path) -> None:
    with await opened(tmp_path, TwoPages(Structure())) as run:
        stream = EventStream(run, "application/x-ndjson", nullcontext(), include_images=True)
        lines = [json.loads(cast(str, line)) async for line in stream.body_iterator]
    assert [line["event"] for line in lines] == ["start", "page", "page", "document"]
    assert stream.summary is not None and stream.summary.id == run.id
    second, first = lines[1:3]
    assert [page["progress"]["done"] for page in (second, first)] == [1, 2]
    for page in (first, second):
        number = page["page"]["number"]
        path = FIGURE.replace("imgs/", f"imgs/page-{number}-")
        assert {name: base64.b64decode(image) for name, image in page["images"].items()} == {path: b"jpeg %d" % number}


async def test_a_stream_of_a_document_that_cannot_be_read_ends_with_an_error(tmp_path: Path) -> None:
    class Unavailable(TwoPages):
        async def pages(self, *_: Any, **__: Any) -> AsyncIterator[PageOutcome]:
            yield PageOutcome(1, EngineLoading(retry_after_s=1))

    with facts_collected(), await opened(tmp_path, Unavailable(Structure())) as run:
        stream = EventStream(run, "text/event-stream", nullcontext())
        events = [cast(str, event) async for event in stream.body_iterator]
        line = end_line().split()
    assert "error=engine_loading" in line and not [fact for fact in line if fact.startswith("left_after")]
    assert events[1].startswith('event: error\ndata: {"code": "engine_loading"') and len(events) == 2
    assert stream.summary is None


@pytest.mark.parametrize("client_leaves", [False, True])
async def test_a_stream_releases_its_resources_at_its_end_and_when_the_client_leaves(client_leaves: bool) -> None:
    ended = []

    async def events() -> AsyncGenerator[str, None]:
        try:
            yield "event"
            if client_leaves:
                await asyncio.Event().wait()
        finally:
            ended.append("events")

    async def receive() -> Message:
        await asyncio.sleep(0.05 if client_leaves else 60)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    resources = ExitStack()
    resources.callback(ended.append, "resources")
    response = EventResponse(events(), "text/event-stream", resources)
    await asyncio.wait_for(response({"type": "http"}, receive, send), 5)
    assert ended == ["events", "resources"]
