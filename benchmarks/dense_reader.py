"""The service with an engine whose pages have words. The benchmark's Serve config imports `build`.

The engine `dummy` returns one block without words; a page from a real engine is ten times as large.
"""

# No `from __future__ import annotations` here: Serve looks at build()'s annotation to make Settings.

from collections.abc import Iterator
from itertools import groupby
from typing import Any
from unittest import mock

from ray.serve import Application

from serve_app import app
from serve_app.document import Block, PageResult, Word
from serve_app.errors import ServiceError
from serve_app.recognition.deployment import Recognizer
from serve_app.settings import Settings

MARGIN = 0.07  # of the page's width and height


class DenseRecognizer(Recognizer):
    """Adds words to each block, spread over the page as a real engine would find them."""

    async def recognize(self, *arguments: Any, **named: Any) -> PageResult | ServiceError:
        result = await super().recognize(*arguments, **named)
        if isinstance(result, PageResult):
            for block in result.page.blocks:
                block.words = list(_words(block))
        return result


def build(settings: Settings) -> Application:
    with mock.patch.object(app, "RECOGNIZER", f"{__name__}.{DenseRecognizer.__name__}"):
        return app.build(settings)


def _words(block: Block) -> Iterator[Word]:
    left, top, right, bottom = block.bbox
    lines = block.text.splitlines()
    longest = max(map(len, lines), default=1)
    across = (right - left) * (1 - 2 * MARGIN) / longest
    down = (bottom - top) * (1 - 2 * MARGIN) / max(len(lines), 1)
    for number, line in enumerate(lines):
        above = round(top + (bottom - top) * MARGIN + number * down)
        start = 0
        for is_space, characters in groupby(line, str.isspace):
            text = "".join(characters)
            at = round(left + (right - left) * MARGIN + start * across)
            start += len(text)
            if not is_space:
                box = (at, above, round(at + len(text) * across), round(above + 0.7 * down))
                yield Word(text=text, bbox=box, confidence=0.9)
