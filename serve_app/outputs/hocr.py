"""Writes hOCR 1.2, as XHTML: http://kba.github.io/hocr-spec/1.2/.

Blocks are `ocr_carea` with an `ocr_par`, tables `ocr_table` with an `ocr_par`, pictures `ocr_photo`. Lines are `ocr_line`
with an `ocrx_word` for each word, as Tesseract writes them, since most readers expect these. A line of an engine that
gives no words has its text alone, and an even part of its block as its box: readers need one.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator

from serve_app.document import Block, Box, DocumentSummary, Page
from serve_app.document.characters import escaped
from serve_app.document.model import Polygon
from serve_app.outputs.lines import (
    Line,
    PlacedWord,
    begins_right_to_left,
    block_lines,
    blocks_in_order,
    outline,
    points_within,
    within_page,
)

_CAPABILITIES = "ocr_page ocr_carea ocr_table ocr_photo ocr_par ocr_line ocrx_word ocrp_wconf ocrp_poly"


def hocr_document(pages: Iterable[Page], summary: DocumentSummary, *, page_count: int) -> Iterator[str]:
    """Yield the document in parts, to be concatenated and encoded in UTF-8. One page at a time is in memory.

    `page_count` is the number of `pages`. A failed page has its error as a paragraph of the class `note`.
    """
    engine = f"{summary.engine.name} {summary.engine.version}".strip()
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE html>\n'
        '<html xmlns="http://www.w3.org/1999/xhtml">\n<head>\n'
        f"<title>{escaped(summary.id)}</title>\n"
        '<meta http-equiv="Content-Type" content="text/html; charset=utf-8"/>\n'
        f'<meta name="ocr-system" content="{escaped(engine)}"/>\n'
        f'<meta name="ocr-capabilities" content="{_CAPABILITIES}"/>\n'
        f'<meta name="ocr-number-of-pages" content="{page_count}"/>\n'
        "</head>\n<body>\n"
    )
    for page in pages:
        yield from _page(page)
    yield "</body>\n</html>\n"


def _page(page: Page) -> Iterator[str]:
    title = (
        f'image "page-{page.number}.png"; bbox 0 0 {page.width} {page.height}; ppageno {page.number - 1}; '
        f"scan_res {page.dpi} {page.dpi}"
    )
    yield f'<div class="ocr_page" id="page_{page.number}" title="{html.escape(title)}">\n'
    if page.note is not None:
        yield f'<p class="note">{escaped(page.note)}</p>\n'
    for number, block in enumerate(blocks_in_order(page), 1):
        yield from _block(page, block, f"{page.number}_{number}")
    yield "</div>\n"


def _block(page: Page, block: Block, name: str) -> Iterator[str]:
    box = within_page(page, block.bbox)
    place = _bbox(box) + _poly(page, outline(block.polygon))
    kind = "ocr_table" if block.label == "table" else "ocr_carea"
    if block.figure is not None:
        yield f'<div class="ocr_photo" id="photo_{name}" title="{place}"></div>\n'
    lines = block_lines(page, block)
    if not lines:
        return
    direction = ' dir="rtl"' if begins_right_to_left(" ".join(line.text for line in lines)) else ""
    yield (
        f'<div class="{kind}" id="block_{name}" title="{place}">\n'
        f'<p class="ocr_par" id="par_{name}"{direction} title="{place}">\n'
    )
    for number, line in enumerate(lines):
        yield _line(page, line, _part(box, number, len(lines)), f"{name}_{number + 1}")
    yield "</p>\n</div>\n"


def _line(page: Page, line: Line, part: Box, name: str) -> str:
    """Write a line; `part` is its place if nothing better is known."""
    places = line.places
    if places is None:
        return f'<span class="ocr_line" id="line_{name}" title="{_bbox(part)}">{escaped(line.text)}</span>\n'
    title = _bbox(places.box) + _poly(page, places.polygon)
    if page.rotation == 0:
        (left, base), _ = places.baseline
        slope = math.tan(math.radians(page.skew))
        at_left = base + slope * (places.box[0] - left)
        title += f"; baseline {_number(slope)} {round(at_left - places.box[3])}"
    else:  # counter-clockwise
        title += f"; textangle {_number((360 - page.rotation - page.skew) % 360)}"
    title += f"; x_size {_number(round(places.height, 1))}"
    words = " ".join(_word(page, word, f"{name}_{number}") for number, word in enumerate(line.words, 1))
    return f'<span class="ocr_line" id="line_{name}" title="{title}">{words}</span>\n'


def _word(page: Page, word: PlacedWord, name: str) -> str:
    confidence = "" if word.confidence is None else f"; x_wconf {round(100 * word.confidence)}"
    title = f"{_bbox(word.box)}{_poly(page, word.polygon)}{confidence}"
    return f'<span class="ocrx_word" id="word_{name}" title="{title}">{escaped(word.text)}</span>'


def _part(box: Box, number: int, count: int) -> Box:
    left, top, right, bottom = box
    return left, top + (bottom - top) * number // count, right, top + (bottom - top) * (number + 1) // count


def _bbox(box: Box) -> str:
    return "bbox " + " ".join(map(str, box))


def _poly(page: Page, polygon: Polygon | None) -> str:
    return "; poly " + " ".join(f"{x} {y}" for x, y in points_within(page, polygon)) if polygon else ""


def _number(value: float) -> str:
    number = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if number == "-0" else number
