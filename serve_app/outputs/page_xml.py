"""Writes PAGE-XML, version 2019-07-15: https://github.com/PRImA-Research-Lab/PAGE-XML. The format has one page a file.

Blocks are regions in reading order. Lines need places, so a block of an engine that gives no words has its text without
lines. Tables and formulas have their text in a region within theirs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from serve_app import __version__
from serve_app.document import Block, DocumentSummary, Page
from serve_app.document.characters import escaped
from serve_app.document.ids import created_at
from serve_app.document.model import Polygon
from serve_app.outputs.archive import archive_entry
from serve_app.outputs.lines import (
    Line,
    PlacedWord,
    begins_right_to_left,
    block_lines,
    blocks_in_order,
    corners,
    outline,
    points_within,
    within_page,
)
from serve_app.outputs.text import is_formula

_NAMESPACE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"

_TEXT_TYPES = {
    "text": "paragraph",
    "abstract": "paragraph",
    "content": "TOC-entry",
    "title": "heading",
    "doc_title": "heading",
    "paragraph_title": "heading",
    "figure_title": "caption",
    "vision_footnote": "footnote",
    "footnote": "footnote",
    "header": "header",
    "footer": "footer",
    "number": "page-number",
    "aside_text": "marginalia",
}
"""Types of text regions by label; others are `other`."""


def write_page_xml(pages: Iterable[Page], summary: DocumentSummary, *, page_count: int, to: BinaryIO) -> None:
    """Write the only page as XML, or several as a ZIP with `page-N.xml` for each. One page at a time is in memory."""
    if page_count == 1:
        for page in pages:
            for part in page_xml(page, summary):
                to.write(part.encode())
        return
    with zipfile.ZipFile(to, "w") as archive:
        for page in pages:
            with archive.open(archive_entry(f"page-{page.number}.xml"), "w", force_zip64=True) as entry:
                for part in page_xml(page, summary):
                    entry.write(part.encode())


def page_xml(page: Page, summary: DocumentSummary) -> Iterator[str]:
    """Yield a page in parts, to be concatenated and encoded in UTF-8. The error of a failed page is a comment."""
    created = f"{created_at(summary.id):%Y-%m-%dT%H:%M:%SZ}"
    creator = f"PaddleOCR-VL Serve {__version__}, {summary.engine.name} {summary.engine.version}".strip()
    note = "" if page.note is None else f"<Comments>{escaped(page.note)}</Comments>"
    yield (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<PcGts xmlns="{_NAMESPACE}" pcGtsId="page_{page.number}">\n'
        f"<Metadata><Creator>{escaped(creator)}</Creator><Created>{created}</Created><LastChange>{created}</LastChange>"
        f"{note}</Metadata>\n"
        f'<Page imageFilename="page-{page.number}.png" imageWidth="{page.width}" imageHeight="{page.height}" '
        f'imageXResolution="{page.dpi}" imageYResolution="{page.dpi}" imageResolutionUnit="PPI"{_orientation(page)}>\n'
    )
    blocks = [(f"region_{number}", block) for number, block in enumerate(blocks_in_order(page))]
    if blocks:
        yield '<ReadingOrder><OrderedGroup id="reading_order">\n'
        for index, (name, _) in enumerate(blocks):
            yield f'<RegionRefIndexed index="{index}" regionRef="{name}"/>\n'
        yield "</OrderedGroup></ReadingOrder>\n"
    for name, block in blocks:
        yield from _region(page, block, name)
    yield "</Page>\n</PcGts>\n"


def _orientation(page: Page) -> str:
    """Return the clockwise turn, above -180 and up to 180 degrees, that makes the page's text upright."""
    turn = 180 - (180 + page.rotation + page.skew) % 360
    return f' orientation="{turn:.4g}"' if turn else ""


def _region(page: Page, block: Block, name: str) -> Iterator[str]:
    coordinates = _coordinates(page, outline(block.polygon) or corners(within_page(page, block.bbox)))
    lines = block_lines(page, block)
    kind = _kind(block, lines)
    if kind == "TextRegion":
        yield from _text_region(page, block, lines, name, coordinates)
        return
    yield f'<{kind} id="{name}" custom="label {{type:{escaped(block.label)};}}">{coordinates}\n'
    if lines:
        yield from _text_region(page, block, lines, f"{name}_text", coordinates)
    yield f"</{kind}>\n"


def _kind(block: Block, lines: list[Line]) -> str:
    if block.figure is not None:
        return "ImageRegion"
    if block.label == "table":
        return "TableRegion"
    if is_formula(block):
        return "MathsRegion"
    return "TextRegion" if lines else "UnknownRegion"


def _text_region(page: Page, block: Block, lines: list[Line], name: str, coordinates: str) -> Iterator[str]:
    whole = "\n".join(line.text for line in lines)
    direction = ' readingDirection="right-to-left"' if begins_right_to_left(whole) else ""
    kind = _TEXT_TYPES.get(block.label, "other")
    custom = f' custom="label {{type:{escaped(block.label)};}}"'
    yield f'<TextRegion id="{name}" type="{kind}"{direction}{custom}>{coordinates}\n'
    for number, line in enumerate(lines, 1):
        yield _line(page, line, f"{name}_line_{number}")
    yield f"{_equivalent(whole, block.confidence)}\n</TextRegion>\n"


def _line(page: Page, line: Line, name: str) -> str:
    places = line.places
    if places is None:
        return ""
    coordinates = _coordinates(page, places.polygon or corners(places.box))
    baseline = _points(page, places.baseline)
    words = "".join(_word(page, word, f"{name}_word_{number}") for number, word in enumerate(line.words, 1))
    return (
        f'<TextLine id="{name}">{coordinates}<Baseline points="{baseline}"/>\n'
        f"{words}{_equivalent(line.text, line.confidence)}</TextLine>\n"
    )


def _word(page: Page, word: PlacedWord, name: str) -> str:
    coordinates = _coordinates(page, word.polygon or corners(word.box))
    return f'<Word id="{name}">{coordinates}{_equivalent(word.text, word.confidence)}</Word>\n'


def _coordinates(page: Page, polygon: Polygon) -> str:
    return f'<Coords points="{_points(page, polygon)}"/>'


def _points(page: Page, polygon: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points_within(page, polygon))


def _equivalent(text: str, confidence: float | None) -> str:
    known = "" if confidence is None else f' conf="{min(max(confidence, 0), 1):.4g}"'
    return f"<TextEquiv{known}><Unicode>{escaped(text)}</Unicode></TextEquiv>"
