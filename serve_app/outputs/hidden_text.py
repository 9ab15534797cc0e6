"""Removes the text that a page of a PDF has but does not show: the layer of an earlier recognition.

That is text in the invisible mode, and text drawn before a picture that covers it, wherever it is: on the page or in forms.
Text that clips (modes 4 to 7) stays, as pictures may be drawn through it; such a picture covers nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pikepdf
from pikepdf import Array, Dictionary, Name, Operator, Pdf

from serve_app.outputs.glyphless_font import FONT_NAME
from serve_app.outputs.reading_frame import Matrix, multiply, transform

MAX_OPERATORS = 300_000
"""Most operators of a page, its forms included. A page with more is a map; its text stays."""

MAX_FORM_DEPTH = 8

COVERING_SHARE = 0.5
"""A picture that covers this share of the page hides the text drawn before it, as in `raster.visibility`."""

_INVISIBLE, _CLIPPING = 3, 4  # text rendering modes; all from the second one on clip
_SHOWING = {"Tj", "TJ", "'", '"'}
_DRAWING = _SHOWING | {"S", "s", "f", "F", "f*", "B", "B*", "b", "b*", "sh", "Do", "INLINE IMAGE"}
_IDENTITY: Matrix = (1, 0, 0, 1, 0, 0)
_OWN = ("/Type", "/Subtype", "/BBox", "/Matrix", "/Resources", "/Group", "/OC", "/Name", "/FormType")

_Instruction = Any  # pikepdf's two kinds have no common type


@dataclass
class _Content:
    """A content stream: its instructions, the indices of those that show hidden text, and its forms by name."""

    instructions: Sequence[_Instruction]
    hidden: set[int] = field(default_factory=set)
    forms: dict[str, tuple[pikepdf.Object, _Content]] = field(default_factory=dict)

    @property
    def has_hidden(self) -> bool:
        return bool(self.hidden) or any(content.has_hidden for _, content in self.forms.values())


@dataclass(frozen=True)
class _State:
    """The graphics state: its matrix, the text rendering mode, and whether text clips what is drawn."""

    matrix: Matrix = _IDENTITY
    mode: int = 0
    is_clipped: bool = False

    def moved(self, numbers: Iterable[Any]) -> _State:
        a, b, c, d, e, f = map(float, numbers)
        return replace(self, matrix=multiply((a, b, c, d, e, f), self.matrix))


def remove_hidden_text(pdf: Pdf, page: pikepdf.Page) -> None:
    """Remove a page's hidden text. A page without any stays as it is, and so does one with over MAX_OPERATORS."""
    try:
        content = _Scan(page).content
    except _TooLong:
        return
    if content.has_hidden:
        page.obj.Resources = _rewritten(pdf, content, page.obj.get("/Resources"))
        page.obj.Contents = pdf.make_stream(pikepdf.unparse_content_stream(list(_shown(content))))
        _drop_own_fonts(page.obj)


class _TooLong(Exception):
    pass


