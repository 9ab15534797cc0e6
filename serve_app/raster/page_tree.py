"""Pages of a PDF's page tree as PDFium numbers them. Qpdf leaves out what is no page, and what comes twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 1000
MAX_LEAVES = 1_000_000


def leaves(pdf: Any) -> list[Any]:
    """Return the pages of a `pikepdf.Pdf` in PDFium's order; None for what is counted as a page and is none, such as a null.

    Open the PDF with `inherit_page_attributes=False`, and do not use its `pages` before: qpdf then mends the tree.
    """
    found = []
    for leaf in _below(pdf.Root.get("/Pages"), frozenset()):
        found.append(leaf)
        if len(found) == MAX_LEAVES:
            break
    return found


def page_indices(pdf: Any, unmended: Any) -> list[int | None]:
    """Return for each page by PDFium's numbers, from 1, its index in `pdf.pages`; None if it is not there.

    `unmended` is the same PDF, opened as `leaves` needs it.
    """
    tree = leaves(unmended)
    by_number = {page.obj.objgen: index for index, page in enumerate(pdf.pages)}
    indices: list[int | None] = []
    last = -1
    for leaf in tree:
        if leaf is None:
            indices.append(None)
            continue
        # A page within the tree itself has no number. Qpdf gives it one, and its place among the others stays.
        index = by_number.get(leaf.objgen) if leaf.is_indirect else last + 1
        indices.append(index if index is None or index < len(by_number) else None)
        last = last if index is None else index
    return indices


def _below(node: Any, above: frozenset[tuple[int, int]]) -> Iterator[Any]:
    import pikepdf

    kids = node.get("/Kids") if isinstance(node, pikepdf.Dictionary) else None
    if not isinstance(kids, pikepdf.Array) or len(above) == MAX_DEPTH:
        return
    above |= {node.objgen}
    for kid in kids:
        if not isinstance(kid, pikepdf.Dictionary):
            yield None
        elif "/Kids" not in kid:
            yield kid
        elif kid.objgen not in above:
            yield from _below(kid, above)
