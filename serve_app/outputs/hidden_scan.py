"""Finds the text that a page of a PDF has but does not show.

That is text in the invisible mode, and text drawn before a picture that covers all of it, wherever it is: on the page or in
forms. Clips by letters (text modes 4 to 7), transparency, and layers that are off let through what is below.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pikepdf
from pikepdf import Array, Name, Pdf

from serve_app.outputs.font_widths import Fonts
from serve_app.outputs.graphics_state import (
    CLIPPING,
    INVISIBLE,
    GraphicsReader,
    GraphicsState,
    Point,
    Shape,
    corners,
    named,
)
from serve_app.outputs.layers import Layers
from serve_app.outputs.odd_names import operator_of
from serve_app.raster.clips import area_of, common_part
from serve_app.raster.text_layout import FloatBox
from serve_app.raster.visibility import COVERING_SHARE, MAX_FORM_DEPTH

MAX_OPERATORS = 300_000
"""Most operators of a page, its forms included. A page with more is a map."""

MAX_COVERS = 100
"""Most pictures that cover a page. Each takes time for all text before it."""

MAX_COMPARISONS = 5_000_000
"""Most comparisons of a text with a picture, or with a side of a shape. They take a second or two."""

SHOWING = {"Tj", "TJ", "'", '"'}
_PLACING = {"BT", "Td", "TD", "Tm", "T*", "'", '"'}

Instruction = Any  # pikepdf's two kinds have no common type


class TooLong(Exception):
    """A page has more operators or covering pictures than are looked at."""


@dataclass
class Content:
    """A content stream: its instructions, the indices of those that show hidden text, and its forms by name.

    A form has a content for each time that it is drawn.
    """

    instructions: Sequence[Instruction]
    hidden: set[int] = field(default_factory=set)
    forms: dict[Name, tuple[pikepdf.Object, list[Content]]] = field(default_factory=dict)

    @property
    def has_hidden(self) -> bool:
        return bool(self.hidden) or any(drawn[0].has_hidden for _, drawn in self.forms.values())

    def settle(self, others: Sequence[Content] = ()) -> None:
        """Let only that be hidden which is hidden each time, here and in `others`. Then the first content of a form counts."""
        self.hidden.intersection_update(*(other.hidden for other in others))
        for name, (_, drawn) in self.forms.items():
            elsewhere = [each for other in others if name in other.forms for each in other.forms[name][1]]
            drawn[0].settle([*drawn[1:], *elsewhere])
        self._keep_places()

    def _keep_places(self) -> None:
        """Keep hidden text if text that is seen goes on where it ends, and would move without it."""
        before: list[int] = []
        for index, instruction in enumerate(self.instructions if self.hidden else ()):
            operator = operator_of(instruction)
            if operator in _PLACING:
                before = []
            if index in self.hidden:
                before.append(index)
            elif operator in SHOWING:
                self.hidden.difference_update(before)


def scan_page(pdf: Pdf, page: pikepdf.Page) -> Content:
    """Return the content of a page of `pdf`. Raises TooLong if it has over MAX_OPERATORS, MAX_COVERS or MAX_COMPARISONS."""
    content = _Scan(page, Layers(pdf)).content
    content.settle()
    return content


class _Text(NamedTuple):
    """A text that is shown: points all over it on the page, and their bounds."""

    content: Content
    position: int
    points: Sequence[Point]
    bounds: FloatBox


class _Scan:
    def __init__(self, page: pikepdf.Page, layers: Layers) -> None:
        self._layers = layers
        self._box = common_part(_box(page.mediabox), _box(page.cropbox))
        self._operators = self._covers = self._comparisons = 0
        self._parsed: dict[tuple[int, int], Sequence[Instruction]] = {}
        self._shown: list[_Text] = []  # that may be seen
        self._fonts = Fonts()
        resources = page.obj.get("/Resources")
        self.content = self._scan(pikepdf.parse_content_stream(page), resources, GraphicsState(self._box), [], 0)

    def _scan(
        self,
        instructions: Sequence[Instruction],
        resources: Any,
        state: GraphicsState,
        shown: Sequence[bool],
        depth: int,
    ) -> Content:
        """Scan a content stream. `shown` says for each marked content around it whether it is shown."""
        content = Content(instructions)
        marked = [*shown]
        self._operators += len(instructions)
        if self._operators > MAX_OPERATORS:
            raise TooLong
        reader = GraphicsReader(state, resources, self._fonts)
        for index, instruction in enumerate(instructions):
            operands, operator = instruction.operands, operator_of(instruction)
            reader.read(operator, operands)
            if operator == "Do" and operands:
                self._draw(content, operands[0], resources, reader.state, marked, depth)
            elif operator in ("BDC", "BMC"):
                marked.append(self._is_shown(operands, resources))
            elif operator == "EMC" and len(marked) > len(shown):
                marked.pop()
            elif operator in SHOWING and operands:
                points = reader.show(operands[-1])
                if reader.state.text.mode >= CLIPPING:
                    reader.state = reader.state.clipped(None)
                elif reader.state.text.mode == INVISIBLE:
                    content.hidden.add(index)
                else:
                    self._note(content, index, points)
        return content

    def _note(self, content: Content, index: int, points: Sequence[Point]) -> None:
        """Note a text that can be seen so far, unless it is beside the page."""
        left, bottom, right, top = self._box
        points = [(x, y) for x, y in points if left <= x <= right and bottom <= y <= top]
        if points:
            across, up = zip(*points, strict=True)
            self._shown.append(_Text(content, index, points, (min(across), min(up), max(across), max(up))))

    def _is_shown(self, operands: Sequence[Any], resources: Any) -> bool:
        if len(operands) < 2 or operands[0] != "/OC":
            return True
        layer = named(resources, "/Properties", operands[1])
        return layer is not None and self._layers.are_shown(layer)

    def _draw(
        self,
        content: Content,
        name: Any,
        resources: Any,
        state: GraphicsState,
        marked: Sequence[bool],
        depth: int,
    ) -> None:
        drawn = named(resources, "/XObject", name)
        if not isinstance(drawn, pikepdf.Stream):
            return
        shown = [*marked, self._layers.are_shown(drawn.get("/OC"))]
        if drawn.get("/Subtype") == "/Image":
            if (
                all(shown)
                and not state.transparent
                and not any(key in drawn for key in ("/SMask", "/Mask", "/ImageMask"))
            ):
                self._cover(state)
        elif drawn.get("/Subtype") == "/Form" and depth < MAX_FORM_DEPTH:
            if "/Group" in drawn and state.transparent:
                shown.append(False)  # all of the group lets through what is below, whatever states it has inside
            try:
                state = _placed(drawn, state)
            except (TypeError, ValueError, ArithmeticError):
                return  # its place is no numbers: viewers differ, so it stays as it is
            scanned = self._scan(self._instructions(drawn), drawn.get("/Resources", resources), state, shown, depth + 1)
            content.forms.setdefault(name, (drawn, []))[1].append(scanned)

    def _instructions(self, form: pikepdf.Stream) -> Sequence[Instruction]:
        if form.objgen not in self._parsed:
            self._parsed[form.objgen] = ()
            with suppress(pikepdf.PdfError):  # a damaged form stays as it is
                self._parsed[form.objgen] = pikepdf.parse_content_stream(form)
        return self._parsed[form.objgen]

    def _cover(self, state: GraphicsState) -> None:
        """Hide the text below a picture, if it covers enough of the page."""
        state = state.clipped(Shape([corners(state.matrix, (0, 0, 1, 1))]))
        if state.clip is None:
            return
        box = left, bottom, right, top = common_part(state.clip, self._box)
        if area_of(box) < COVERING_SHARE * area_of(self._box):
            return
        self._covers += 1
        self._comparisons += len(self._shown)
        sides = sum(shape.sides for shape in state.shapes)
        seen = []
        for text in self._shown:
            at_left, at_bottom, at_right, at_top = text.bounds
            is_covered = left <= at_left and bottom <= at_bottom and at_right <= right and at_top <= top
            if is_covered and sides:
                self._comparisons += sides * len(text.points)
                is_covered = all(shape.has(x, y) for shape in state.shapes for x, y in text.points)
            if self._covers > MAX_COVERS or self._comparisons > MAX_COMPARISONS:
                raise TooLong
            if is_covered:
                text.content.hidden.add(text.position)
            else:
                seen.append(text)
        self._shown = seen


def _placed(form: pikepdf.Object, state: GraphicsState) -> GraphicsState:
    """Return the state at the beginning of a form."""
    matrix, box = form.get("/Matrix"), form.get("/BBox")
    if isinstance(matrix, Array) and len(matrix) == 6:
        state = state.moved(matrix)
    if isinstance(box, Array) and len(box) == 4:
        left, bottom, right, top = map(float, box)
        state = state.clipped(Shape([corners(state.matrix, (left, bottom, right - left, top - bottom))]))
    return state


def _box(array: Any) -> FloatBox:
    box = pikepdf.Rectangle(array)
    return box.llx, box.lly, box.urx, box.ury
