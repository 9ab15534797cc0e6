"""The one way from a document's bytes to its recognized pages; every surface goes through here.

Pixels go from a rasterizer to a recognizer without passing through the caller. Recognition is a pure
function of a page and its options, so a page that dies with its replica is simply sent again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.admission import BUSY_RETRY_AFTER_S, Admission
from serve_app.document import ErrorInfo, PageResult
from serve_app.errors import ENGINE_UNAVAILABLE, EngineFailed, EngineLoading, QueueFull, RecognitionFailed, ServiceError
from serve_app.options import RecognitionOptions

log = logging.getLogger("ray.serve.pipeline")

# A page that has taken this many replicas down with it is not given another.
ATTEMPTS = 4
RETRY_PAUSE_S = 0.2
# How often a page that waits looks whether there still is somebody to wait for.
LOOK_S = 1.0


@dataclass(frozen=True)
class PageOutcome:
    """What became of one page; `number` counts from 1."""

    number: int
    result: PageResult | ServiceError


class Pipeline:
    """Sends pages to the rasterizer and on to the recognizer of the engine that was asked for.

    At most `queue` pages of one pipeline wait or are worked on; more are refused with QueueFull.
    """

    def __init__(
        self,
        rasterizer: DeploymentHandle[Any],
        recognizers: Mapping[str, DeploymentHandle[Any]],
        *,
        queue: int,
        is_ready: Callable[[str], bool],
        has_replicas: Callable[[str], bool],
        fallbacks: Mapping[str, str],
        engine_wait_s: float,
    ) -> None:
        """`is_ready` tells of an engine whether a replica of it is known to work, `has_replicas` whether there is one.

        `fallbacks`: the engine that stands in for another one. `engine_wait_s`: how long a page waits for a replica.
        """
        self._rasterizer = rasterizer
        self._recognizers = recognizers
        self._admission = Admission(queue)
        self._is_ready = is_ready
        self._has_replicas = has_replicas
        self._fallbacks = fallbacks
        self._engine_wait_s = engine_wait_s

    async def pages(
        self, source: bytes, *, engine: str, options: RecognitionOptions, dpi_hint: int | None
    ) -> AsyncIterator[PageOutcome]:
        """Yield each page of the document as it is done, in whatever order. An image has one page.

        Raises ServiceError where the document as a whole cannot be worked on.
        """
        with self._admission.place():
            result = await self._page(source, engine, options, dpi_hint)
            fallback = self._fallbacks.get(engine)
            # A page that one engine failed on may be easy for another; what is wrong with it is wrong for both.
            if isinstance(result, (*ENGINE_UNAVAILABLE, RecognitionFailed)) and fallback is not None:
                result = _stood_in(await self._page(source, fallback, options, dpi_hint), result)
        yield PageOutcome(number=1, result=result)

    async def _page(
        self, source: bytes, engine: str, options: RecognitionOptions, dpi_hint: int | None
    ) -> PageResult | ServiceError:
        recognizer = self._recognizers[engine]
        image = None
        for attempt in range(1, ATTEMPTS + 1):
            if image is None:
                image = self._rasterizer.rasterize.remote(source, dpi_hint)
            try:
                result = await self._answer(recognizer.recognize.remote(image, options), engine)
                if not isinstance(result, EngineFailed) or attempt == ATTEMPTS or not self._is_ready(engine):
                    return result
                # This replica cannot load its engine, but another one could.
                lost = "a try to a replica without an engine"
            except BackPressureError:  # where a Serve config sets max_queued_requests
                return QueueFull(retry_after_s=BUSY_RETRY_AFTER_S)
            except DeploymentUnavailableError:
                log.error("the deployment of engine %s has failed; `serve status` tells why", engine)
                return EngineFailed(retry_after_s=BUSY_RETRY_AFTER_S)
            except RayActorError:
                lost = "its recognizer"  # the pixels are still there
            except (RayTaskError, RayServeException, ObjectLostError) as error:
                if not _pixels_lost(error):
                    raise
                lost = "its pixels, with a rasterizer or a node"
                image = None
            log.warning("a page lost %s (try %d of %d)", lost, attempt, ATTEMPTS)
            await asyncio.sleep(RETRY_PAUSE_S * attempt)
        return RecognitionFailed("The page could not be recognized: every replica that tried it died.")

    async def _answer(self, response: Any, engine: str) -> PageResult | ServiceError:
        """The recognizer's answer, which Serve would wait for without end where there is no replica."""
        waiting = asyncio.ensure_future(_awaited(response))
        wait_s = 0 if engine in self._fallbacks else self._engine_wait_s
        missing_since = None
        try:
            while not (await asyncio.wait({waiting}, timeout=LOOK_S))[0]:
                now = time.monotonic()
                missing_since = None if self._has_replicas(engine) else missing_since or now
                if missing_since is not None and now - missing_since >= wait_s:
                    return EngineLoading(retry_after_s=BUSY_RETRY_AFTER_S)
            return waiting.result()
        finally:
            if not waiting.done():
                waiting.cancel()
                response.cancel()  # Serve would go on with it


async def _awaited(response: Awaitable[PageResult | ServiceError]) -> PageResult | ServiceError:
    return await response


def _stood_in(result: PageResult | ServiceError, unavailable: ServiceError) -> PageResult | ServiceError:
    """What the fallback engine made of a page, with the reason why it was asked."""
    if isinstance(result, ServiceError):
        # Where the fallback cannot either, the engine that was asked for is what the client waits for.
        return unavailable if isinstance(result, ENGINE_UNAVAILABLE) else result
    result.page.degraded = True
    result.page.warnings.append(
        ErrorInfo(code="fallback_engine", message=f"Read by the fallback engine: {unavailable.message}")
    )
    return result


def _pixels_lost(error: RayTaskError | RayServeException | ObjectLostError) -> bool:
    """Whether a call failed because its argument, the rasterizer's answer, died with its process.

    Ray says so in the task's cause where the recognizer noticed, Serve in its own where the router did.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error.__cause__
    return isinstance(error, ObjectLostError) or isinstance(cause, RayActorError | ObjectLostError)
