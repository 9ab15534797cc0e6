"""Changes of a page's content and resources that leave what it has as it is."""

from __future__ import annotations

import pikepdf
from pikepdf import Array, Dictionary, Pdf

from serve_app.outputs.odd_names import operator_of


def enclose(pdf: Pdf, leaf: pikepdf.Object, before: pikepdf.Object | None, after: bytes = b"") -> None:
    """Put a content stream before those of a page, and content after them."""
    contents = leaf.get("/Contents")
    existing = list(contents) if isinstance(contents, Array) else [contents]
    parts = [before, *existing, pdf.make_stream(after) if after else None]
    leaf.Contents = Array([part for part in parts if isinstance(part, pikepdf.Stream)])


def resources_of(leaf: pikepdf.Object, kind: str) -> pikepdf.Object:
    """Return a page's resources of a kind, such as "/Font". They may be shared: one more name in them is harmless."""
    if not isinstance(leaf.get("/Resources"), Dictionary):
        leaf.Resources = Dictionary()
    if not isinstance(leaf.Resources.get(kind), Dictionary):
        leaf.Resources[kind] = Dictionary()
    return leaf.Resources[kind]


def balance_states(pdf: Pdf, page: pikepdf.Page) -> None:
    """Make a page's content end as many graphics states as it saves, so that what encloses it holds to its end.

    An operator that ends a state where none is saved does nothing by itself. Content that is damaged stays as it is.
    """
    try:
        operators = pikepdf.parse_content_stream(page, "q Q")
    except pikepdf.PdfError:
        return
    needless, saved = set(), 0
    for position, instruction in enumerate(operators):
        saved += 1 if operator_of(instruction) == "q" else -1
        if saved < 0:
            needless.add(position)
            saved = 0
    if needless:
        kept, position = [], -1
        for instruction in pikepdf.parse_content_stream(page):
            position += operator_of(instruction) in ("q", "Q")
            if operator_of(instruction) != "Q" or position not in needless:
                kept.append(instruction)
        page.obj.Contents = pdf.make_stream(pikepdf.unparse_content_stream(kept))
    if saved:
        enclose(pdf, page.obj, None, b"\n" + b"Q " * saved)
