"""The rasterizer's own work: whose turn it is, and errors as values."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve_app.document import PageImage
from serve_app.errors import CorruptDocument
from serve_app.raster.deployment import Rasterizer
from serve_app.settings import Limits, RasterSettings
from tests.support.pdfs import pages_pdf


@pytest.fixture
def rasterizer(tmp_path: Path) -> Iterator[Rasterizer]:
    rasterizer = Rasterizer(RasterSettings(), Limits(), str(tmp_path))
    yield rasterizer
    rasterizer.__del__()  # as Serve does: other tests in this process count the decoding processes


async def test_a_single_page_is_drawn_before_the_many_of_a_document_that_came_first(rasterizer: Rasterizer) -> None:
    long = np.frombuffer(pages_pdf([b""] * 12), np.uint8)
    short = np.frombuffer(pages_pdf([b""]), np.uint8)
    drawn: list[str] = []

    async def draw(document: str, data: np.ndarray, number: int) -> None:
        assert isinstance(await rasterizer.rasterize(document, data, None, number, 50), PageImage)
        drawn.append(document)

    many = [asyncio.create_task(draw("long", long, number + 1)) for number in range(12)]
    await asyncio.sleep(0)
    await draw("short", short, 1)
    assert len(drawn) <= 3, "the page that was being drawn, and perhaps one more"
    await asyncio.gather(*many)


async def test_errors_are_answers(rasterizer: Rasterizer) -> None:
    damaged = np.frombuffer(b"%PDF-1.7 nothing", np.uint8)
    assert isinstance(await rasterizer.count_pages("a", damaged, None), CorruptDocument)
    assert isinstance(await rasterizer.rasterize("a", damaged, None, 1, None), CorruptDocument)
