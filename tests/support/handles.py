"""Stand-ins for DeploymentHandles, and a Pipeline over them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from serve_app.document import EngineInfo, Page, PageContent, PageResult, SourceFile
from serve_app.errors import (
    ServiceError,
)
from serve_app.pipeline.dispatch import Pipeline
from serve_app.pipeline.replica_calls import RetryPolicy
from serve_app.pipeline.window_limits import WindowLimits
from tests.support.caches import no_cache


def page_result() -> PageResult:
    return PageResult(PageContent(Page(number=1, width=1, height=1, dpi=1)), EngineInfo(name="x", version="1"))


RESULT = page_result()
SOURCE = SourceFile("document", b"")


class Handle:
    """Stands for a DeploymentHandle: `.method.remote(...)` gives the next of `answers`, raising exceptions."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return self

    def remote(self, *arguments: Any, **named: Any) -> Awaitable[Any]:
        self.calls.append(arguments)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

        async def response() -> Any:
            if isinstance(answer, Exception) and not isinstance(answer, ServiceError):
                raise answer
            return answer

        return asyncio.ensure_future(response())


class Silent(Handle):
    """A deployment without replicas: Serve keeps a call until there is one."""

    def remote(self, *arguments: Any, **named: Any) -> Awaitable[Any]:
        return asyncio.ensure_future(asyncio.Event().wait())


class FromZero(Handle):
    """A deployment without replicas whose first one starts because of a call, after 50 ms."""

    def remote(self, *arguments: Any, **named: Any) -> Awaitable[Any]:
        async def response() -> Any:
            await asyncio.sleep(0.05)
            return self.answers[0]

        return asyncio.ensure_future(response())


RETRY = RetryPolicy(pause_s=0, poll_s=0.02)


def pipeline_of(
    rasterizer: Handle,
    recognizer: Handle,
    *,
    ready: bool = True,
    has_replicas: bool = True,
    fallback: Handle | None = None,
    from_zero: bool = False,
    queue: int | None = None,
    window: int | None = 4,
    capacity: int = 0,
) -> Pipeline:
    """`window`: pages of a document in flight; `queue` and `capacity`: see WindowLimits."""
    handles: Any = (rasterizer, {"x": recognizer, "other": fallback}, no_cache())
    return Pipeline(
        *handles,
        limits=WindowLimits(lambda engine: capacity, queue, window),
        is_ready=lambda engine: ready,
        has_replicas=lambda engine: has_replicas,
        fallbacks={"x": "other"} if fallback is not None else {},
        engine_wait_s={"x": 0.1 if fallback is None or from_zero else 0, "other": 0.1},
        retry=RETRY,
    )
