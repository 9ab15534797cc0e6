"""The pages of a document while it is read."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.document import Block, EngineInfo, ErrorInfo, Figure, NativePage, Page, PageContent, PageResult
from serve_app.document.options import RecognitionOptions
from serve_app.errors import PageTimeout
from serve_app.pipeline.dispatch import PageOutcome
from serve_app.pipeline.page_collector import PageCollector
from serve_app.pipeline.request import DocumentRequest
from serve_app.pipeline.timings import Timings

ENGINE, OTHER = EngineInfo(name="x", version="1"), EngineInfo(name="text-layer", version="2")


def collector(*numbers: int, qualify: bool = True, timings: Timings | None = None, **options: Any) -> PageCollector:
    request = DocumentRequest(engine="x", options=RecognitionOptions(), **options)
    return PageCollector(request, numbers, timings or Timings(), qualify=qualify)


def outcome(number: int, *, engine: EngineInfo = ENGINE, **fields: Any) -> PageOutcome:
    heading = Block(label="doc_title", text="Глава", bbox=(0, 0, 9, 9), order=0)
    page = Page(number=1, width=9, height=9, dpi=72, markdown="![](imgs/a.jpg)", blocks=[heading], **fields)
    content = PageContent(page, (Figure("imgs/a.jpg", b"jpeg"),), NativePage({"width": 9}, "native"))
    return PageOutcome(number, PageResult(content, engine, {"recognize": 5.0}))


def test_pages_are_collected_with_what_they_add_up_to() -> None:
    timings = Timings()
    pages = collector(1, 2, 3, timings=timings)
    assert (pages.missing, pages.has_read) == ([1, 2, 3], False)
    assert pages.add(outcome(3)).page.number == 3
    assert pages.add(outcome(1, degraded=True)).page.number == 1
    assert (pages.missing, pages.has_read, pages.degraded) == ([2], True, True)
    assert pages.engine == ENGINE and pages.failed == 0
    assert [outline.number for outline in pages.outlines] == [1, 3]
    assert timings.stages_ms() == {"recognize": 10.0}
    assert collector(1, restructure=False).outlines == []


def test_warnings_are_collected_with_the_numbers_of_their_pages() -> None:
    pages = collector(1, 2, 3, 10)
    cut, font = ErrorInfo(code="damaged_image", message="?"), ErrorInfo(code="font_missing", message="?")
    for number, warnings in ((10, [font]), (2, [font, cut, cut]), (1, [])):
        pages.add(outcome(number, warnings=warnings))
    pages.restore(PageContent(Page(number=3, width=9, height=9, dpi=72, warnings=[cut])), ENGINE)
    assert pages.warnings == {"damaged_image": [2, 3], "font_missing": [2, 10]}


@pytest.mark.parametrize("qualify", [True, False])
def test_figures_are_qualified_where_a_document_has_several_pages(qualify: bool) -> None:
    (figure,) = collector(2, qualify=qualify).add(outcome(2)).figures
    assert figure.path == ("imgs/page-2-a.jpg" if qualify else "imgs/a.jpg")


def test_the_native_form_is_kept_on_request_only() -> None:
    assert collector(1).add(outcome(1)).native is None
    pages = collector(1, keep_native=True)
    assert pages.add(outcome(1)).native == NativePage({"width": 9}, "native")
    assert pages.spool.native(1) == NativePage({"width": 9}, "native")


def test_a_failed_page_has_its_error_until_it_is_retracted() -> None:
    pages = collector(1, 2)
    failed = pages.add(PageOutcome(2, PageTimeout())).page
    assert failed.error is not None and (failed.number, failed.error.code) == (2, "page_timeout")
    assert (pages.failed, pages.missing, pages.has_read) == (1, [1], False)
    pages.retract([2])
    assert (pages.failed, pages.missing) == (0, [1, 2])
    pages.add_failed(failed)
    assert (pages.failed, pages.missing) == (1, [1])


def test_the_engine_is_one_that_recognized_and_not_the_text_layer() -> None:
    pages = collector(1, 2, 3)
    pages.add(outcome(1, engine=OTHER, text_source="text_layer"))
    assert pages.engine == OTHER
    pages.add(outcome(2))
    pages.add(outcome(3, engine=OTHER, text_source="text_layer"))
    assert pages.engine == ENGINE


def test_a_restored_page_is_as_it_was_added() -> None:
    before, after = collector(1, 2, keep_native=True), collector(1, 2, keep_native=True)
    after.restore(before.add(outcome(2, degraded=True)), before.engine)
    assert after.spool.content(2) == before.spool.content(2)
    assert (after.missing, after.engine, after.degraded) == ([1], ENGINE, True)
    assert after.outlines == before.outlines != []
