"""The graphics state of a PDF's content, as far as it says what hides what: place, clips, transparency, mode of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pikepdf import Dictionary

from serve_app.outputs.reading_frame import Matrix, multiply, transform
from serve_app.raster.clips import common_part, rectangle_of
from serve_app.raster.text_layout import FloatBox

INVISIBLE, CLIPPING = 3, 4
"""Modes of text. All from the second one on clip."""

_CURVES = {"c", "v", "y"}
_PAINTING = {"n", "S", "s", "f", "F", "f*", "B", "B*", "b", "b*"}
_OPAQUE = ("/Normal", "/Compatible")
_IDENTITY: Matrix = (1, 0, 0, 1, 0, 0)


@dataclass(frozen=True)
class GraphicsState:
    """The graphics state: the matrix, the text's mode and leading, what clips leave, and why pictures are transparent.

    `clip` is None if it is no level rectangle.
    """

    clip: FloatBox | None
    matrix: Matrix = _IDENTITY
    mode: int = 0
    leading: float = 0
    transparent: frozenset[str] = frozenset()

    def moved(self, numbers: Iterable[Any]) -> GraphicsState:
        return replace(self, matrix=multiply(_matrix(numbers), self.matrix))

    def clipped(self, path: Sequence[tuple[float, float]] | None) -> GraphicsState:
        """Return the state with a clip more. `path` has points on the page, or is None if it has curves."""
        if self.clip is None or not path:
            return replace(self, clip=None)
        box, is_rectangle = rectangle_of(path)
        return replace(self, clip=common_part(self.clip, box) if is_rectangle else None)

    def changed(self, entries: Dictionary) -> GraphicsState:
        """Return the state with the entries of a dictionary of graphics state parameters."""
        transparent = set(self.transparent)
        for key, value in entries.items():
            if key in ("/ca", "/BM", "/SMask"):
                opaque = float(value) >= 1 if key == "/ca" else value in _OPAQUE if key == "/BM" else value == "/None"
                (transparent.discard if opaque else transparent.add)(key)
        return replace(self, transparent=frozenset(transparent))


class GraphicsReader:
    """Follows the operators of one content stream that change the state.

    `line` is the matrix of the line of text, which Tj and the like do not move here: that takes the widths of fonts.
    """

    def __init__(self, state: GraphicsState, resources: Any) -> None:
        self.state = state
        self.line = _IDENTITY
        self._resources = resources
        self._saved: list[GraphicsState] = []
        self._path: list[tuple[float, float]] = []
        self._has_curves = self._clips = False

    @property
    def text_start(self) -> tuple[float, float]:
        """Where the line of text begins on the page."""
        return transform(self.state.matrix, *self.line[4:])

    def read(self, operator: str, operands: Sequence[Any]) -> None:
        """Take an operator into account. One whose operands are no numbers changes nothing."""
        with suppress(TypeError, ValueError, ArithmeticError):
            self._read_state(operator, operands)
            self._read_path(operator, operands)
            self._read_text(operator, operands)

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
            case "m" | "l" if len(operands) == 2:
                across, up = map(float, operands)
                self._path.append(transform(self.state.matrix, across, up))
            case "re" if len(operands) == 4:
                self._path += corners(self.state.matrix, operands)
            case "W" | "W*":
                self._clips = True
            case _ if operator in _CURVES:
                self._has_curves = True
            case _ if operator in _PAINTING:
                if self._clips:
                    self.state = self.state.clipped(None if self._has_curves else self._path)
                self._path, self._has_curves, self._clips = [], False, False

    def _read_text(self, operator: str, operands: Sequence[Any]) -> None:
        match operator:
            case "BT":
                self.line = _IDENTITY
            case "Tm" if len(operands) == 6:
                self.line = _matrix(operands)
            case "Td" | "TD" if len(operands) == 2:
                across, up = map(float, operands)
                self.line = multiply((1, 0, 0, 1, across, up), self.line)
                if operator == "TD":
                    self.state = replace(self.state, leading=-up)
            case "T*" | "'" | '"':
                self.line = multiply((1, 0, 0, 1, 0, -self.state.leading), self.line)
            case "TL" if operands:
                self.state = replace(self.state, leading=float(operands[0]))
            case "Tr" if operands:
                self.state = replace(self.state, mode=int(operands[0]))


def named(resources: Any, kind: str, name: Any) -> Any:
    """Return what a name in a content stream stands for; None if it is missing."""
    known = resources.get(kind) if isinstance(resources, Dictionary) else None
    return known.get(str(name)) if isinstance(known, Dictionary) else None


def _matrix(numbers: Iterable[Any]) -> Matrix:
    a, b, c, d, e, f = map(float, numbers)
    return a, b, c, d, e, f


def corners(matrix: Matrix, rectangle: Iterable[Any]) -> list[tuple[float, float]]:
    """Return the corners of a rectangle (left, bottom, width, height), each mapped by `matrix`."""
    left, bottom, width, height = map(float, rectangle)
    return [
        transform(matrix, x, y)
        for x, y in ((left, bottom), (left + width, bottom), (left + width, bottom + height), (left, bottom + height))
    ]
