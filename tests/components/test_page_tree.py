"""Page trees with nulls and pages that come twice: each text lands on its own page of the searchable PDF."""

from __future__ import annotations

import io
import re

import numpy as np
import pikepdf
import pytest

from serve_app.document import Page, RgbPixels
from serve_app.errors import CorruptDocument
from serve_app.raster.page_tree import MAX_ENTRIES, leaves
from serve_app.raster.pdf import PdfSource
from tests.support.searchable_pdfs import drawn, failed, page_of, pdftotext, searchable, words_block

A_PAGE_WITHIN = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 6 0 R>>"
NODE = b"20 0 obj<</Type/Pages/Parent 2 0 R/Kids[null 5 0 R]/Count 2>>endobj\n"


def book(kids: bytes, count: int, *, is_sound: bool) -> bytes:
    """Pages 3, 5 and 7, each with a square in a place of its own; without a table of objects if not `is_sound`."""
    out = b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[%b]/Count %d>>endobj\n"
    data = out % (kids, count)
    for page, left in ((3, 20), (5, 100), (7, 180)):
        data += b"%d 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents %d 0 R>>endobj\n" % (page, page + 1)
        content = b"0.5 g %3d 20 40 40 re f" % left
        data += b"%d 0 obj<</Length %d>>stream\n%b\nendstream endobj\n" % (page + 1, len(content), content)
    data += NODE
    return with_table(data) if is_sound else data + b"trailer<</Root 1 0 R/Size 21>>\n"


def with_table(data: bytes) -> bytes:
    places = {int(found[1]): found.start() for found in re.finditer(rb"(?m)^(\d+) 0 obj", data)}
    size = max(places) + 1
    table = b"".join(b"%010d 00000 %b \n" % (places.get(i, 0), b"n" if i in places else b"f") for i in range(size))
    ending = b"xref\n0 %d\n%btrailer<</Root 1 0 R/Size %d>>\nstartxref\n%d\n%%%%EOF\n"
    return data + ending % (size, table, size, len(data))


def left_of(pixels: RgbPixels) -> int | None:
    inked = np.flatnonzero((pixels < 200).any(axis=(0, 2)))
    return int(inked[0]) if inked.size else None


@pytest.mark.parametrize("is_sound", [True, False], ids=["sound", "without table"])
@pytest.mark.parametrize(
    ("kids", "count"),
    [
        (b"3 0 R null 5 0 R", 3),
        (b"3 0 R null 5 0 R 7 0 R", 4),
        (b"null 3 0 R 19 0 R 5 0 R 7 0 R", 5),
        (b"3 0 R 4 0 R 5 0 R 7 0 R", 4),
        (b"3 0 R 3 0 R 5 0 R", 3),
        (b"3 0 R 20 0 R 7 0 R", 4),
        (b"3 0 R " + A_PAGE_WITHIN + b" null 7 0 R", 4),
        (b"3 0 R 5 0 R 7 0 R", 5),
    ],
)
def test_text_lands_on_its_own_page(kids: bytes, count: int, is_sound: bool) -> None:
    data = book(kids, count, is_sound=is_sound)
    source = PdfSource(data, None)
    shown: list[int | None] = []
    pages: list[Page] = []
    for number in range(1, source.page_count + 1):
        try:
            image = source.render(number, dpi=72, default_dpi=72, max_pixels=10**6)
        except CorruptDocument:
            shown.append(None)
            pages.append(failed(number))
        else:
            height, width, _ = image.pixels.shape
            shown.append(left_of(image.pixels))
            word = words_block((f"word{number}", (30, 30, 120, 60)))
            pages.append(page_of(word, number=number, size=(width, height), dpi=72))
    source.close()

    result = searchable(data, *pages)

    expected = [f"word{page.number}" if page.error is None else "" for page in pages]
    assert [text.strip() for text in pdftotext(result).split("\f")[:-1]] == expected
    for index, left in enumerate(shown):
        assert left_of(drawn(result, index, dpi=72)) == left, index


def test_the_unit_of_a_page_is_its_own() -> None:
    larger = A_PAGE_WITHIN.replace(b"/Contents", b"/UserUnit 2/Contents")
    source = PdfSource(book(b"null 3 0 R " + larger, 3, is_sound=True), None)
    widths = [source.render(n, dpi=72, default_dpi=72, max_pixels=10**6).pixels.shape[1] for n in (2, 3)]
    source.close()
    assert widths == [300, 600]


def test_a_node_among_its_own_kids_is_not_followed() -> None:
    start = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R 4 0 R]>>endobj\n"
    page = b"3 0 obj<</Type/Page/MediaBox[0 0 9 9]>>endobj\n4 0 obj<</Type/Pages/Kids[3 0 R 2 0 R 4 0 R]>>endobj\n"
    with pikepdf.open(
        io.BytesIO(with_table(start + page)), suppress_warnings=True, inherit_page_attributes=False
    ) as pdf:
        found = leaves(pdf)
        assert [each.objgen for each in found if each is not None] == [(3, 0), (3, 0)]


@pytest.mark.parametrize("last", [b"", b"null"], ids=["without pages", "with pages"])
def test_a_tree_whose_nodes_come_twice_ends(last: bytes) -> None:
    nodes = [b"%d 0 obj<</Type/Pages/Kids[%d 0 R %d 0 R]>>endobj\n" % (n, n + 1, n + 1) for n in range(3, 60)]
    nodes += [b"60 0 obj<</Type/Pages/Kids[%b]>>endobj\n" % last]
    start = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 3 0 R>>endobj\n"
    data = with_table(start + b"".join(nodes))
    with pikepdf.open(io.BytesIO(data), suppress_warnings=True, inherit_page_attributes=False) as pdf:
        found = leaves(pdf)

    assert len(found) <= MAX_ENTRIES and set(found) == ({None} if last else set())
