"""The text layer of a page in a PDF: a content stream of invisible text, and its font in the page's resources."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pikepdf
from pikepdf import Dictionary, Name, Pdf

from serve_app.document import Page
from serve_app.errors import CorruptDocument
from serve_app.outputs.glyphless_font import InvisibleFont
from serve_app.outputs.hidden_text import is_own_font
from serve_app.outputs.invisible_text import text_content
from serve_app.outputs.page_content import enclose, resources_of
from serve_app.outputs.reading_frame import PageFrame
from serve_app.outputs.straightened import Turn, turn_of

FONT_NAME = "/OcrText"

ODD_PDF = (
    pikepdf.PikepdfError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors that a damaged PDF raises. All but pikepdf's own come from objects of an unexpected type."""


class Layer(NamedTuple):
    """The text of a page.

    `name` is the font's in the page's resources, `content` the compressed content stream (b"" without text), and `turn` how
    the page is to be straightened.
    """

    name: str
    content: bytes
    turn: Turn | None = None


def text_layer(page: Page, frame: PageFrame, font: InvisibleFont, name: str, *, straighten: bool) -> Layer:
    """Return the layer of a page that lies in `frame`."""
    turn = turn_of(page, frame) if straighten else None
    content = text_content(page, frame, font, name, turn)
    return Layer(name, zlib.compress(content) if content else b"", turn)


@contextmanager
def pdf_errors() -> Iterator[None]:
    try:
        yield
    except ODD_PDF as error:
        raise CorruptDocument("The PDF is damaged and could not be written again.") from error


def add_layer(result: Pdf, leaf: pikepdf.Object, name: str, content: bytes, faces: dict[str, pikepdf.Object]) -> None:
    """Put the text before the page's own content, which may leave a changed graphics state behind."""
    if not content:
        return
    enclose(result, leaf, result.make_stream(content, Filter=Name.FlateDecode))
    resources_of(leaf, "/Font").update({name + suffix: face for suffix, face in faces.items()})


def unused_font_name(leaf: pikepdf.Page) -> str:
    """Return a name that no font of the page has, or only the font of an earlier result, whose text goes."""
    resources = leaf.get_resources()
    fonts = resources.get("/Font") if isinstance(resources, Dictionary) else None
    name = FONT_NAME
    taken = [key for key, font in fonts.items() if not is_own_font(font)] if isinstance(fonts, Dictionary) else []
    while any(key.startswith(name) for key in taken):
        name += "-"
    return name
