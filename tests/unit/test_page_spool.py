"""Pages and outputs of long documents: bounded memory, the same output."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from serve_app.document import (
    Block,
    Document,
    DocumentStatus,
    DocumentSummary,
    EngineInfo,
    ErrorInfo,
    Figure,
    NativePage,
    Page,
    PageContent,
    StorageInfo,
    Word,
)
from serve_app.document.spool import PAGES_IN_MEMORY, PageSpool
from serve_app.outputs.json import document_json

TRICKY = 'кавычки "«»", \\ и\nстрока\u2028, \x00 и 𝔸.'


def page(number: int) -> Page:
    word = Word(text=TRICKY, bbox=(1, 2, 3, 4), confidence=0.5)
    block = Block(label="text", text=f"Лист {number}. {TRICKY}", bbox=(1, 2, 3, 4), order=0, words=[word])
    return Page(number=number, width=9, height=9, dpi=72, text=block.text, markdown=f"*{block.text}*", blocks=[block])


@pytest.mark.parametrize("count", [1, PAGES_IN_MEMORY, PAGES_IN_MEMORY * 3])
def test_the_json_of_a_document_is_the_same_from_memory_and_from_disk(count: int) -> None:
    spool = PageSpool()
    for number in reversed(range(2, count + 1)):
        spool.add(PageContent(page(number), (Figure(f"imgs/{number}.jpg", bytes([number]) * number),)))
    spool.add(
        PageContent(Page(number=1, width=0, height=0, dpi=0, error=ErrorInfo(code="corrupt_document", message="нет")))
    )
    summary = DocumentSummary(
        id="20261124-1",
        status=DocumentStatus.PARTIAL,
        page_count=count,
        engine=EngineInfo(name="x", version="1"),
        timings_ms={"total": 1.5},
        storage=StorageInfo(status="stored", keys={"result": TRICKY}),
    )
    answer = json.loads(b"".join(document_json(summary, spool, include_images=False)))
    pages = [Page(number=1, width=0, height=0, dpi=0, error=ErrorInfo(code="corrupt_document", message="нет"))]
    pages += [page(number) for number in range(2, count + 1)]
    expected = Document(
        **summary.model_dump(),
        pages=pages,
        text="\n\n".join(each.text for each in pages[1:]),
        markdown="\n\n".join(each.markdown for each in pages[1:]),
    )
    assert answer == expected.model_dump(mode="json")
    parts = list(spool.pages())
    assert [(each.number, each.text, each.markdown) for each in parts] == [
        (each.number, each.text, each.markdown) for each in pages
    ]
    on_disk = [each.number for each in parts if each.blocks and not each.blocks[0].words]
    assert len(on_disk) >= count - 1 - PAGES_IN_MEMORY, "a long document is not in memory"
    assert spool.is_in_memory is (count <= PAGES_IN_MEMORY)
    assert all(spool.figure(f"imgs/{number}.jpg") == bytes([number]) * number for number in range(2, count + 1))
    assert spool.figure("imgs/1.jpg") is None
    spool.close()


def test_the_content_of_a_page_is_as_it_was_added_in_memory_and_on_disk() -> None:
    native = NativePage({"width": 9}, f"{TRICKY} ", ((TRICKY, None),))
    added = [
        PageContent(page(number), (Figure(f"imgs/{number}.jpg", b"jpeg"), Figure(f"imgs/б{number}.jpg", b"")), native)
        for number in range(1, PAGES_IN_MEMORY + 3)
    ]
    with closing(PageSpool()) as spool:
        for content in added:
            spool.add(content)
        assert not spool.is_in_memory and [spool.content(number) for number in spool.numbers] == added
        with pytest.raises(KeyError):
            spool.content(99)
