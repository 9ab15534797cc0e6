"""An engine without a model, for tests and benchmarks of everything around an engine.

It returns the same text for every page, after the time that its settings give.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from serve_app.document import Block, Page, PageContent
from serve_app.document.markdown import page_markdown
from serve_app.errors import ServiceError
from serve_app.recognition.engines.engine import Engine, EngineLoadError, PageTask
from serve_app.settings import DummySettings


class DummyEngine(Engine):
    name = "dummy"

    def __init__(self, settings: DummySettings) -> None:
        self._settings = settings
        self.max_batch = settings.max_batch
        self._leaked: list[bytes] = []

    def load(self) -> None:
        time.sleep(self._settings.load_s)
        if self._settings.load_error is not None:
            raise EngineLoadError(self._settings.load_error)
        self.version = "1"

    def analyze(self, tasks: Sequence[PageTask]) -> Sequence[PageTask | ServiceError]:
        time.sleep(self._settings.batch_s + self._settings.page_s * len(tasks))
        return tasks

    def read(self, task: PageTask) -> PageContent | ServiceError:
        if self._settings.leak_mb:
            self._leaked.append(b"\xff" * int(self._settings.leak_mb * 1e6))
        return PageContent(self._page(task))

    def close(self) -> None:
        pass

    def _page(self, task: PageTask) -> Page:
        height, width = task.image.pixels.shape[:2]
        text = self._settings.text
        blocks = [Block(label="text", text=text, bbox=(0, 0, width, height), order=0, confidence=1.0)] if text else []
        return Page(
            number=task.image.number,
            width=width,
            height=height,
            dpi=task.image.dpi,
            text=text,
            markdown=page_markdown(blocks),
            blocks=blocks,
        )
