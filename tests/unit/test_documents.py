"""Opening a document: slots and limits of pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.document.outline import Structure
from serve_app.errors import InvalidField, QueueFull, TooManyPages
from serve_app.settings import Limits
from tests.support.two_pages import TwoPages, opened, read


async def test_a_document_uses_its_slot_until_its_pages_are_done_and_no_longer(tmp_path: Path) -> None:
    pipeline = TwoPages(Structure())
    with await opened(tmp_path, pipeline) as run:
        with pytest.raises(QueueFull):
            await opened(tmp_path, pipeline)
        await read(run)
        with await opened(tmp_path, pipeline):
            pass
    with await opened(tmp_path, pipeline) as unread:
        pass
    assert pipeline.admission.in_use == 0, f"{unread.id} has its slot still"
    with pytest.raises(InvalidField):
        await opened(tmp_path, pipeline, pages="3")
    with pytest.raises(TooManyPages):
        await opened(tmp_path, pipeline, max_pages=1)
    with await opened(tmp_path, pipeline):
        pass


async def test_a_request_cannot_raise_the_services_limit_of_pages(tmp_path: Path) -> None:
    with pytest.raises(TooManyPages, match="limit is 1"):
        await opened(tmp_path, TwoPages(Structure()), limits=Limits(max_pages=1), max_pages=10)
