"""PageReader: one page from its file to its content, in three steps.

`read` decides where the content comes from: the PDF's text layer, the cache, or an engine. `_recognize` lets the fallback
engine stand in. `_call_engine` makes the calls and repeats them: recognition is a pure function of a page and its options, so
a page that dies with its replica is simply sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.document import PagePart, PageResult, SourceFile
from serve_app.document.options import RecognitionOptions
from serve_app.document.warnings import WarningCode, warning
from serve_app.errors import (
    ENGINE_UNAVAILABLE,
    EngineFailed,
    EngineLoading,
    QueueFull,
    RecognitionFailed,
    ServiceError,
)
from serve_app.pipeline.page_cache import CachedPages
from serve_app.pipeline.page_count import count_page
from serve_app.pipeline.picture_text import with_pictures
from serve_app.pipeline.replica_calls import NoReplica, RetryPolicy, are_pixels_lost, wait_for_replica
from serve_app.runtime.death_count import DeathCount
from serve_app.scheduling.admission import BUSY_RETRY_AFTER_S

log = logging.getLogger("ray.serve.pipeline")

DEADLY_PAGES = 2
"""Number of pages of one document that may kill a replica with every attempt. Then its other pages are not tried."""


@dataclass(frozen=True)
class DocumentContext:
    """Everything that the pages of a document share. `text_layer`: use the text that a PDF contains."""

    source: SourceFile
    engine: str
    options: RecognitionOptions
    dpi: int | None
    text_layer: bool
    cached: CachedPages | None


class PageReader:
    """Reads pages with a rasterizer and the recognizers of all engines."""

    def __init__(
        self,
        rasterizer: DeploymentHandle[Any],
        recognizers: Mapping[str, DeploymentHandle[Any]],
        *,
        is_ready: Callable[[str], bool],
        has_replicas: Callable[[str], bool],
        behind: Callable[[str], float],
        fallbacks: Mapping[str, str],
        engine_wait_s: Mapping[str, float],
        retry: RetryPolicy,
    ) -> None:
        """`behind`: the pages that wait for an engine, for each of its pages in flight. Other arguments as in Pipeline."""
        self._rasterizer = rasterizer
        self._recognizers = recognizers
        self._is_ready = is_ready
        self._has_replicas = has_replicas
        self._behind = behind
        self._fallbacks = fallbacks
        self._engine_wait_s = engine_wait_s
        self._retry = retry
        self._deadly_pages = DeathCount(DEADLY_PAGES)

    async def read(self, document: DocumentContext, number: int) -> PageResult | ServiceError:
        """Read page `number` (from 1): its text layer if wanted, or from the cache, or with the engine.

        Errors are returned: an error of one page does not affect the others.
        """
        result = await self._read(document, number)
        count_page(result, engine=document.engine, owner=document.source.owner)
        return result

    async def _read(self, document: DocumentContext, number: int) -> PageResult | ServiceError:
        try:
            layer = await self._read_text(document, number) if document.text_layer else None
            if layer is not None:
                return await self._add_pictures(document, number, layer) if layer.unread_pictures else layer
            cached = None if document.cached is None else await document.cached.get(number)
            if cached is not None:
                return cached
            result = await self._recognize(document, number)
            if document.cached is not None and isinstance(result, PageResult):
                await document.cached.put(number, result)
            return result
        except Exception:
            log.exception("page %d of a document failed", number)
            return RecognitionFailed()

    def forget(self, document: DocumentContext) -> None:
        """Forget the failed attempts of this document. Call it when none of its pages is being read."""
        self._deadly_pages.forget(document.source.id)

    async def _add_pictures(self, document: DocumentContext, number: int, layer: PageResult) -> PageResult:
        """Recognize the pictures of a page with a text layer, and add their text."""
        words = tuple(word.bbox for block in layer.page.blocks for word in block.words)
        part = PagePart(inside=layer.unread_pictures, outside=words)
        return with_pictures(layer, await self._recognize(document, number, part))

    async def _recognize(
        self, document: DocumentContext, number: int, part: PagePart | None = None
    ) -> PageResult | ServiceError:
        """Recognize a page, or a `part` of it, with the requested engine, then with its fallback if there is one."""
        result = await self._call_engine(document, number, document.engine, part)
        fallback = self._fallbacks.get(document.engine)
        # A page on which one engine fails may be easy for another. If the page itself is bad, it is so for both.
        if fallback is None or not isinstance(result, (*ENGINE_UNAVAILABLE, RecognitionFailed)):
            return result
        return _from_fallback(await self._call_engine(document, number, fallback, part), result)

    async def _call_engine(
        self, document: DocumentContext, number: int, engine: str, part: PagePart | None
    ) -> PageResult | ServiceError:
        """Rasterize a page and recognize it with `engine`. Calls whose replica dies are retried."""
        source, retry = document.source, self._retry
        pixels: Any = None
        for attempt in range(1, retry.attempts + 1):
            if self._deadly_pages.is_given_up(source.id):
                return RecognitionFailed(
                    "Not tried: other pages of this document have ended every replica that tried them."
                )
            if pixels is None:
                pixels = self._rasterizer.rasterize.remote(
                    *source.as_arguments(), number, document.dpi, part, owner=source.owner
                )
            try:
                result = await wait_for_replica(
                    self._recognizers[engine].recognize.remote(
                        # The pages wait for the document's engine, also where this is the fallback: it reads them then.
                        pixels,
                        document.options,
                        source.id,
                        source.owner,
                        behind=self._behind(document.engine),
                    ),
                    has_replicas=partial(self._has_replicas, engine),
                    wait_s=self._engine_wait_s[engine],
                    poll_s=retry.poll_s,
                )
                if not isinstance(result, EngineFailed) or attempt == retry.attempts or not self._is_ready(engine):
                    return result
                reason = "a replica cannot load its engine"  # another one could
            except asyncio.CancelledError:
                pixels.cancel()  # or they would be decoded for nobody; it does nothing to a call that has ended
                raise
            except NoReplica:
                pixels.cancel()
                return EngineLoading(retry_after_s=BUSY_RETRY_AFTER_S)
            except BackPressureError:  # if a Serve config sets max_queued_requests
                return QueueFull(retry_after_s=BUSY_RETRY_AFTER_S)
            except DeploymentUnavailableError:
                log.error("the deployment of engine %s has failed; `serve status` tells why", engine)
                return EngineFailed(retry_after_s=BUSY_RETRY_AFTER_S)
            except RayActorError:
                reason = "its recognizer died"  # the pixels are still there
            except (RayTaskError, RayServeException, ObjectLostError) as error:
                if not are_pixels_lost(error):
                    raise
                reason = "its pixels were lost when a rasterizer or a node died"
                pixels = None
            log.warning("page %d: %s (attempt %d of %d)", number, reason, attempt, retry.attempts)
            await retry.pause(attempt)
        self._deadly_pages.add(source.id)
        return RecognitionFailed("The page could not be recognized: every replica that tried it died.")

    async def _read_text(self, document: DocumentContext, number: int) -> PageResult | None:
        """Return the page's text layer; None if it has none, or if reading it fails: the page can still be recognized."""
        source = document.source
        response: Any = self._rasterizer.read_text.remote(
            *source.as_arguments(), number, document.dpi, owner=source.owner
        )
        try:
            page = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (RayError, RayServeException) as error:
            log.warning("the text layer of page %d could not be read: %s", number, type(error).__name__)
            return None
        return page if isinstance(page, PageResult) else None


def _from_fallback(result: PageResult | ServiceError, error: ServiceError) -> PageResult | ServiceError:
    """Return the fallback's result, marked with the `error` of the requested engine."""
    if isinstance(result, ServiceError):
        # If neither engine is available, the client waits for the one that it requested.
        return error if isinstance(result, ENGINE_UNAVAILABLE) else result
    result.page.degraded = True
    # First, as it is what counts in the metrics.
    result.page.warnings.insert(
        0, warning(WarningCode.FALLBACK_ENGINE, f"Read by the fallback engine: {error.message}")
    )
    return result
