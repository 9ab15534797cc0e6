"""The pages of an event stream: each comes once, also one that this node cannot read yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from serve_app.document import EngineInfo, ErrorInfo, Page, PageContent
from serve_app.document.ids import new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.ingress.context import Context
from serve_app.ingress.jobs.events import _new_pages
from serve_app.jobs.progress import JobView
from serve_app.jobs.record import JobRecord
from serve_app.pipeline.request import DocumentRequest

ENGINE = EngineInfo(name="x", version="1")


class Pages:
    """Stands for the JobStore. The pages `elsewhere` wait in the spool of another node."""

    def __init__(self) -> None:
        self.elsewhere: set[int] = set()
        self.read: list[int] = []

    async def page(self, job_id: str, number: int) -> tuple[PageContent, EngineInfo]:
        if number in self.elsewhere:
            raise KeyError(number)
        self.read.append(number)
        return PageContent(Page(number=number, width=1, height=1, dpi=1)), ENGINE


async def test_a_page_that_waits_in_the_spool_of_another_node_comes_once_it_is_in_the_store() -> None:
    pages = Pages()
    context = cast(Context, SimpleNamespace(job_store=pages))
    request = DocumentRequest(engine="x", options=RecognitionOptions())
    record = JobRecord(id=new_document_id(), owner="me", request=request)
    errors: dict[int, ErrorInfo | None] = {1: None, 2: None, 3: ErrorInfo(code="page_timeout", message="")}
    view = JobView(record, pages=errors)
    sent: set[int] = set()
    pages.elsewhere = {2}
    assert [page.number async for page in _new_pages(view, context, sent)] == [1, 3]
    assert [page.number async for page in _new_pages(view, context, sent)] == []
    pages.elsewhere = set()
    assert [page.number async for page in _new_pages(view, context, sent)] == [2]
    assert [page.number async for page in _new_pages(view, context, sent)] == [] and pages.read == [1, 2]
