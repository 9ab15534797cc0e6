"""The text layer of a page in a PDF: a content stream of invisible text, and its font in the page's resources."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pikepdf
from pikepdf import Array, Dictionary, Name, Pdf

from serve_app.errors import CorruptDocument
from serve_app.outputs.hidden_text import is_own_font

FONT_NAME = "/OcrText"

Layer = tuple[str, bytes]
"""The font's name in the page's resources, and the compressed content stream (b"" without text)."""


@contextmanager
def pdf_errors() -> Iterator[None]:
    try:
        yield
    except (pikepdf.PdfError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # All but PdfError come from objects of an unexpected type.
        raise CorruptDocument("The PDF is damaged and could not be written again.") from error


def add_layer(result: Pdf, leaf: pikepdf.Object, name: str, content: bytes, faces: dict[str, pikepdf.Object]) -> None:
    """Put the text before the page's own content, which may leave a changed graphics state behind."""
    if not content:
        return
    contents = leaf.get("/Contents")
    existing = list(contents) if isinstance(contents, Array) else [contents]
    layer = result.make_stream(content, Filter=Name.FlateDecode)
    leaf.Contents = Array([layer, *(part for part in existing if isinstance(part, pikepdf.Stream))])
    if not isinstance(leaf.get("/Resources"), Dictionary):
        leaf.Resources = Dictionary()
    # The resources may be shared with other pages and with forms; one more name in them is harmless.
    if not isinstance(leaf.Resources.get("/Font"), Dictionary):
        leaf.Resources.Font = Dictionary()
    for suffix, face in faces.items():
        leaf.Resources.Font[name + suffix] = face


def unused_font_name(leaf: pikepdf.Page) -> str:
    """Return a name that no font of the page has, or only the font of an earlier result, whose text goes."""
    resources = leaf.get_resources()
    fonts = resources.get("/Font") if isinstance(resources, Dictionary) else None
    name = FONT_NAME
    taken = [key for key, font in fonts.items() if not is_own_font(font)] if isinstance(fonts, Dictionary) else []
    while any(key.startswith(name) for key in taken):
        name += "-"
    return name


def compress(content: bytes) -> bytes:
    return zlib.compress(content) if content else b""
