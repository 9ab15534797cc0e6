"""The benchmark's recognizer is called as the service calls its own, and its pages have words."""

from __future__ import annotations

import numpy as np

from benchmarks.dense_reader import DenseRecognizer
from serve_app.document import PageImage, PageResult
from serve_app.document.options import RecognitionOptions
from serve_app.errors import CorruptDocument
from serve_app.settings import DummySettings, Limits
from tests.support.recognizer import LocalRecognizer, initialized

IMAGE = PageImage(np.full((200, 100, 3), 255, dtype=np.uint8), number=1, dpi=200, rasterize_ms=1.5)


class LocalDenseRecognizer(LocalRecognizer, DenseRecognizer):
    """Outside Serve."""


async def test_the_words_of_a_block_are_within_it_and_errors_are_passed_on() -> None:
    made = await initialized(LocalDenseRecognizer, DummySettings(text="Съешь ещё\nбулок"), Limits())
    try:
        result = await made.recognize(IMAGE, RecognitionOptions(), "document", "owner", behind=2.0)
        assert isinstance(result, PageResult)
        (block,) = result.page.blocks
        assert [word.text for word in block.words] == ["Съешь", "ещё", "булок"]
        left, top, right, bottom = block.bbox
        for x0, y0, x1, y1 in (word.bbox for word in block.words):
            assert left < x0 < x1 < right and top < y0 < y1 < bottom
        error = await made.recognize(CorruptDocument(), RecognitionOptions(), "document")
        assert isinstance(error, CorruptDocument)
    finally:
        await made.close()
