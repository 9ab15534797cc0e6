"""Searchable PDFs of turned pages: poppler reads their blocks in reading order."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.document import Page
from tests.support.columns import blank_scan, lines_in_order, two_columns
from tests.support.searchable_pdfs import crooked, lines_of, page_of, searchable, word_boxes, words_block


def turned(page: Page, rotation: int, skew: float = 0) -> Page:
    return crooked(page, skew, rotation).model_copy(update={"skew": float(skew)})


@pytest.mark.parametrize("skew", [0, 3])
@pytest.mark.parametrize("rotate", [None, 0, 90, 180, 270], ids=lambda rotate: f"rotate-{rotate}")
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_columns_of_a_turned_page_come_in_reading_order(rotation: int, rotate: int | None, skew: int) -> None:
    upright = two_columns()
    page = turned(upright, rotation, skew)
    assert lines_of(searchable(blank_scan(page, rotate), page)) == lines_in_order(upright)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_table_reads_as_an_upright_one(rotation: int) -> None:
    cells = [(f"{row}{column}", (100 + 250 * column, 60 + 50 * row, 160 + 250 * column, 90 + 50 * row))
             for row in range(5) for column in range(3)]  # fmt: skip
    table = page_of(words_block(*cells).model_copy(update={"label": "table"}), size=(800, 400))
    page = turned(table, rotation)
    assert lines_of(searchable(blank_scan(page, None), page)) == lines_of(searchable(blank_scan(table, None), table))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_words_of_a_turned_paragraph_lie_on_their_ink(rotation: int) -> None:
    paragraph = two_columns()
    paragraph = paragraph.model_copy(update={"blocks": paragraph.blocks[1:2]})
    page = turned(paragraph, rotation)
    found = word_boxes(searchable(blank_scan(page, None), page))
    words = page.blocks[0].words
    assert [text for text, _ in found] == [word.text for word in words]
    places = np.array([box for _, box in found]).reshape(-1, 2, 2).mean(1)
    expected = np.array([word.bbox for word in words]).reshape(-1, 2, 2).mean(1) * 72 / page.dpi
    assert np.abs(places - expected).max() < 4  # points; a line is 11 high
