"""Searchable PDFs of images, as poppler, PDFium and qpdf see them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pikepdf
import pytest
from pikepdf import Pdf
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from tests.support.searchable_pdfs import (
    drawn,
    encoded,
    failed,
    page_of,
    pdftotext,
    photo,
    searchable,
    word_boxes,
    words_block,
)


def only_image(data: bytes) -> tuple[str, int, bytes]:
    """Of the one image in the PDF: colour space, bits, and the bytes as they are embedded."""
    with Pdf.open(io.BytesIO(data)) as pdf:
        (image,) = (obj for obj in pdf.objects if isinstance(obj, pikepdf.Stream) and obj.get("/Subtype") == "/Image")
        space = image.ColorSpace[0] if isinstance(image.ColorSpace, pikepdf.Array) else image.ColorSpace
        return str(space), int(image.BitsPerComponent), image.read_raw_bytes()


def test_pixels_of_an_image_are_its_page_and_its_words_lie_on_them() -> None:
    image = photo((600, 400))

    for kind in ("PNG", "BMP", "TIFF", "WEBP"):
        data = searchable(
            encoded(image, kind, lossless=True),
            page_of(words_block(("слово", (100, 60, 200, 100)))),
        )

        assert np.array_equal(drawn(data), np.asarray(image)), kind
        assert np.allclose(dict(word_boxes(data))["слово"], (50, 30, 100, 50), atol=0.5)


@pytest.mark.parametrize(
    ("mode", "space", "bits"), [("1", "/DeviceGray", 1), ("L", "/DeviceGray", 8), ("P", "/Indexed", 8)]
)
def test_an_image_takes_no_more_bits_than_it_has(mode: str, space: str, bits: int) -> None:
    image = photo((61, 40)).convert(mode)

    data = searchable(encoded(image, "PNG"), page_of(size=(61, 40)))

    assert only_image(data)[:2] == (space, bits)
    assert np.array_equal(drawn(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_embedded_byte_for_byte_and_stands_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    source = encoded(photo(), "JPEG", quality=95, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(source)))

    data = searchable(source, page_of(words_block(("слово", (10, 10, 30, 20))), size=upright.size, dpi=72))

    assert only_image(data)[2] == source
    assert np.abs(drawn(data, dpi=72).astype(int) - np.asarray(upright)).max() <= 8
    assert np.allclose(dict(word_boxes(data))["слово"], (10, 10, 30, 20), atol=0.5)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_in_grey_or_in_inks_has_its_colours(mode: str) -> None:
    image = photo().convert(mode)
    source = encoded(image, "JPEG", quality=95)

    data = searchable(source, page_of(size=image.size, dpi=72))

    shown, expected = drawn(data, dpi=72).astype(int), np.asarray(Image.open(io.BytesIO(source)).convert("RGB"))
    # Inks are mixed by other formulas here and there; inverted, they would be off by 255.
    assert np.abs(shown - expected).max() <= (4 if mode == "L" else 100)


def test_pages_of_a_tiff_are_chosen_by_number_and_have_their_own_sizes() -> None:
    frames = [photo((60, 40)), photo((50, 80)).convert("1"), photo((30, 30)).convert("L")]
    source = encoded(frames[0], "TIFF", more=frames[1:])

    data = searchable(
        source,
        page_of(words_block(("вторая", (5, 5, 45, 20))), number=2, size=(50, 80), dpi=72),
        failed(number=3),
    )

    assert [text.split() for text in pdftotext(data).split("\f")] == [["вторая"], [], []]
    assert np.array_equal(drawn(data, 0, dpi=72), np.asarray(frames[1].convert("RGB")))
    with Pdf.open(io.BytesIO(data)) as pdf:
        assert [float(side) for side in pdf.pages[0].mediabox] == [0, 0, 50, 80]
        assert len(pdf.pages) == 2


def test_a_failed_page_that_cannot_be_drawn_is_blank() -> None:
    source = bytearray(encoded(photo(), "TIFF", more=[photo()], compression="tiff_lzw"))
    intact = page_of(words_block(("целая", (5, 5, 55, 20))), size=(60, 40))
    second = Image.open(io.BytesIO(bytes(source)))
    assert isinstance(second, TiffImageFile)
    second.seek(1)
    (offset,), (length,) = second.tag_v2[273], second.tag_v2[279]
    source[offset : offset + length] = b"\xff" * length

    data = searchable(bytes(source), intact, failed(number=2))

    assert pdftotext(data).split() == ["целая"]
    assert (drawn(data, 1) == 255).all()


def test_an_image_too_large_for_a_page_is_scaled_to_the_largest() -> None:
    image = Image.new("1", (30_000, 10), 1)

    data = searchable(encoded(image, "PNG"), page_of(size=image.size, dpi=72))

    with Pdf.open(io.BytesIO(data)) as pdf:
        assert float(pdf.pages[0].mediabox[2]) == 14_400


def scan_like(size: tuple[int, int] = (1240, 1754)) -> Image.Image:
    """Lines of black marks on white, as dense as text."""
    page = np.full((size[1], size[0]), 255, np.uint8)
    marks = np.random.default_rng(5).random((size[1] // 40, size[0] // 6)) < 0.6
    for row, line in enumerate(marks[1:-1], 1):
        for column in np.flatnonzero(line):
            page[40 * row : 40 * row + 20, 6 * column : 6 * column + 3] = 0
    return Image.fromarray(page)


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "TIFF", {"compression": "jpeg"}),
        ("L", "TIFF", {"compression": "jpeg"}),
        ("1", "TIFF", {"compression": "group4"}),
        ("1", "TIFF", {"compression": "group3"}),
        ("1", "TIFF", {"compression": "tiff_lzw"}),
        ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("L", "PNG", {}),
        ("P", "PNG", {}),
        ("RGB", "PNG", {}),
        ("P", "GIF", {}),
        ("RGB", "JPEG", {"progressive": True}),
    ],
)
def test_the_pdf_is_about_as_large_as_the_image(mode: str, kind: str, options: dict[str, Any]) -> None:
    image = scan_like().convert(mode)
    source = encoded(image, kind, **options)

    data = searchable(source, page_of(size=image.size))

    assert len(data) <= 1.3 * len(source) + 2000
    with Image.open(io.BytesIO(source)) as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(drawn(data).astype(int) - expected).max() <= 8


def test_a_fax_has_the_size_of_its_paper_and_its_words_lie_on_it() -> None:
    source = encoded(scan_like((1728, 1078)).convert("1"), "TIFF", compression="group4", dpi=(204, 98))

    data = searchable(source, page_of(words_block(("слово", (204, 408, 408, 510))), size=(1728, 2244), dpi=204))

    with Pdf.open(io.BytesIO(data)) as pdf:
        assert np.allclose([float(side) for side in pdf.pages[0].mediabox], (0, 0, 610, 792), atol=0.5)
    assert np.allclose(dict(word_boxes(data))["слово"], (72, 144, 144, 180), atol=0.5)


@pytest.mark.parametrize("size", [(1240, 6), (4, 1240), (1, 1)])
def test_a_page_may_be_thinner_than_three_points(size: tuple[int, int]) -> None:
    data = searchable(encoded(Image.new("L", size, 90), "TIFF"), page_of(size=size))

    with Pdf.open(io.BytesIO(data)) as pdf:
        assert np.allclose(
            [float(side) for side in pdf.pages[0].mediabox[2:]], [0.5 * side for side in size], atol=0.01
        )
