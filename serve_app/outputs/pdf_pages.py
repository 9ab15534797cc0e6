"""Copies pages of a PDF, with a layer of text for each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from typing import Any

import pikepdf
from pikepdf import Array, Dictionary, Name, Pdf

from serve_app.document import Page
from serve_app.errors import CorruptDocument
from serve_app.outputs.active_content import Defuser, defuse_fields
from serve_app.outputs.copied_pages import copy_pages
from serve_app.outputs.drawn_pages import PageDrawer
from serve_app.outputs.existing_text import ExistingText
from serve_app.outputs.glyphless_font import InvisibleFont
from serve_app.outputs.hidden_text import remove_hidden_text
from serve_app.outputs.pdf_layer import FONT_NAME, ODD_PDF, Layer, pdf_errors, text_layer, unused_font_name
from serve_app.outputs.picture_page import picture_page
from serve_app.outputs.reading_frame import PageFrame

_A4 = (595, 842)  # points
_TITLE_KEYS = ("/Title", "/Author", "/Subject", "/Keywords")


def add_pdf_pages(
    result: Pdf,
    original: Pdf | None,
    indices_of_pages: Sequence[int | None],
    pages: Iterable[Page],
    font: InvisibleFont,
    existing_text: ExistingText,
    drawer: PageDrawer,
    *,
    straighten: bool,
    draw: Container[int],
) -> list[Layer]:
    """Add the pages with their visible content. Text that was recognized replaces text that the page has but hides.

    `indices_of_pages` has for each page, from number 1, its index in `original`.
    `drawer` draws the pages that `original` lacks (all of them, if that is None), and those whose position in the result is
    in `draw`.
    """
    indices: dict[int, int] = {}  # by position in the result
    drawn: dict[int, pikepdf.Page] = {}  # by position in the result
    layers: list[Layer] = []
    defuser = Defuser()
    for page in pages:
        index = indices_of_pages[page.number - 1] if page.number <= len(indices_of_pages) else None
        layer = None
        if original is not None and index is not None and len(layers) not in draw:
            with suppress(CorruptDocument):  # an odd page is drawn, and the others are kept
                layer = _prepare(original, index, page, font, existing_text, defuser, straighten)
                indices[len(layers)] = index
        if layer is None:
            drawn[len(layers)], layer = _draw(result, page, font, drawer, straighten)
        layers.append(layer)
    with pdf_errors():
        if original is not None:
            copy_pages(result, original, indices)
        defuse_fields(result)
        for position, leaf in drawn.items():
            result.pages.insert(position, leaf)
    return layers


def _prepare(
    original: Pdf,
    index: int,
    page: Page,
    font: InvisibleFont,
    existing_text: ExistingText,
    defuser: Defuser,
    straighten: bool,
) -> Layer:
    """Make a page of the original as it is to be copied, and return its layer. Raises CorruptDocument."""
    with pdf_errors():
        leaf = original.pages[index]
        defuser.defuse(leaf.obj)
        _mend_boxes(leaf)
        name, frame = unused_font_name(leaf), _frame(leaf)
    page, hides_text = existing_text.compare(page)
    if hides_text:
        with pdf_errors():
            remove_hidden_text(original, leaf)
    return text_layer(page, frame, font, name, straighten=straighten)


def _draw(
    result: Pdf, page: Page, font: InvisibleFont, drawer: PageDrawer, straighten: bool
) -> tuple[pikepdf.Page, Layer]:
    picture = drawer.draw(page)
    if picture is None:
        blank = Dictionary(Type=Name.Page, MediaBox=Array([0, 0, *_A4]), Resources=Dictionary())
        return pikepdf.Page(blank), Layer(FONT_NAME, b"")
    leaf, frame = picture_page(result, *picture)
    return leaf, text_layer(page, frame, font, FONT_NAME, straighten=straighten)


def copy_title(result: Pdf, original: Pdf) -> None:
    with suppress(*ODD_PDF):
        for key in _TITLE_KEYS:
            value = original.docinfo.get(key)
            if isinstance(value, pikepdf.String):
                result.docinfo[key] = bytes(value)


def copy_catalog(result: Pdf, original: Pdf, numbers: Sequence[int]) -> None:
    """Copy what the PDF says of itself as a whole: its language, and the labels of the pages that have these `numbers`.

    Labels that are odd are left out.
    """
    language, labels = original.Root.get("/Lang"), original.Root.get("/PageLabels")
    if isinstance(language, pikepdf.String):
        result.Root.Lang = bytes(language)
    if isinstance(labels, Dictionary):
        with suppress(*ODD_PDF):
            result.Root.PageLabels = Dictionary(Nums=Array(_labels(pikepdf.NumberTree(labels), numbers)))


def _labels(labels: pikepdf.NumberTree, numbers: Sequence[int]) -> list[Any]:
    """Return the entries of a number tree with the labels of these pages: position, label, position, label, ..."""
    starts = sorted(labels.keys())
    entries: list[Any] = []
    for position, number in enumerate(numbers):
        at = bisect_right(starts, number - 1) - 1
        label = labels[starts[at]] if at >= 0 else None
        if at >= 0 and isinstance(label, Dictionary):
            entry = Dictionary({key: label[key] for key in ("/S", "/P") if key in label})
            entry.St = int(label.get("/St", 1)) + number - 1 - starts[at]
        else:
            entry = Dictionary(S=Name.D, St=number)
        entries += [position, entry]
    return entries


def _frame(leaf: pikepdf.Page) -> PageFrame:
    box = _media_box(leaf)
    box = _meet(box, _rectangle(leaf.cropbox)) or box
    return PageFrame(box.llx, box.lly, box.width, box.height, int(leaf.rotation / 90) % 4 * 90)


def _mend_boxes(leaf: pikepdf.Page) -> None:
    """Give a page without a usable box, such as a crop box beside the media box, the box in which it was read."""
    media = _media_box(leaf)
    if _rectangle(leaf.mediabox) is None:
        leaf.mediabox = media.as_array()
    if _meet(media, _rectangle(leaf.cropbox)) is None:
        leaf.cropbox = media.as_array()


def _media_box(leaf: pikepdf.Page) -> pikepdf.Rectangle:
    """Return the media box, or the size that PDFium takes if it is missing or empty."""
    return _rectangle(leaf.mediabox) or pikepdf.Rectangle(0, 0, 612, 792)


def _meet(media: pikepdf.Rectangle, crop: pikepdf.Rectangle | None) -> pikepdf.Rectangle | None:
    """Return what both show. Returns None if that is nothing: PDFium and `PdfSource` then show the media box."""
    if crop is None:
        return None
    left, bottom = max(media.llx, crop.llx), max(media.lly, crop.lly)
    right, top = min(media.urx, crop.urx), min(media.ury, crop.ury)
    return pikepdf.Rectangle(left, bottom, right, top) if right > left and top > bottom else None


def _rectangle(box: pikepdf.Object) -> pikepdf.Rectangle | None:
    if not isinstance(box, Array):
        return None
    try:
        rectangle = pikepdf.Rectangle(box)
    except TypeError:  # not four numbers
        return None
    return rectangle if rectangle.width > 0 and rectangle.height > 0 else None