class _Scan:
    """Finds the hidden text of a page."""

    def __init__(self, page: pikepdf.Page) -> None:
        self._left, self._bottom, self._right, self._top = map(float, page.mediabox.as_list())
        self._operators = 0
        self._shown: list[tuple[_Content, int]] = []
        self.content = self._scan(page, page.obj.get("/Resources"), _State(), 0)

    def _scan(self, stream: Any, resources: Any, state: _State, depth: int) -> _Content:
        content = _Content(pikepdf.parse_content_stream(stream))
        self._operators += len(content.instructions)
        if self._operators > MAX_OPERATORS:
            raise _TooLong
        saved: list[_State] = []
        for index, instruction in enumerate(content.instructions):
            operands = instruction.operands
            match str(instruction.operator):
                case "q":
                    saved.append(state)
                case "Q" if saved:
                    state = saved.pop()
                case "cm" if len(operands) == 6:
                    state = state.moved(operands)
                case "Tr" if operands:
                    state = replace(state, mode=int(operands[0]))
                case "Do" if operands:
                    self._draw(content, str(operands[0]), resources, state, depth)
                case operator if operator in _SHOWING:
                    if state.mode >= _CLIPPING:
                        state = replace(state, is_clipped=True)
                        continue
                    self._shown.append((content, index))
                    if state.mode == _INVISIBLE:
                        content.hidden.add(index)
        return content

    def _draw(self, content: _Content, name: str, resources: Any, state: _State, depth: int) -> None:
        objects = resources.get("/XObject") if isinstance(resources, Dictionary) else None
        drawn = objects.get(name) if isinstance(objects, Dictionary) else None
        if not isinstance(drawn, pikepdf.Stream):
            return
        if drawn.get("/Subtype") == "/Image":
            see_through = state.is_clipped or any(key in drawn for key in ("/SMask", "/Mask", "/ImageMask"))
            if not see_through and self._covers(state.matrix):
                for shown, index in self._shown:
                    shown.hidden.add(index)
        elif drawn.get("/Subtype") == "/Form" and depth < MAX_FORM_DEPTH:
            own = drawn.get("/Matrix")
            if isinstance(own, Array) and len(own) == 6:
                state = state.moved(own)
            known = content.forms.get(name)
            scanned = self._scan(drawn, drawn.get("/Resources", resources), state, depth + 1)
            if known is not None:  # drawn twice, perhaps shown once
                scanned.hidden &= known[1].hidden
            content.forms[name] = drawn, scanned

    def _covers(self, matrix: Matrix) -> bool:
        corners = [transform(matrix, x, y) for x in (0, 1) for y in (0, 1)]
        across = min(max(x for x, _ in corners), self._right) - max(min(x for x, _ in corners), self._left)
        up = min(max(y for _, y in corners), self._top) - max(min(y for _, y in corners), self._bottom)
        area = (self._right - self._left) * (self._top - self._bottom)
        return across > 0 and up > 0 and across * up >= COVERING_SHARE * area


def _rewritten(pdf: Pdf, content: _Content, resources: Any) -> Dictionary:
    """Return a copy of the resources in which forms have no hidden text. The originals may be other pages' too."""
    copy = Dictionary(dict(resources.items()) if isinstance(resources, Dictionary) else {})
    forms = {name: form for name, form in content.forms.items() if form[1].has_hidden}
    if forms:
        copy.XObject = Dictionary(dict(copy.XObject.items()))
    for name, (stream, inner) in forms.items():
        form = pdf.make_stream(pikepdf.unparse_content_stream(list(_shown(inner))))
        for key in _OWN:
            if key in stream:
                form[key] = stream[key]
        form.Resources = _rewritten(pdf, inner, stream.get("/Resources", resources))
        copy.XObject[name] = form
    return copy


def _shown(content: _Content) -> Iterator[_Instruction]:
    """Yield the instructions without those for hidden text, and without groups (q ... Q) in which nothing is drawn."""
    kept: list[_Instruction] = []
    groups: list[int | None] = []  # where each open group begins; None if something is drawn in it
    for index, instruction in enumerate(content.instructions):
        if index in content.hidden:
            kept += _moves(instruction)
            continue
        operator = str(instruction.operator)
        if operator == "q":
            groups.append(len(kept))
        elif operator in _DRAWING:
            groups = [None] * len(groups)
        elif operator == "Q" and groups and (start := groups.pop()) is not None:
            del kept[start:]
            continue
        kept.append(instruction)
    yield from kept


def _moves(instruction: _Instruction) -> list[_Instruction]:
    """Return what an operator that shows text does beside."""
    operands, operator = instruction.operands, str(instruction.operator)
    moves = [pikepdf.ContentStreamInstruction([], Operator("T*"))] if operator in ("'", '"') else []
    if operator == '"' and len(operands) == 3:
        for operand, name in zip(operands, ("Tw", "Tc"), strict=False):
            moves.append(pikepdf.ContentStreamInstruction([operand], Operator(name)))
    return moves


def _drop_own_fonts(page: Dictionary) -> None:
    """Remove the invisible font of an earlier result, whose text is gone."""
    fonts = page.Resources.get("/Font")
    if isinstance(fonts, Dictionary):
        others = {key: font for key, font in fonts.items() if not is_own_font(font)}
        page.Resources.Font = Dictionary(others)


def is_own_font(font: object) -> bool:
    return isinstance(font, Dictionary) and font.get("/BaseFont") == Name("/" + FONT_NAME)
