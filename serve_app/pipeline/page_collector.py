"""PageCollector: the pages of a document while it is read, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from serve_app.document import EngineInfo, ErrorInfo, Page, PageContent, PageResult
from serve_app.document.figures import qualify_figures
from serve_app.document.outline import PageOutline, outline_of
from serve_app.document.spool import PageSpool
from serve_app.errors import ServiceError
from serve_app.pipeline.dispatch import PageOutcome
from serve_app.pipeline.request import DocumentRequest
from serve_app.pipeline.timings import Timings


class PageCollector:
    """Takes each page once: when it is read, when it is restored from an earlier run, or when it has failed."""

    def __init__(self, request: DocumentRequest, numbers: Sequence[int], timings: Timings, *, qualify: bool) -> None:
        """`numbers` are those of the pages to read. `qualify`: figures need paths that are unique in the document."""
        self.spool = PageSpool()
        self.numbers = numbers
        self.degraded = False
        self._request = request
        self._timings = timings
        self._qualify = qualify
        self._engine: EngineInfo | None = None
        self._failed: set[int] = set()
        self._warned: dict[str, set[int]] = {}
        self._outlines: dict[int, PageOutline] = {}

    @property
    def missing(self) -> list[int]:
        """Numbers of the pages to read that have neither content nor an error yet."""
        return [number for number in self.numbers if number not in self.spool]

    @property
    def has_read(self) -> bool:
        """Whether any page was read."""
        return self._engine is not None

    @property
    def engine(self) -> EngineInfo:
        """The engine that read the document. Only if `has_read`."""
        assert self._engine is not None, "a page was read"
        return self._engine

    @property
    def failed(self) -> int:
        """Number of pages with an error."""
        return len(self._failed)

    @property
    def warnings(self) -> dict[str, list[int]]:
        """The numbers of the pages with warnings, by the warnings' codes."""
        return {code: sorted(self._warned[code]) for code in sorted(self._warned)}

    @property
    def outlines(self) -> list[PageOutline]:
        """The outlines that document structure depends on, by page number."""
        return [self._outlines[number] for number in sorted(self._outlines)]

    def add(self, outcome: PageOutcome) -> PageContent:
        """Take a page from the pipeline; return its content as the spool has it."""
        if isinstance(outcome.result, ServiceError):
            error = ErrorInfo(code=outcome.result.code, message=outcome.result.message)
            return self.add_failed(Page(number=outcome.number, width=0, height=0, dpi=0, error=error))
        return self._add_result(outcome.number, outcome.result)

    def restore(self, content: PageContent, engine: EngineInfo) -> None:
        """Take a page that `add` returned in an earlier run, and the engine that read it."""
        self._note_engine(content.page, engine)
        self._add_content(content)

    def add_failed(self, page: Page) -> PageContent:
        """Take a page that has an error."""
        content = PageContent(page)
        self._failed.add(page.number)
        self.spool.add(content)
        return content

    def retract(self, numbers: Iterable[int]) -> None:
        """Drop the errors of these failed pages, so that the pages are missing again."""
        for number in numbers:
            self._failed.remove(number)
            self.spool.remove(number)

    def _add_result(self, number: int, result: PageResult) -> PageContent:
        content = qualify_figures(result.content, number) if self._qualify else result.content
        if not self._request.keep_native:
            content = replace(content, native=None)
        content.page.number = number
        self._timings.add(result.timings_ms)
        self._note_engine(content.page, result.engine)
        self._add_content(content)
        return content

    def _note_engine(self, page: Page, engine: EngineInfo) -> None:
        """Remember the last engine that recognized a page, or the text layer's reader if no page was recognized."""
        if self._engine is None or page.text_source == "recognition":
            self._engine = engine

    def _add_content(self, content: PageContent) -> None:
        self.degraded |= content.page.degraded
        for warning in content.page.warnings:
            self._warned.setdefault(warning.code, set()).add(content.page.number)
        self.spool.add(content)
        if self._request.restructure and (outline := outline_of(content.page)) is not None:
            self._outlines[content.page.number] = outline
