"""The one way from a document's bytes to its recognized pages; every surface goes through here.

Pixels go from a rasterizer to a recognizer without passing through the caller. Recognition is a pure
function of a page and its options, so a page that dies with its replica is simply sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.admission import BUSY_RETRY_AFTER_S, Admission
from serve_app.document import PageResult, RecognitionOptions
from serve_app.errors import EngineFailed, QueueFull, RecognitionFailed, ServiceError

log = logging.getLogger("ray.serve.pipeline")

# A page that has taken this many replicas down with it is not given another.
ATTEMPTS = 4
RETRY_PAUSE_S = 0.2


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
    ) -> None:
        """`is_ready` tells of an engine whether a replica of it is known to work."""
        self._rasterizer = rasterizer
        self._recognizers = recognizers
        self._admission = Admission(queue)
        self._is_ready = is_ready

    async def pages(
        self, source: bytes, *, engine: str, options: RecognitionOptions, dpi_hint: int | None
    ) -> AsyncIterator[PageOutcome]:
        """Yield each page of the document as it is done, in whatever order. An image has one page.

        Raises ServiceError where the document as a whole cannot be worked on.
        """
        with self._admission.place():
            result = await self._page(source, engine, options, dpi_hint)
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
                result: PageResult | ServiceError = await recognizer.recognize.remote(image, options)
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


def _pixels_lost(error: RayTaskError | RayServeException | ObjectLostError) -> bool:
    """Whether a call failed because its argument, the rasterizer's answer, died with its process.

    Ray says so in the task's cause where the recognizer noticed, Serve in its own where the router did.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error.__cause__
    return isinstance(error, ObjectLostError) or isinstance(cause, RayActorError | ObjectLostError)
