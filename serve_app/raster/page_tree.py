"""Pages of a PDF's page tree as PDFium numbers them. Qpdf leaves out what is no page, and what comes twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 1000

MAX_ENTRIES = 300_000
"""Most entries of the tree that are looked at. A node may come twice, so a small file can have any number of them."""

_END = object()


def leaves(pdf: Any) -> list[Any]:
    """Return the pages of a `pikepdf.Pdf` in PDFium's order; None for what is counted as a page and is none, such as a null.

    Open the PDF with `inherit_page_attributes=False`, and do not use its `pages` before: qpdf then mends the tree.
    """
    import pikepdf

    found: list[Any] = []
    root = pdf.Root.get("/Pages")
    number = root.objgen if isinstance(root, pikepdf.Dictionary) else (0, 0)
    open_nodes = [(_kids(root), number)]
    above = {number}
    for _ in range(MAX_ENTRIES):
        if not open_nodes:
            break
        kids, objgen = open_nodes[-1]
        kid = next(kids, _END)
        if kid is _END:
            open_nodes.pop()
            above.discard(objgen)
        elif not isinstance(kid, pikepdf.Dictionary):
            found.append(None)
        elif "/Kids" not in kid:
            found.append(kid)
        elif not (kid.is_indirect and kid.objgen in above) and len(open_nodes) < MAX_DEPTH:
            open_nodes.append((_kids(kid), kid.objgen))
            above.add(kid.objgen)
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


def _kids(node: Any) -> Iterator[Any]:
    import pikepdf

    kids = node.get("/Kids") if isinstance(node, pikepdf.Dictionary) else None
    if isinstance(kids, pikepdf.Array):
        for position in range(len(kids)):  # a copy could be large
            yield kids[position]
