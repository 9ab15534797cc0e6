"""The service with an engine that costs nothing, and a clock at each stage of a page. The benchmark's Serve config imports `build`.

Each stage appends a line to a file: the document, the stage, and the time on a clock that all processes share.
"""

# No `from __future__ import annotations` here: Serve looks at build()'s annotation to make Settings.

import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

from ray.serve import Application

from serve_app import app
from serve_app.ingress.deployment import Ingress
from serve_app.pipeline.document_run import DocumentRun
from serve_app.raster.deployment import Rasterizer
from serve_app.recognition.deployment import Recognizer
from serve_app.settings import Settings

STAMPS = "BENCHMARK_STAMPS"
"""Environment variable with the path of the file."""


def stamp(document: str, **times: float) -> None:
    line = json.dumps({"document": document, **times}) + "\n"
    descriptor = os.open(os.environ[STAMPS], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


class StampedRasterizer(Rasterizer):
    async def rasterize(self, document: str, *arguments: Any, **options: Any) -> Any:
        started = time.monotonic()
        image = await super().rasterize(document, *arguments, **options)
        stamp(document, decoding=started, decoded=time.monotonic())
        return image


class StampedRecognizer(Recognizer):
    async def recognize(self, image: Any, options: Any, document: str, *arguments: Any, **named: Any) -> Any:
        started = time.monotonic()
        result = await super().recognize(image, options, document, *arguments, **named)
        stamp(document, recognizing=started, recognized=time.monotonic())
        return result


class StampedIngress(Ingress):
    async def __init__(self, *arguments: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        await super().__init__(*arguments)  # type: ignore[misc]  # `serve.ingress` has made it async
        documents = self._context.documents
        documents.open = _stamped_open(documents.open)  # type: ignore[assignment, method-assign]


def build(settings: Settings) -> Application:
    with mock.patch.multiple(
        app,
        INGRESS=f"{__name__}.StampedIngress",
        RASTERIZER=f"{__name__}.StampedRasterizer",
        RECOGNIZER=f"{__name__}.StampedRecognizer",
    ):
        return app.build(settings)


def _stamped_open(open_document: Callable[..., Awaitable[DocumentRun]]) -> Callable[..., Awaitable[DocumentRun]]:
    async def stamped(*arguments: Any, timings: Any, **options: Any) -> DocumentRun:
        opening, before_s = time.monotonic(), timings.elapsed_s
        run = await open_document(*arguments, timings=timings, **options)
        opened, finish = time.monotonic(), run.finish

        async def stamped_finish() -> Any:
            finishing = time.monotonic()
            summary = await finish()
            stamp(
                run.id,
                received=opening - before_s,
                opening=opening,
                opened=opened,
                finishing=finishing,
                finished=time.monotonic(),
            )
            return summary

        run.finish = stamped_finish  # type: ignore[method-assign]
        return run

    return stamped
