"""The one way from a document's bytes to its recognized pages; every surface goes through here.

Pixels go from a rasterizer to a recognizer without passing through the caller. Recognition is a pure
function of a page and its options, so a page that dies with its replica is simply sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_app.document import PageResult, RecognitionOptions
from serve_app.errors import EngineFailed, QueueFull, RecognitionFailed, ServiceError

log = logging.getLogger("ray.serve.pipeline")

# A page that has taken this many replicas down with it is not given another.
ATTEMPTS = 4
RETRY_PAUSE_S = 0.2
BUSY_RETRY_AFTER_S = 5


class Pipeline:
    """Sends pages to the rasterizer and on to the recognizer of the engine that was asked for."""

    def __init__(self, rasterizer: DeploymentHandle, recognizers: Mapping[str, DeploymentHandle]) -> None:
        self._rasterizer = rasterizer
        self._recognizers = recognizers

    async def pages(
        self, source: bytes, *, engine: str, options: RecognitionOptions, dpi_hint: int | None
    ) -> AsyncIterator[PageResult | ServiceError]:
        """Yield each page of the document as it is done. An image has one page.

        Raises ServiceError where the document as a whole cannot be worked on.
        """
        yield await self._page(source, engine, options, dpi_hint)

    async def _page(
        self, source: bytes, engine: str, options: RecognitionOptions, dpi_hint: int | None
    ) -> PageResult | ServiceError:
        recognizer = self._recognizers[engine]
        image = None
        for attempt in range(ATTEMPTS):
            # The first retry keeps the pixels; later ones make them anew, in case the rasterizer or
            # the node that held them is what died.
            if image is None or attempt > 1:
                image = self._rasterizer.rasterize.remote(source, dpi_hint)
            try:
                result: PageResult | ServiceError = await recognizer.recognize.remote(image, options)
                return result
            except BackPressureError:
                return QueueFull(retry_after_s=BUSY_RETRY_AFTER_S)
            except DeploymentUnavailableError:
                log.error("the deployment of engine %s has failed; `serve status` tells why", engine)
                return EngineFailed(retry_after_s=BUSY_RETRY_AFTER_S)
            except (RayActorError, ObjectLostError) as error:
                log.warning("a page lost its replica (%s), try %d of %d", type(error).__name__, attempt + 1, ATTEMPTS)
                await asyncio.sleep(RETRY_PAUSE_S * (attempt + 1))
        return RecognitionFailed("The page could not be recognized: every replica that tried it died.")
