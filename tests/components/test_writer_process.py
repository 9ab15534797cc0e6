"""Files that are written in a process of their own, and what becomes of it."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import docx
import psutil
import pytest
from PIL import Image

from serve_app.document import Block, Figure, Page, PageContent, Word
from serve_app.document.spool import PageSpool
from serve_app.errors import CorruptDocument, DocumentTimeout, PasswordRequired, ServiceUnavailable
from serve_app.metrics.catalogue import WRITER_DEATHS
from serve_app.outputs import writer_client
from serve_app.outputs.writer_client import docx_file, searchable_pdf
from tests.support.metrics import grows
from tests.support.pdfs import encrypted, pages_pdf, text_pdf

BOX = (10, 10, 90, 30)


def page(number: int, text: str = "слово", **fields: object) -> Page:
    blocks = [Block(label="text", text=text, bbox=BOX, order=0, words=[Word(text=text, bbox=BOX)])]
    return Page(number=number, width=100, height=100, dpi=72, text=text, blocks=blocks).model_copy(update=fields)


@pytest.fixture
def spool() -> Iterator[PageSpool]:
    spool = PageSpool()
    yield spool
    spool.close()


def told(pdf: bytes) -> list[str]:
    run = subprocess.run(["pdftotext", "-", "-"], input=pdf, capture_output=True, check=True)
    return run.stdout.decode().split()


async def within(seconds: float, look: Callable[[], Any]) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := look()):  # noqa: ASYNC110 - what is looked for is another process
            await asyncio.sleep(0.005)
    return found


def gone(pid: int) -> bool:
    return pid not in children()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


async def test_a_pdf_has_its_text_once_where_a_page_had_it_already(spool: PageSpool) -> None:
    born = text_pdf([(20, 72, 14, "Этот лист набран на компьютере.")], size=(300, 100))
    spool.add(PageContent(page(1, "набран")))
    with await searchable_pdf(born, spool, password=None, timeout_s=30) as written:
        assert told(written.file.read()) == ["Этот", "лист", "набран", "на", "компьютере."]
    with await searchable_pdf(pages_pdf([b""], size=(100, 100)), spool, password=None, timeout_s=30) as written:
        assert told(written.file.read()) == ["набран"]


async def test_what_the_writer_refuses_is_raised_here(spool: PageSpool) -> None:
    spool.add(PageContent(page(1)))
    with pytest.raises(PasswordRequired):
        await searchable_pdf(encrypted(pages_pdf([b""]), "x"), spool, password="y", timeout_s=30)
    with pytest.raises(CorruptDocument):
        await searchable_pdf(b"%PDF-1.7 and no more", spool, password=None, timeout_s=30)


async def test_a_docx_has_its_pages_and_pictures(spool: PageSpool) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(picture, "JPEG")
    for number in range(1, 40):  # more than the spool keeps in memory
        blocks = [Block(label="image", text="", bbox=BOX, order=0, figure=f"imgs/{number}.jpg")]
        spool.add(PageContent(page(number, f"страница {number}")))
        spool.add(PageContent(page(100 + number, blocks=blocks), (Figure(f"imgs/{number}.jpg", picture.getvalue()),)))
    with await docx_file(spool, title="Отчёт", timeout_s=30) as file:
        document = docx.Document(file)
    assert document.core_properties.title == "Отчёт"
    assert [p.text for p in document.paragraphs if p.text] == [f"страница {number}" for number in range(1, 40)]
    assert len(document.inline_shapes) == 39


async def test_a_writer_has_limits_and_is_ended_when_it_is_late_or_not_wanted_any_more(spool: PageSpool) -> None:
    spool.add(PageContent(page(1)))
    before = children()
    with pytest.raises(DocumentTimeout, match="DOCX"):
        await docx_file(spool, title="", timeout_s=0.05)
    assert children() == before
    left = asyncio.create_task(docx_file(spool, title="", timeout_s=30))
    (writer,) = await within(10, lambda: children() - before)
    process = psutil.Process(writer)
    await within(10, lambda: process.rlimit(psutil.RLIMIT_AS)[0] == writer_client.MEMORY_BYTES)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    assert children() == before


async def test_a_writer_that_is_killed_is_not_the_documents_fault(spool: PageSpool) -> None:
    spool.add(PageContent(page(1)))
    before = children()

    async def kill(times: int) -> None:
        for _ in range(times):
            (writer,) = await within(10, lambda: children() - before)
            os.kill(writer, signal.SIGKILL)
            await within(10, partial(gone, writer))

    once = asyncio.create_task(kill(1))
    with await docx_file(spool, title="", timeout_s=30) as file:
        assert [p.text for p in docx.Document(file).paragraphs] == ["слово"]
    await once
    twice = asyncio.create_task(kill(2))
    with grows(WRITER_DEATHS, 2, output="docx", reason="killed"), pytest.raises(ServiceUnavailable):
        await docx_file(spool, title="", timeout_s=30)
    await twice


async def test_a_full_disk_is_told_as_that(spool: PageSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.add(PageContent(page(1)))

    def full() -> Any:
        return open("/dev/full", "r+b", buffering=0)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ServiceUnavailable, match="disk") as refusal:
        await docx_file(spool, title="", timeout_s=30)
    assert refusal.value.retry_after_s
