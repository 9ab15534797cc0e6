"""The text of searchable PDFs, as poppler and PDFium see it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator

import numpy as np
import pypdfium2 as pdfium
import pytest
from pikepdf import Array, Pdf

from serve_app.document import Block, Box, Page
from serve_app.raster.page_source import open_source
from tests.support.searchable_pdfs import (
    DPI,
    crooked,
    dark_box,
    drawn,
    failed,
    lines_of,
    page_of,
    pdftotext,
    plain_pdf,
    region,
    searchable,
    word_boxes,
    words_block,
)


def test_words_are_found_apart_and_in_reading_order() -> None:
    first = words_block(
        ("Съешь", (20, 20, 100, 40)), ("ещё", (100, 20, 150, 40)), ("булок,", (160, 24, 240, 44)), order=0
    )
    second = words_block(("да", (20, 50, 60, 70)), ("выпей", (70, 52, 160, 72)), ("чаю.", (20, 80, 90, 100)), order=1)

    data = searchable(plain_pdf(), page_of(second, first))

    assert pdftotext(data).split() == ["Съешь", "ещё", "булок,", "да", "выпей", "чаю."]
    assert lines_of(data) == ["Съешь ещё булок,", "да выпей", "чаю."]


def test_words_of_a_skewed_line_stay_one_line() -> None:
    words = [
        (f"слово{index}", (20 + 90 * index, 40 + 8 * index, 100 + 90 * index, 64 + 8 * index)) for index in range(6)
    ]

    data = searchable(plain_pdf(), page_of(words_block(*words)))

    assert pdftotext(data, "-raw").split("\n")[0] == " ".join(text for text, _ in words)
    for (text, box), (_, expected) in zip(word_boxes(data), words, strict=True):
        assert np.allclose(np.array(box) * 2, expected, atol=2), text


COLUMNS = (
    ["первая строка текста", "вторая строка, где", "мало, а тут", "как она есть", "снова строка"],
    ["рядом стоит другая", "колонка с её словами", "она читается после", "первой, не через", "промежуток между"],
)


def column_blocks(spacing: int) -> list[Block]:
    def words(column: int, lines: list[str]) -> Iterator[tuple[str, Box]]:
        for index, line in enumerate(lines):
            left, baseline = 20 + 300 * column, 40 + 2 * column + spacing * index
            for text in line.split():
                # As an engine has them: where the ink is, which depends on the letters.
                top = baseline - (18 if re.search("[бвёйф]", text) else 13)
                bottom = baseline + (5 if re.search("[руфцщ,]", text) else 0)
                yield text, (left, top, left + 11 * len(text), bottom)
                left += 11 * len(text) + 9

    return [words_block(*words(column, lines), order=column) for column, lines in enumerate(COLUMNS)]


@pytest.mark.parametrize("spacing", [24, 30, 34])
def test_columns_are_read_one_after_the_other_however_wide_they_are_set(spacing: int) -> None:
    data = searchable(plain_pdf(), page_of(*column_blocks(spacing)))
    assert lines_of(data) == [line for lines in COLUMNS for line in lines]
    places = [
        (word, 40 + 2 * column + spacing * index)
        for column, lines in enumerate(COLUMNS)
        for index, line in enumerate(lines)
        for word in line.split()
    ]
    for (text, (_, top, _, bottom)), (word, baseline) in zip(word_boxes(data), places, strict=True):
        assert text == word and top * 2 < baseline < bottom * 2, "the baseline is in the word's box"


def sized_for(page: Page) -> bytes:
    with Pdf.new() as pdf:
        pdf.add_blank_page(page_size=(page.width * 72 / DPI, page.height * 72 / DPI))
        out = io.BytesIO()
        pdf.save(out)
        return out.getvalue()


@pytest.mark.parametrize("degrees", [-10, -3, 0.4, 2, 8])
def test_lines_of_a_crooked_page_are_read_in_their_order_and_found_along_the_ink(degrees: float) -> None:
    page = crooked(page_of(*column_blocks(30)), degrees)

    data = searchable(sized_for(page), page)

    lines = [line for column in COLUMNS for line in column]
    assert lines_of(data) == lines
    textpage = pdfium.PdfDocument(data)[0].get_textpage()
    assert sorted(textpage.get_text_range().split()) == sorted(" ".join(lines).split())
    for word in (page.blocks[0].words[0], page.blocks[0].words[2], page.blocks[1].words[-1]):
        ((first, count),) = list(iter(textpage.search(word.text).get_next, None))
        boxes = np.array([textpage.get_charbox(first + index) for index in (0, count - 1)])
        start, end = (boxes[:, :2] + boxes[:, 2:]) / 2
        top_left, top_right, bottom_right, bottom_left = np.array(word.polygon) / 2 * (1, -1) + (0, page.height / 2)
        along = (end - start) / np.hypot(*(end - start))
        assert -math.degrees(math.atan2(along[1], along[0])) == pytest.approx(degrees, abs=0.1)
        assert np.allclose(start + end, np.mean([top_left, top_right, bottom_right, bottom_left], axis=0) * 2, atol=8)


def test_columns_of_blocks_without_words_are_read_one_after_the_other() -> None:
    blocks = [
        region("\n".join(lines), (20 + 300 * column, 20, 280 + 300 * column, 180), order=column)
        for column, lines in enumerate(COLUMNS)
    ]
    assert lines_of(searchable(plain_pdf(), page_of(*blocks))) == [line for lines in COLUMNS for line in lines]


@pytest.mark.parametrize("text", ["Ёлка", "naïve", "中文字", "𝔘😀ab", "é", "x<y&z", "№1—2", "(\\)"])
def test_any_character_is_found(text: str) -> None:
    data = searchable(plain_pdf(), page_of(words_block((text, (20, 20, 200, 50)))))

    assert pdftotext(data).strip() == text
    document = pdfium.PdfDocument(data)
    assert document[0].get_textpage().get_text_bounded().strip() == text


@pytest.mark.parametrize("text", ["שלום", "العربية", "שלום 123 abc"])
def test_text_from_right_to_left_is_found(text: str) -> None:
    data = searchable(plain_pdf(), page_of(region(text, (20, 20, 200, 50))))

    marks = dict.fromkeys(map(ord, "\u202a\u202b\u202c"))
    assert pdftotext(data).translate(marks).split() == text.split()


@pytest.mark.parametrize("box", [(100, 100, 120, 140), (100, 100, 140, 300)])
def test_words_in_narrow_or_upright_boxes_keep_their_double_letters(box: Box) -> None:
    data = searchable(plain_pdf(), page_of(words_block(("длинношеее", box))))

    assert pdftotext(data).strip() == "длинношеее"
    left, top, right, bottom = dict(word_boxes(data))["длинношеее"]
    assert box[0] / 2 - 1 <= left < right <= box[2] / 2 + 1 and box[1] / 2 - 1 <= top < bottom <= box[3] / 2 + 1


def test_controls_and_blank_words_leave_no_trace() -> None:
    block = words_block(("a\0b", (20, 20, 60, 40)), (" \t", (60, 20, 70, 40)), ("\x1b", (70, 20, 80, 40)))

    assert pdftotext(searchable(plain_pdf(), page_of(block))).split() == ["a", "b"]


def test_a_block_without_words_is_broken_into_lines_within_its_box() -> None:
    text = "Очень длинная строка, которая на бумаге занимает никак не меньше трёх строк подряд.\nИ ещё одна."

    data = searchable(plain_pdf(), page_of(region(text, (40, 40, 340, 160))))

    assert pdftotext(data, "-raw").split() == text.split()
    assert len(lines_of(data)) > 3
    for word, (left, top, right, bottom) in word_boxes(data):
        assert 19.5 <= left < right <= 170.5 and 19.5 <= top < bottom <= 80.5, word


def test_cells_of_a_table_stand_in_columns() -> None:
    data = searchable(plain_pdf(), page_of(region("имя\tцена\nчай\t12", (100, 100, 500, 200))))

    places = dict(word_boxes(data))
    assert places["имя"][0] == places["чай"][0] == pytest.approx(50, abs=0.5)
    assert places["цена"][0] == places["12"][0] == pytest.approx(150, abs=0.5)
    assert places["чай"][1] == places["12"][1] > places["имя"][1]


def test_blocks_without_text_and_pages_that_failed_add_nothing() -> None:
    for page in (page_of(region("", (10, 10, 300, 300))), failed()):
        data = searchable(plain_pdf(), page)
        assert pdftotext(data).strip() == ""
        with Pdf.open(io.BytesIO(data)) as pdf:
            assert pdf.pages[0].Contents.read_bytes().startswith(b"% page-1")


@pytest.mark.parametrize("box", [(50, 50, 50, 50), (300, 40, 20, 10), (-500, -500, 5000, 5000)])
def test_boxes_without_size_or_beyond_the_page_do_no_harm(box: Box) -> None:
    data = searchable(plain_pdf(), page_of(words_block(("слово", box)), region("текст", box, order=1)))

    document = pdfium.PdfDocument(data)
    assert "слово" in document[0].get_textpage().get_text_range()


# The place of the text


@pytest.mark.parametrize("turned", [0, 90, 180, 270], ids=lambda turned: f"text-turned-{turned}")
@pytest.mark.parametrize("rotate", [0, 90, 180, 270, -90], ids=lambda rotate: f"rotate-{rotate}")
def test_text_lies_on_the_ink_whatever_turns_and_crops_the_page(rotate: int, turned: int) -> None:
    mark = (130, 90, 160, 110)  # in user space: left, bottom, right, top

    def change(pdf: Pdf) -> None:
        pdf.pages[0].obj.Contents = pdf.make_stream(b"0 g 130 90 30 20 re f")
        for key in ("/MediaBox", "/Resources"):
            del pdf.pages[0].obj[key]
        # Inherited, and the wrong way round.
        node = pdf.Root.Pages
        node.MediaBox, node.CropBox = Array([10, 20, 310, 220]), Array([290, 200, 50, 40])
        node.Rotate, node.UserUnit = rotate, 2

    source = plain_pdf(change=change)
    picture = drawn(source)
    height, width, _ = picture.shape
    page = page_of(words_block(("он", dark_box(picture))), size=(width, height), rotation=turned)

    data = searchable(source, page)

    assert np.array_equal(drawn(data), picture)
    textpage = pdfium.PdfDocument(data)[0].get_textpage()
    boxes = np.array([textpage.get_charbox(index, loose=True) for index in range(len("он"))])
    assert np.allclose([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)], mark, atol=1.5)
    (word, place), *others = word_boxes(data)
    assert (word, others) == ("он", [])
    assert np.allclose(np.array(place) * DPI / 72, dark_box(picture), atol=3)


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_lines_of_turned_text_are_read_in_their_order(turned: int) -> None:
    upright = [("первая", (20, 20, 120, 40)), ("строка", (130, 20, 220, 40)), ("вторая", (20, 60, 120, 80))]
    width, height = (400, 600) if turned != 180 else (600, 400)  # of the page as it is read

    def as_seen(box: Box) -> Box:
        left, top, right, bottom = box
        return {
            90: (height - bottom, left, height - top, right),
            180: (width - right, height - bottom, width - left, height - top),
            270: (top, width - right, bottom, width - left),
        }[turned]

    page = page_of(words_block(*((text, as_seen(box)) for text, box in upright)), rotation=turned)

    data = searchable(plain_pdf(), page)

    assert sorted(lines_of(data)) == ["вторая", "первая строка"]
    textpage = pdfium.PdfDocument(data)[0].get_textpage()
    assert sorted(textpage.get_text_range().split()) == ["вторая", "первая", "строка"]
    (left, bottom, *_), (last_left, last_bottom, *_) = (textpage.get_charbox(index, loose=True) for index in (0, 5))
    direction = np.sign(np.rint([last_left - left, last_bottom - bottom]))
    assert tuple(direction) == {90: (0, -1), 180: (-1, 0), 270: (0, 1)}[turned]


@pytest.mark.parametrize("crop", [[0, 0, 0, 0], [-50, -60, 900, 900], [40, 30, 900, 170], [1, 2], None])
@pytest.mark.parametrize("rotate", [0, 90])
def test_the_visible_part_is_the_one_that_the_rasterizer_sees(crop: list[int] | None, rotate: int) -> None:
    def change(pdf: Pdf) -> None:
        page = pdf.pages[0].obj
        page.Contents, page.Rotate = pdf.make_stream(b"0 g 130 90 30 20 re f"), rotate
        if crop is not None:
            page.CropBox = Array(crop)

    source = plain_pdf(change=change)
    picture = drawn(source)
    height, width, _ = picture.shape

    data = searchable(source, page_of(words_block(("он", dark_box(picture))), size=(width, height)))

    textpage = pdfium.PdfDocument(data)[0].get_textpage()
    (left, bottom, _, _), (_, _, right, top) = (textpage.get_charbox(index, loose=True) for index in (0, 1))
    assert np.allclose(sorted((left, right)) + sorted((bottom, top)), (130, 160, 90, 110), atol=1.5)


@pytest.mark.parametrize(
    "boxes", [{"MediaBox": [0, 0, 300, 200], "CropBox": [500, 500, 600, 600]}, {"MediaBox": [1, 2]}]
)
def test_a_page_without_a_usable_box_is_written_in_the_box_in_which_it_is_read(boxes: dict[str, list[int]]) -> None:
    def change(pdf: Pdf) -> None:
        pdf.pages[0].obj.Contents = pdf.make_stream(b"0 g 130 90 30 20 re f")
        for key, box in boxes.items():
            pdf.pages[0].obj["/" + key] = Array(box)

    source = plain_pdf(change=change)
    picture = open_source(source, password=None, max_pixels=10**7).render(1, dpi=DPI, default_dpi=DPI, max_pixels=10**7)
    height, width, _ = picture.pixels.shape

    data = searchable(source, page_of(words_block(("он", dark_box(picture.pixels))), size=(width, height)))

    assert np.array_equal(drawn(data), picture.pixels)
    ((word, place),) = word_boxes(data)
    assert word == "он" and np.allclose(np.array(place) * DPI / 72, dark_box(picture.pixels), atol=3)


def test_graphics_state_left_over_by_the_page_does_not_move_text() -> None:
    def change(pdf: Pdf) -> None:
        parts = [b"3 0 0 3 50 50 cm q 2 0 0 2 9 9 cm", b"0.2 g 5 5 10 10 re f BT 7 Tr 50 Tz 9 Ts 4 Tc"]
        pdf.pages[0].obj.Contents = Array([pdf.make_stream(part) for part in parts])

    source = plain_pdf(change=change)

    data = searchable(source, page_of(words_block(("место", (100, 60, 200, 100)))))

    assert np.array_equal(drawn(data), drawn(source))
    assert np.allclose(dict(word_boxes(data))["место"], (50, 30, 100, 50), atol=0.5)
