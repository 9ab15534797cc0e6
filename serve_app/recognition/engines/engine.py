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
    """An engine cannot be loaded. `str(error)` tells the operator what to do about it."""


@dataclass(frozen=True)
class PageTask:
    """A page to recognize, with its options."""

    image: PageImage
    options: RecognitionOptions


@dataclass(frozen=True)
class VlmServerState:
    """The state of an engine's inference server. `reason` says why it is unavailable."""

    available: bool
    reason: str | None = None


class Engine(ABC):
    """Recognizes pages in two stages: `analyze` takes a batch of pages, `read` takes one page.

    All methods block. `load`, `analyze` and `close` are called in one thread. `read` is called in the same thread if
    `pages_at_once` is 1, else in that many other threads.
    `version` is set by `load`. `max_batch` is the largest batch that makes `analyze` faster per page.
    A result depends only on the page and its options, so a page may be retried on any replica.
    """

    name: str
    version: str = ""
    max_batch: int = 1
    pages_at_once: int = 1

    @abstractmethod
    def load(self) -> None:
        """Load the engine. Raises EngineLoadError, and is called again after that."""

    def analyze(self, tasks: Sequence[PageTask]) -> Sequence[Any | ServiceError]:
        """Return, for each page in order, the input of `read` or an error. One page's error does not affect the others."""
        return tasks

    @abstractmethod
    def read(self, analyzed: Any) -> PageContent | ServiceError:
        """Read one page. `analyzed` is its result from `analyze`. Errors are returned, not raised."""

    def restructure(self, pages: Sequence[PageOutline], options: RecognitionOptions) -> list[BlockChange]:
        """Return the changes that join these pages of one document, given in order. Called in any thread."""
        return []

    def restructure_pages(self, pages: Sequence[NativePage], options: Restructuring) -> list[NativePage]:
        """Restructure the pages of a document, in order and in this engine's native form. Called in any thread.

        Raises InvalidField for pages that are not in that form.
        """
        raise NotImplementedError

    def abandon(self, analyzed: Any) -> None:
        """End `read` of this page early if possible: its caller was cancelled. Called in any thread; must not block."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Free all resources. May be called twice, or before `load`."""

    def unavailable(self) -> ServiceError | None:
        """Return why a loaded engine cannot read pages now, or None. Called before each page; must not block."""
        return None

    def vlm_server(self) -> VlmServerState | None:
        """Return the state of the engine's inference server; None if it uses none."""
        return None

    def share_vlm_server(self, replicas: int) -> None:
        """Take one part in `replicas` of what the engine's inference server accepts at once.

        Called before `load`, and later again and again, as replicas start and stop. Must not block.
        """
        return None

    def gpu_memory_mb(self) -> float | None:
        """Return the GPU memory of this process in MB; None if it is unknown."""
        return None
