"""What the recognizer asks of an OCR engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.document import Page, PageImage, RecognitionOptions
from serve_app.errors import ServiceError


class EngineLoadError(Exception):
    """An engine cannot start; `str(error)` tells an operator in plain words what to do about it."""


@dataclass(frozen=True)
class PageTask:
    """A page to read, and how."""

    image: PageImage
    options: RecognitionOptions


class Engine(ABC):
    """Reads pages. `load`, `recognize` and `close` block, and are all called in one and the same thread.

    `version` is known after `load`; `max_batch` is the most pages that `recognize` gains from at once.
    """

    name: str
    version: str = ""
    max_batch: int = 1

    @abstractmethod
    def load(self) -> None:
        """Makes the engine ready. Raises EngineLoadError."""

    @abstractmethod
    def recognize(self, tasks: Sequence[PageTask]) -> list[Page | ServiceError]:
        """Exactly one page or error for each task, in order. An error of one page does not touch its neighbours.

        The result depends on the page and its options alone, so a page may be tried again anywhere.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees what `load` and `recognize` hold. May be called twice, and without a `load`."""
