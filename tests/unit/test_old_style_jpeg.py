"""TIFF pages with JPEG of the old style: read, and kept in the searchable PDF."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc

import numpy as np
import pytest
from pikepdf import Name, Pdf, Stream
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from serve_app.raster.images import DecodedImage
from serve_app.raster.jpeg_parts import DQT, SOI, jpeg_parts, segment
from serve_app.raster.page_source import open_source
from serve_app.raster.tiff_jpeg import jpeg_of_page
from tests.support.old_jpeg import Layout, old_jpeg_tiff
from tests.support.searchable_pdfs import drawn, page_of, photo, searchable

SIZE = (61, 44)
STRIPS = [("whole", None), ("header", None), ("header", 16), ("tables", None), ("tables", 16)]


def read(data: bytes) -> DecodedImage:
    return open_source(data, password=None, max_pixels=10**6).render(1, dpi=72, default_dpi=72, max_pixels=10**6)


def smooth(mode: str) -> Image.Image:
    across, down = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    return Image.fromarray(np.dstack((across * 4, down * 5, across + down)).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("layout", "rows"), STRIPS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_are_those_of_the_page(mode: str, layout: Layout, rows: int | None, order: str) -> None:
    image = smooth(mode)
    page = read(old_jpeg_tiff(image, layout, order=order, rows=rows))
    assert np.abs(page.pixels.astype(int) - np.asarray(image.convert("RGB"))).mean() < 1
    assert page.warnings == ()


@pytest.mark.parametrize(("layout", "rows"), STRIPS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_searchable_pdf_keeps_the_jpeg(mode: str, layout: Layout, rows: int | None) -> None:
    image = smooth(mode)
    source = old_jpeg_tiff(image, layout, rows=rows)

    data = searchable(source, page_of(size=SIZE, dpi=72))

    assert np.abs(drawn(data, dpi=72).astype(int) - np.asarray(image.convert("RGB"))).mean() < 2
    with Pdf.open(io.BytesIO(data)) as pdf:
        (picture,) = (obj for obj in pdf.objects if isinstance(obj, Stream) and obj.get("/Subtype") == Name.Image)
        assert picture.Filter == Name.DCTDecode and len(picture.read_raw_bytes()) < len(source)


def test_a_page_that_lies_on_its_side_stands_upright() -> None:
    image = smooth("L")
    source = old_jpeg_tiff(image, "whole", orientation=6)
    upright = np.asarray(image.convert("RGB").transpose(Image.Transpose.ROTATE_270)).astype(int)

    assert np.abs(read(source).pixels - upright).mean() < 1
    assert np.abs(drawn(searchable(source, page_of(size=SIZE[::-1], dpi=72)), dpi=72) - upright).mean() < 2


def test_a_page_in_grey_whose_zero_is_white_has_its_tones() -> None:
    source = bytearray(old_jpeg_tiff(smooth("L"), "whole"))
    source[source.index(b"\x06\x01\x03\0") + 8] = 0  # the tag of the photometric interpretation
    tones = 255 - np.asarray(smooth("L").convert("RGB")).astype(int)

    assert np.abs(read(bytes(source)).pixels - tones).mean() < 1
    assert np.abs(drawn(searchable(bytes(source), page_of(size=SIZE, dpi=72)), dpi=72) - tones).mean() < 2


@pytest.mark.parametrize("layout", ["whole", "tables"])
def test_a_page_without_its_end_is_read_as_far_as_it_goes(layout: Layout) -> None:
    image = photo((160, 160)).convert("L")
    source = old_jpeg_tiff(image, layout)
    page = read(source[: -len(source) // 3])
    assert [warning.code for warning in page.warnings] == ["damaged_image"]
    assert np.abs(page.pixels[:32].astype(int) - np.asarray(image.convert("RGB"))[:32]).mean() < 8


def test_many_tables_of_a_jpeg_take_little_time() -> None:
    table = segment(DQT, bytes(65_000))
    started = time.process_time()

    assert jpeg_parts(SOI + table * 700).tables == table * 700

    assert time.process_time() - started < 3


def test_strips_that_share_their_bytes_take_little_memory() -> None:
    count, size = 1000, 2**20
    place, sizes = (struct.pack(f"<{count}I", *[value] * count) for value in (8, size))
    tags = {256: 8, 257: 8 * count, 258: 8, 259: 7, 262: 1, 277: 1, 278: 8}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries.insert(5, struct.pack("<HHII", 273, 4, count, 8 + size))
    entries.append(struct.pack("<HHII", 279, 4, count, 8 + size + len(place)))
    pages = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    data = struct.pack("<2sHI", b"II", 42, 8 + size + 2 * len(place)) + bytes(size) + place + sizes + pages
    image = Image.open(io.BytesIO(data))
    assert isinstance(image, TiffImageFile)

    tracemalloc.start()
    try:
        assert jpeg_of_page(image, data) is None
        assert tracemalloc.get_traced_memory()[1] < 10 * size
    finally:
        tracemalloc.stop()
