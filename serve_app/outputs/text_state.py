"""The state of a PDF's text: font, size, spacing; see ISO 32000-2, 9.3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pikepdf import Array, String

from serve_app.outputs.font_widths import FontWidths

_NUMBERS = {"Tc": "character_space", "Tw": "word_space", "TL": "leading", "Ts": "rise"}

_MAX_STEPS, _STEP = 8, 4
"""A text is looked at in two rows of points, at most so many steps from its start to its end, each of about so many sizes."""


@dataclass(frozen=True)
class TextState:
    """The state of text, in units of text space. `font` is the font's dictionary; `stretch` is a factor."""

    font: Any = None
    size: float = 0
    character_space: float = 0
    word_space: float = 0
    stretch: float = 1
    leading: float = 0
    rise: float = 0
    mode: int = 0

    def changed(self, operator: str, operands: Sequence[Any]) -> TextState:
        """Return the state after an operator that takes numbers."""
        match operator:
            case "Tc" | "Tw" | "TL" | "Ts" if operands:
                changes: dict[str, Any] = {_NUMBERS[operator]: float(operands[0])}
                return replace(self, **changes)
            case '"' if len(operands) == 3:
                return replace(self, word_space=float(operands[0]), character_space=float(operands[1]))
            case "Tz" if operands:
                return replace(self, stretch=float(operands[0]) / 100)
            case "TD" if len(operands) == 2:
                return replace(self, leading=-float(operands[1]))
            case "Tr" if operands:
                return replace(self, mode=int(operands[0]))
        return self

    def extent(self, shown: Any, widths: FontWidths) -> tuple[float, float, float]:
        """Return where text begins, where it ends, and how far it moves on, along its line from where it is written.

        `shown` is what Tj or TJ shows: a string, or an array of strings and of moves between them. Raises TypeError.
        """
        place, edges = 0.0, [math.inf, -math.inf]
        stretch = 1.0 if widths.vertical else self.stretch
        for part in shown if isinstance(shown, Array) else [shown]:
            if not isinstance(part, String):
                place -= float(part) / 1000 * self.size * stretch
                continue
            text = bytes(part)
            length, characters = widths.measure(text)
            spaces = 0 if widths.two_bytes else text.count(b" ")
            start = place
            place += (length * self.size + characters * self.character_space + spaces * self.word_space) * stretch
            edges = [min(edges[0], start, place), max(edges[1], start, place)]
        begin, end = edges if edges[0] <= edges[1] else (0.0, 0.0)
        return begin, end, place

    def points(self, begin: float, end: float, *, vertical: bool) -> list[tuple[float, float]]:
        """Return points all over a text that goes from `begin` to `end` along its line."""
        size = abs(self.size)
        steps = min(max(math.ceil((end - begin) / (_STEP * size)) if size else 1, 1), _MAX_STEPS)
        along = [begin + (end - begin) * step / steps for step in range(steps + 1)]
        if vertical:
            return [(x, -y) for x in (-self.size / 4, self.size / 4) for y in along]
        return [(x, self.rise + y) for y in (0, self.size / 2) for x in along]
