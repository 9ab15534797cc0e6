"""Stores the result of a document: JSON, Markdown, figures and, if configured, the source file."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from functools import partial

from serve_app.document import DocumentSummary, StorageInfo
from serve_app.document.ids import document_folder
from serve_app.document.spool import PageSpool
from serve_app.metrics.catalogue import DOCUMENT_STAGE_SECONDS
from serve_app.outputs.formats import MEDIA_TYPES, OutputFormat
from serve_app.outputs.rendering import Renderer
from serve_app.runtime import tracing
from serve_app.runtime.mapped_file import unnamed_file
from serve_app.runtime.temp_dir import is_no_room, no_room
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.spooled_writes import Put, SpooledWrites
from serve_app.storage.store import Store, StoreUnavailable

log = logging.getLogger("ray.serve.ingress")

FIGURES_AT_ONCE = 8
"""Concurrent uploads of one document's figures."""


class Results:
    """Stores results, each in the folder of its document."""

    def __init__(
        self, store: Store, monitor: StoreMonitor, *, keep_source: bool, writes: SpooledWrites | None = None
    ) -> None:
        """`writes`: by default, nothing waits in a spool."""
        self._store = store
        self._monitor = monitor
        self._keep_source = keep_source
        self._writes = writes or SpooledWrites(store, monitor, None)

    async def save(
        self,
        summary: DocumentSummary,
        spool: PageSpool,
        renderer: Renderer,
        source: Callable[[], Awaitable[bytes | memoryview]],
    ) -> None:
        """Store a document, or put it into the spool. Set `summary.storage` and `summary.timings_ms["store"]`.

        A failure is logged, not raised: the client can still get its response.
        """

        async def write_all(keys: dict[str, str], put: Put) -> None:
            await self._put_result(put, keys, summary, renderer, source)
            await self._put_figures(put, keys, spool)

        async def write(keys: dict[str, str]) -> bool:
            return await self._writes.write(summary.id, partial(write_all, keys))

        await self._attempt(summary, spool, write)

    async def save_job(
        self,
        summary: DocumentSummary,
        spool: PageSpool,
        renderer: Renderer,
        source: Callable[[], Awaitable[bytes | memoryview]],
    ) -> None:
        """Store the document of a job, like `save`, but not in the spool. Its figures have been stored with its pages.

        Raises StoreUnavailable, and ServiceUnavailable if the disk is full.
        """

        async def write(keys: dict[str, str]) -> bool:
            await self._put_result(self._store.put, keys, summary, renderer, source)
            return True

        failure = await self._attempt(summary, spool, write)
        if failure is not None:
            raise no_room() if is_no_room(failure) else failure

    async def _attempt(
        self, summary: DocumentSummary, spool: PageSpool, write: Callable[[dict[str, str]], Awaitable[bool]]
    ) -> Exception | None:
        """Call `write` with the keys of the document, and update `summary`. Log a failure and return it.

        `write` returns whether the document is in the store now, and not in the spool.
        """
        started = time.perf_counter()
        failure: Exception | None = None
        try:
            keys = self._keys(summary.id, spool)
            # Set before the result is written, which contains it.
            summary.storage = self._location(summary.id, keys)
            with tracing.stage("store", document=summary.id):
                is_stored = await write(keys)
            if is_stored:
                self._monitor.report(None)
            else:
                summary.storage.status = "spooled"
        except Exception as error:
            failure = error
            summary.storage = StorageInfo(status="failed")
            unexpected = None if isinstance(error, StoreUnavailable) or is_no_room(error) else error
            log.error("document %s could not be stored: %s", summary.id, error, exc_info=unexpected)
            if isinstance(error, StoreUnavailable):
                self._monitor.report(error)
        took_s = time.perf_counter() - started
        summary.timings_ms["store"] = round(took_s * 1000, 1)
        DOCUMENT_STAGE_SECONDS.observe(took_s, stage="store")
        return failure

    def _keys(self, document_id: str, spool: PageSpool) -> dict[str, str]:
        folder = document_folder(document_id)
        keys = {"result": f"{folder}/result.json", "markdown": f"{folder}/result.md"}
        # Beside the Markdown, at the paths of its links.
        keys.update({path: f"{folder}/{path}" for path in spool.figure_paths})
        if self._keep_source:
            keys["source"] = f"{folder}/source"
        return keys

    def _location(self, document_id: str, keys: dict[str, str]) -> StorageInfo:
        return StorageInfo(
            status="stored",
            uri=self._store.uri(document_folder(document_id)),
            keys={name: self._store.full_key(key) for name, key in keys.items()},
        )

    async def _put_result(
        self,
        put: Put,
        keys: dict[str, str],
        summary: DocumentSummary,
        renderer: Renderer,
        fetch_source: Callable[[], Awaitable[bytes | memoryview]],
    ) -> None:
        source = await fetch_source() if self._keep_source else None
        with ExitStack() as files:
            writes = []
            for name, output in (("result", OutputFormat.JSON), ("markdown", OutputFormat.MARKDOWN)):
                file = files.enter_context(await renderer.render(output, summary)).file
                writes.append(put(keys[name], file, MEDIA_TYPES[output]))
            if source is not None:
                file = files.enter_context(await asyncio.to_thread(unnamed_file, source))
                writes.append(put(keys["source"], file, "application/octet-stream"))
            await _write_all(writes)

    async def _put_figures(self, put: Put, keys: dict[str, str], spool: PageSpool) -> None:
        paths = spool.figure_paths
        for start in range(0, len(paths), FIGURES_AT_ONCE):
            batch = {path: spool.figure(path) or b"" for path in paths[start : start + FIGURES_AT_ONCE]}
            await _write_all([put(keys[path], jpeg, "image/jpeg") for path, jpeg in batch.items()])


async def _write_all(writes: Iterable[Awaitable[None]]) -> None:
    """Wait for all writes, then raise the first failure: no file is closed while another write uses it."""
    for failure in await asyncio.gather(*writes, return_exceptions=True):
        if failure is not None:
            raise failure
