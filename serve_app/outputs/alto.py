"""Writes ALTO 4.4: https://www.loc.gov/standards/alto/.

One file has all pages. Blocks stand in reading order. A table is a ComposedBlock with a TextBlock, a picture an
Illustration. Each block has a tag with its label. Lines of an engine that gives no words have their text without places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from serve_app import __version__
from serve_app.document import Block, Box, DocumentSummary, Page
from serve_app.document.characters import escaped
from serve_app.document.ids import created_at
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

_SCHEMA = "http://www.loc.gov/standards/alto/v4/alto-4-4.xsd"
_NAMESPACE = "http://www.loc.gov/standards/alto/ns-v4#"


def alto_document(pages: Iterable[Page], summary: DocumentSummary, *, labels: Sequence[str]) -> Iterator[str]:
    """Yield the document in parts, to be concatenated and encoded in UTF-8. One page at a time is in memory.

    `labels` are those of all blocks: their tags come before the first page.
    """
    tags = {label: f"tag_{number}" for number, label in enumerate(labels, 1)}
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<alto xmlns="{_NAMESPACE}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_NAMESPACE} {_SCHEMA}" SCHEMAVERSION="4.4">\n'
        "<Description>\n<MeasurementUnit>pixel</MeasurementUnit>\n"
        f"<sourceImageInformation><documentIdentifier>{escaped(summary.id)}</documentIdentifier></sourceImageInformation>\n"
        '<Processing ID="processing_1">\n<processingCategory>contentGeneration</processingCategory>\n'
        f"<processingDateTime>{created_at(summary.id):%Y-%m-%dT%H:%M:%SZ}</processingDateTime>\n"
        f"<processingStepSettings>PaddleOCR-VL Serve {escaped(__version__)}</processingStepSettings>\n"
        f"<processingSoftware><softwareName>{escaped(summary.engine.name)}</softwareName>"
        f"<softwareVersion>{escaped(summary.engine.version)}</softwareVersion></processingSoftware>\n"
        "</Processing>\n</Description>\n"
    )
    if tags:
        layout_tags = (f'<LayoutTag ID="{tag}" LABEL="{escaped(label)}"/>\n' for label, tag in tags.items())
        yield f"<Tags>\n{''.join(layout_tags)}</Tags>\n"
    yield "<Layout>\n"
    for page in pages:
        yield from _page(page, tags)
    yield "</Layout>\n</alto>\n"


def _page(page: Page, tags: dict[str, str]) -> Iterator[str]:
    note = "" if page.note is None else f' QUALITY_DETAIL="{escaped(page.note)}"'
    yield (
        f'<Page ID="page_{page.number}" PHYSICAL_IMG_NR="{page.number}" WIDTH="{page.width}" HEIGHT="{page.height}"'
        f"{_rotation(page)}{note}>\n"
        f"<PrintSpace{_place((0, 0, page.width, page.height))}>\n"
    )
    for number, block in enumerate(blocks_in_order(page), 1):
        yield from _block(page, block, f"{page.number}_{number}", tags[block.label])
    yield "</PrintSpace>\n</Page>\n"


def _rotation(page: Page) -> str:
    """Return the rotation of the page's content, which ALTO counts counter-clockwise."""
    turned = -(page.rotation + page.skew) % 360
    return f' ROTATION="{turned:.4g}"' if turned else ""


def _block(page: Page, block: Block, name: str, tag: str) -> Iterator[str]:
    place = f' TAGREFS="{tag}"{_place(within_page(page, block.bbox))}'
    if block.figure is not None:
        yield (
            f'<Illustration ID="illustration_{name}"{place} TYPE="{escaped(block.label)}" FILEID="{escaped(block.figure)}">'
            f"{_shape(page, outline(block.polygon))}</Illustration>\n"
        )
    lines = block_lines(page, block)
    if not lines:
        return
    if block.label == "table":
        yield f'<ComposedBlock ID="table_{name}"{place} TYPE="table">{_shape(page, outline(block.polygon))}\n'
    direction = ' BASEDIRECTION="rtl"' if begins_right_to_left(" ".join(line.text for line in lines)) else ""
    yield f'<TextBlock ID="block_{name}"{place}{direction}>{_shape(page, outline(block.polygon))}\n'
    for number, line in enumerate(lines, 1):
        yield _line(page, line, f"{name}_{number}")
    yield "</TextBlock>\n"
    if block.label == "table":
        yield "</ComposedBlock>\n"


def _line(page: Page, line: Line, name: str) -> str:
    places = line.places
    if places is None:
        words = "<SP/>".join(f'<String CONTENT="{escaped(word)}"/>' for word in line.text.split())
        return f'<TextLine ID="line_{name}">{words}</TextLine>\n'
    words = "<SP/>".join(_word(page, word, f"{name}_{number}") for number, word in enumerate(line.words, 1))
    return f'<TextLine ID="line_{name}"{_place(places.box)} BASELINE="{_points(page, places.baseline)}">{_shape(page, places.polygon)}{words}</TextLine>\n'


def _word(page: Page, word: PlacedWord, name: str) -> str:
    confidence = "" if word.confidence is None else f' WC="{word.confidence:.4g}"'
    start = f'<String ID="word_{name}"{_place(word.box)} CONTENT="{escaped(word.text)}"{confidence}'
    shape = _shape(page, word.polygon)
    return f"{start}>{shape}</String>" if shape else f"{start}/>"


def _place(box: Box) -> str:
    left, top, right, bottom = box
    return f' HPOS="{left}" VPOS="{top}" WIDTH="{right - left}" HEIGHT="{bottom - top}"'


def _shape(page: Page, polygon: Polygon | None) -> str:
    if not polygon:
        return ""
    return f'<Shape><Polygon POINTS="{_points(page, polygon)}"/></Shape>'


def _points(page: Page, polygon: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points_within(page, polygon))
