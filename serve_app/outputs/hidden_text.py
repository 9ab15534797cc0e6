"""Removes the text that a page of a PDF has but does not show: the layer of an earlier recognition."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any

import pikepdf
from pikepdf import Dictionary, Name, Operator, Pdf

from serve_app.outputs.glyphless_font import FONT_NAME
from serve_app.outputs.hidden_scan import SHOWING, Content, Instruction, TooLong, scan_page
from serve_app.outputs.odd_names import name_of, operator_of

_DRAWING = SHOWING | {"S", "s", "f", "F", "f*", "B", "B*", "b", "b*", "sh", "Do", "INLINE IMAGE"}
_OWN = ("/Type", "/Subtype", "/BBox", "/Matrix", "/Resources", "/Group", "/OC", "/Name", "/FormType")


def remove_hidden_text(pdf: Pdf, page: pikepdf.Page) -> None:
    """Remove a page's hidden text. A page without any stays as it is, and so does one that is damaged or too long."""
    try:
        content = scan_page(pdf, page)
    except (TooLong, pikepdf.PdfError):
        return
    if content.has_hidden:
        page.obj.Resources = _rewritten(pdf, content, page.obj.get("/Resources"))
        page.obj.Contents = pdf.make_stream(pikepdf.unparse_content_stream(list(_shown(content))))
        _drop_own_fonts(page.obj)


def _rewritten(pdf: Pdf, content: Content, resources: Any) -> Dictionary:
    """Return a copy of the resources in which forms have no hidden text. The originals may be other pages' too."""
    changed = copy(resources) if isinstance(resources, Dictionary) else Dictionary()
    forms = {name: (form, drawn[0]) for name, (form, drawn) in content.forms.items() if drawn[0].has_hidden}
    if forms:
        changed.XObject = copy(changed.XObject)
    for name, (stream, inner) in forms.items():
        form = pdf.make_stream(pikepdf.unparse_content_stream(list(_shown(inner))))
        for key in _OWN:
            if key in stream:
                form[key] = stream[key]
        form.Resources = _rewritten(pdf, inner, stream.get("/Resources", resources))
        changed.XObject[name] = form
    return changed


def _shown(content: Content) -> Iterator[Instruction]:
    """Yield the instructions without those for hidden text, and without groups (q ... Q) in which nothing is drawn."""
    kept: list[Instruction] = []
    groups: list[int | None] = []  # where each open group begins; None if something is drawn in it
    for index, instruction in enumerate(content.instructions):
        if index in content.hidden:
            kept += _moves(instruction)
            continue
        operator = operator_of(instruction)
        if operator == "q":
            groups.append(len(kept))
        elif operator in _DRAWING:
            for position in reversed(range(len(groups))):
                if groups[position] is None:
                    break  # and so are those around it
                groups[position] = None
        elif operator == "Q" and groups and (start := groups.pop()) is not None:
            del kept[start:]
            continue
        kept.append(instruction)
    yield from kept


def _moves(instruction: Instruction) -> list[Instruction]:
    """Return what an operator that shows text does beside."""
    operands, operator = instruction.operands, operator_of(instruction)
    moves = [pikepdf.ContentStreamInstruction([], Operator("T*"))] if operator in ("'", '"') else []
    if operator == '"' and len(operands) == 3:
        for operand, name in zip(operands, ("Tw", "Tc"), strict=False):
            moves.append(pikepdf.ContentStreamInstruction([operand], Operator(name)))
    return moves


def _drop_own_fonts(page: Dictionary) -> None:
    """Remove the invisible font of an earlier result, whose text is gone."""
    fonts = page.Resources.get("/Font")
    if isinstance(fonts, Dictionary):
        page.Resources.Font = copy(fonts)
        for key, font in fonts.items():
            if is_own_font(font):
                del page.Resources.Font[name_of(key)]


def is_own_font(font: object) -> bool:
    return isinstance(font, Dictionary) and font.get("/BaseFont") == Name("/" + FONT_NAME)
