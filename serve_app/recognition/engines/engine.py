"""The interface between the recognizer and an OCR engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.document import NativePage, PageContent, PageImage
from serve_app.document.options import RecognitionOptions, Restructuring
from serve_app.document.outline import BlockChange, PageOutline
from serve_app.errors import ServiceError


class EngineLoadError(Exception):
    """An engine cannot start; `str(error)` tells an operator in plain words what to do about it."""


@dataclass(frozen=True)
class PageTask:
    """A page to read, with its options."""

    image: PageImage
    options: RecognitionOptions


@dataclass(frozen=True)
class VlmServerState:
    """A server that an engine works with; `reason` tells why it is away."""

    available: bool
    reason: str | None = None


class Engine(ABC):
    """Reads pages, in two stages: `analyze` takes what waits at once, `read` then one page at a time.

    All methods block. `load`, `analyze` and `close` are called in one and the same thread, and so is
    `read` where `pages_at_once` is 1; else `read` is called in so many threads of their own.
    `version` is known after `load`; `max_batch` is the most pages that `analyze` gains from at once.
    The result depends on a page and its options alone, so a page may be tried again anywhere.
    """

    name: str
    version: str = ""
    max_batch: int = 1
    pages_at_once: int = 1

    @abstractmethod
    def load(self) -> None:
        """Makes the engine ready. Raises EngineLoadError."""

    def analyze(self, tasks: Sequence[PageTask]) -> Sequence[Any | ServiceError]:
        """What `read` needs of each page, or its error, in order. An error of one page does not touch its neighbours."""
        return tasks

    @abstractmethod
    def read(self, analyzed: Any) -> PageContent | ServiceError:
        """One page, from what `analyze` made of it."""

    def restructure(self, pages: Sequence[PageOutline], options: RecognitionOptions) -> list[BlockChange]:
        """What to change on these pages of one document, in order, so that it is of one piece. Called in any thread."""
        return []

    def restructure_pages(self, pages: Sequence[NativePage], options: Restructuring) -> list[NativePage]:
        """Restructure the pages of a document, in order and in this engine's native form. Called in any thread.

        Raises InvalidField for pages that are not in that form.
        """
        raise NotImplementedError

    def abandon(self, analyzed: Any) -> None:
        """Nobody waits for this page any more: its `read` may end early. Called from any thread; must not block."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Frees what `load` and the rest hold. May be called twice, and without a `load`."""

    def unavailable(self) -> ServiceError | None:
        """Why a loaded engine can read nothing just now; asked before each page, so it must not block."""
        return None

    def vlm_server(self) -> VlmServerState | None:
        """The state of the server that it works with, where it does."""
        return None

    def gpu_memory_mb(self) -> float | None:
        """What this process holds of the GPU's memory, in MB, where that can be told."""
        return None
