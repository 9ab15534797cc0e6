"""A Runner without Ray: a stand-in for the pipeline, a real store in a folder, short pauses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

from serve_app.document import EngineInfo, ErrorInfo, Figure, NativePage, Page, PageContent, PageResult, SourceFile
from serve_app.document.ids import new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.errors import CorruptDocument, ServiceError
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import JobRecord, JobState
from serve_app.jobs.result_writer import ResultWriterFactory
from serve_app.jobs.runner import Runner
from serve_app.pipeline.dispatch import PageOutcome, Pipeline
from serve_app.pipeline.document_run import DocumentRun
from serve_app.pipeline.documents import Documents
from serve_app.pipeline.request import DocumentRequest
from serve_app.pipeline.results import Results
from serve_app.settings import FolderStoreSettings, JobSettings, Limits, Settings
from serve_app.storage import StoreUnavailable
from serve_app.storage.folder import FolderStore
from serve_app.storage.links import Links
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.spool import ResultSpool
from serve_app.storage.spooled_writes import SpooledWrites
from tests.support.caches import no_cache

REQUEST = DocumentRequest(engine="x", options=RecognitionOptions())


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class Pages:
    """Stands for a Pipeline with a document of three pages. `ends` are the outcomes of each page, try by try; None: read."""

    def __init__(self, **ends: Sequence[ServiceError | None]) -> None:
        self._ends = {int(name.removeprefix("page_")): list(tries) for name, tries in ends.items()}
        self.tried: list[int] = []

    def slot(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def count_pages(self, source: SourceFile) -> int:
        if source.data == b"%PDF- damaged":
            raise CorruptDocument
        return 3

    async def pages(self, source: SourceFile, numbers: Sequence[int], **_: Any) -> AsyncIterator[PageOutcome]:
        for number in numbers:
            self.tried.append(number)
            ends = self._ends.get(number, [])
            end = ends.pop(0) if ends else None
            figure = Figure("imgs/img_in_image_box_1_2_3_4.jpg", b"jpeg")
            picture = Figure(f"pages/page-{number}.jpg", b"picture")  # stored beside the pages too
            page = Page(
                number=number, width=9, height=9, dpi=72, text=f"страница {number}", markdown=f"![]({figure.path})"
            )
            block = {"block_label": "text", "block_content": page.text, "block_bbox": [0, 0, 9, 9], "block_id": 0}
            native = NativePage({"width": 9, "height": 9, "parsing_res_list": [block]}, page.text, ((page.text, None),))
            result = PageResult(PageContent(page, (figure, picture), native), EngineInfo(name="x", version="1"))
            yield PageOutcome(number, result if end is None else end)


class FlakyStore(FolderStore):
    """A folder to which the next `fails` pages cannot be written. The pages `unlisted` are listed only after a while, as by Swift."""

    fails = 0
    unlisted: tuple[int, ...] = ()

    async def keys_below(self, folder: str) -> list[str]:
        unlisted = tuple(f"/page-results/{number:06d}.json" for number in self.unlisted)
        return [key for key in await super().keys_below(folder) if not key.endswith(unlisted)]

    def _put(self, key: str, data: Any, content_type: str) -> None:
        if "/page-results/" in key and self.fails > 0:
            self.fails -= 1
            raise StoreUnavailable("away")
        super()._put(key, data, content_type)


class LinesWriter:
    """A dialect's writer: the text of each page on a line."""

    file_name = "result.lines"
    media_type = "text/plain"

    async def write(self, payload: Mapping[str, Any], run: DocumentRun, file: BinaryIO) -> None:
        for page in run.spool.pages():
            file.write(f"{payload['mark']}{page.text}\n".encode())


class Bench:
    """A runner over a folder. `changes` are the states, done and failed pages that it has announced."""

    def __init__(
        self,
        folder: Path,
        pages: Pages,
        writers: Mapping[str, ResultWriterFactory] | None = None,
        spool: ResultSpool | None = None,
        **limits: float,
    ) -> None:
        self.store = FlakyStore(FolderStoreSettings(path=str(folder)))
        monitor = StoreMonitor(self.store)
        self.job_store = JobStore(self.store, no_cache(), SpooledWrites(self.store, monitor, spool))
        self.settings = Settings(jobs=JobSettings(**cast(Any, limits)))
        self.changes: list[tuple[JobState, int, int]] = []
        self.finished: dict[int, ErrorInfo | None] = {}
        self.then: Callable[[], None] = lambda: None
        documents = Documents(
            cast(Pipeline, pages),
            Results(self.store, monitor, keep_source=False),
            no_cache(),
            limits=Limits(),
            share=lambda data: bytes(data),
            fetch=self._fetch,
        )
        links = Links(self.store, self.settings)
        made = {name: make(self.settings, documents, links) for name, make in (writers or {}).items()}
        self.runner = Runner(
            documents,
            self.job_store,
            {"lines": LinesWriter(), **made},
            self._download,
            self.settings.jobs,
            self._note,
            first_pause_s=0.01,
            longest_pause_s=0.02,
        )

    async def _fetch(self, data: bytes) -> bytes:
        return data

    async def _download(self, url: str) -> bytes:
        return b"%PDF- from " + url.encode()

    def _note(self, record: JobRecord, pages: Mapping[int, ErrorInfo | None]) -> None:
        self.changes.append((record.state, record.done, record.failed))
        self.finished.update(pages)
        self.then()

    async def run(self, source: bytes | None = b"%PDF-", **record: Any) -> JobRecord:
        job = JobRecord(id=new_document_id(), owner="me", **{"request": REQUEST, **record})
        await self.job_store.add(job, source)
        assert await self.job_store.active_ids() == [job.id]
        await self.runner.run(job)
        return await self.job_store.record(job.id)
