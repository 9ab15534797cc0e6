"""Events of a document while it is read."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import pytest

from serve_app.document.outline import Structure
from serve_app.ingress.responses.document_events import EventStream
from tests.support.two_pages import TwoPages, opened


async def test_a_client_who_leaves_a_stream_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve.ingress")
    with await opened(tmp_path, TwoPages(Structure([]))) as run:
        stream = EventStream(run, "application/x-ndjson", nullcontext())
        events = cast(AsyncGenerator[str, None], stream.body_iterator)
        assert json.loads(await anext(events))["event"] == "start"
        assert json.loads(await anext(events))["event"] == "page"
        await events.aclose()
    assert f"document {run.id}: the client left after 1 of 2 page(s)" in caplog.text
