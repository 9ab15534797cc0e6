"""The graphics state of a PDF's content, as far as it says what hides what: places, clips, transparency, text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pikepdf import Array, Dictionary, Name

from serve_app.outputs.font_widths import Fonts
from serve_app.outputs.reading_frame import Matrix, multiply, transform
from serve_app.outputs.text_state import TextState
from serve_app.raster.clips import common_part, rectangle_of
from serve_app.raster.text_layout import FloatBox

INVISIBLE, CLIPPING = 3, 4
"""Modes of text. All from the second one on clip."""

MAX_SIDES = 400
"""Most sides of a clip that is followed. Rounded corners have eight each."""

MAX_SHAPES = 32
"""Most clips within each other that are followed, besides level rectangles."""

_PIECES = 8  # of a curve
_PAINTING = {"n", "S", "s", "f", "F", "f*", "B", "B*", "b", "b*"}
_OPAQUE = ("/Normal", "/Compatible")
Point = tuple[float, float]

_IDENTITY: Matrix = (1, 0, 0, 1, 0, 0)
_FIRST_TEXT = TextState()


@dataclass(frozen=True)
class Shape:
    """An area on the page within outlines of points, which close by themselves. A curve is some straight pieces.

    `even_odd`: an outline within another one is a hole.
    """

    outlines: Sequence[Sequence[Point]]
    even_odd: bool = False

    @property
    def sides(self) -> int:
        return sum(map(len, self.outlines))

    def has(self, x: float, y: float) -> bool:
        """Whether a point is in the area, by the number of times that the outlines wind around it."""
        turns = 0
        for outline in self.outlines:
            for (across, up), (other, other_up) in zip(outline, [*outline[1:], outline[0]], strict=True):
                if (up <= y) != (other_up <= y) and across + (y - up) * (other - across) / (other_up - up) > x:
                    turns += 1 if other_up > up else -1
        return turns % 2 == 1 if self.even_odd else turns != 0


@dataclass(frozen=True)
class GraphicsState:
    """The graphics state: the matrix, the text's state, what clips leave, and why pictures are transparent.

    `clip` is the box of what is left, and None if letters clip. `shapes` are the clips that are no level rectangles.
    """

    clip: FloatBox | None
    shapes: tuple[Shape, ...] = ()
    matrix: Matrix = _IDENTITY
    text: TextState = _FIRST_TEXT
    transparent: frozenset[str] = frozenset()

    def moved(self, numbers: Iterable[Any]) -> GraphicsState:
        return replace(self, matrix=multiply(_matrix(numbers), self.matrix))

    def clipped(self, shape: Shape | None) -> GraphicsState:
        """Return the state with a clip more; None are letters, or a shape that is too long to follow."""
        if self.clip is None or shape is None or not shape.outlines or shape.sides > MAX_SIDES:
            return replace(self, clip=None)
        box, is_rectangle = rectangle_of(point for outline in shape.outlines for point in outline)
        state = replace(self, clip=common_part(self.clip, box))
        if is_rectangle and len(shape.outlines) == 1:
            return state
        return (
            replace(state, shapes=(*self.shapes, shape)) if len(self.shapes) < MAX_SHAPES else replace(self, clip=None)
        )

    def changed(self, entries: Dictionary) -> GraphicsState:
        """Return the state with the entries of a dictionary of graphics state parameters."""
        transparent = set(self.transparent)
        for key, value in entries.items():
            if key in ("/ca", "/BM", "/SMask"):
                opaque = float(value) >= 1 if key == "/ca" else value in _OPAQUE if key == "/BM" else value == "/None"
                (transparent.discard if opaque else transparent.add)(key)
        font, text = entries.get("/Font"), self.text
        if isinstance(font, Array) and len(font) == 2:
            text = replace(text, font=font[0], size=float(font[1]))
        return replace(self, transparent=frozenset(transparent), text=text)


class GraphicsReader:
    """Follows the operators of one content stream that change the state."""

    def __init__(self, state: GraphicsState, resources: Any, fonts: Fonts) -> None:
        self.state = state
        self._line = self._place = _IDENTITY  # the matrices of the line of text, and of the place in it
        self._resources = resources
        self._fonts = fonts
        self._saved: list[GraphicsState] = []
        self._path: list[list[Point]] = []  # each outline
        self._clip = ""  # the operator that makes the path a clip

    def read(self, operator: str, operands: Sequence[Any]) -> None:
        """Take an operator into account. One whose operands are no numbers changes nothing."""
        with suppress(TypeError, ValueError, ArithmeticError):
            self._read_state(operator, operands)
            self._read_path(operator, operands)
            self._read_text(operator, operands)

    def show(self, shown: Any) -> list[Point]:
        """Return points all over a text on the page, and go to its end. `shown` is a string or an array with strings."""
        text = self.state.text
        widths = self._fonts.widths(text.font)
        matrix = multiply(self._place, self.state.matrix)
        with suppress(TypeError, ValueError, ArithmeticError):
            begin, end, moved = text.extent(shown, widths)
            points = text.points(begin, end, vertical=widths.vertical)
            self._place = multiply((1, 0, 0, 1, *((0, -moved) if widths.vertical else (moved, 0))), self._place)
            return [transform(matrix, *point) for point in points]
        return [matrix[4:]]  # what is shown is no text

    def _read_state(self, operator: str, operands: Sequence[Any]) -> None:
        match operator:
            case "q":
                self._saved.append(self.state)
            case "Q" if self._saved:
                self.state = self._saved.pop()
            case "cm" if len(operands) == 6:
                self.state = self.state.moved(operands)
            case "gs" if operands:
                entries = named(self._resources, "/ExtGState", operands[0])
                if isinstance(entries, Dictionary):
                    self.state = self.state.changed(entries)

    def _read_path(self, operator: str, operands: Sequence[Any]) -> None:
        match operator:
            case "m" if len(operands) == 2:
                self._path.append(self._points(operands))
            case "l" if len(operands) == 2 and self._path:
                self._path[-1] += self._points(operands)
            case "c" | "v" | "y" if len(operands) == (6 if operator == "c" else 4) and self._path:
                points = self._points(operands)
                start = self._path[-1][-1]
                first = start if operator == "v" else points[0]
                self._path[-1] += _curve(start, first, points[-1 if operator == "y" else -2], points[-1])
            case "h" if self._path:
                self._path.append(self._path[-1][:1])  # a side without a new beginning goes on from there
            case "re" if len(operands) == 4:
                self._path.append(corners(self.state.matrix, operands))
            case "W" | "W*":
                self._clip = operator
            case _ if operator in _PAINTING:
                if self._clip:
                    outlines = [outline for outline in self._path if len(outline) > 1]
                    self.state = self.state.clipped(Shape(outlines, self._clip == "W*"))
                self._path, self._clip = [], ""

    def _points(self, operands: Iterable[Any]) -> list[Point]:
        numbers = list(map(float, operands))
        return [transform(self.state.matrix, *pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]

    def _read_text(self, operator: str, operands: Sequence[Any]) -> None:
        text = self.state.text.changed(operator, operands)
        if operator == "Tf" and len(operands) == 2:
            text = replace(text, font=named(self._resources, "/Font", operands[0]), size=float(operands[1]))
        if text is not self.state.text:
            self.state = replace(self.state, text=text)
        match operator:
            case "BT":
                self._line = _IDENTITY
            case "Tm" if len(operands) == 6:
                self._line = _matrix(operands)
            case "Td" | "TD" if len(operands) == 2:
                across, up = map(float, operands)
                self._line = multiply((1, 0, 0, 1, across, up), self._line)
            case "T*" | "'" | '"':
                self._line = multiply((1, 0, 0, 1, 0, -text.leading), self._line)
            case _:
                return
        self._place = self._line


def named(resources: Any, kind: str, name: Any) -> Any:
    """Return what a name in a content stream stands for; None if it is missing."""
    known = resources.get(kind) if isinstance(resources, Dictionary) else None
    return known.get(name) if isinstance(known, Dictionary) and isinstance(name, Name) else None


def _matrix(numbers: Iterable[Any]) -> Matrix:
    a, b, c, d, e, f = map(float, numbers)
    return a, b, c, d, e, f


def _curve(start: Point, first: Point, second: Point, end: Point) -> list[Point]:
    """Return points along a Bezier curve, without its start."""
    points = []
    for step in range(1, _PIECES + 1):
        t = step / _PIECES
        weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
        x, y = (
            sum(w * point[axis] for w, point in zip(weights, (start, first, second, end), strict=True))
            for axis in (0, 1)
        )
        points.append((x, y))
    return points


def corners(matrix: Matrix, rectangle: Iterable[Any]) -> list[Point]:
    """Return the corners of a rectangle (left, bottom, width, height), each mapped by `matrix`."""
    left, bottom, width, height = map(float, rectangle)
    return [
        transform(matrix, x, y)
        for x, y in ((left, bottom), (left + width, bottom), (left + width, bottom + height), (left, bottom + height))
    ]
