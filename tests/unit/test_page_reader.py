"""The layers of a page: text layer, cache, fallback, retries, waiting for a replica."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from serve_app.document import EngineInfo, PageResult, SourceFile
from serve_app.document.options import RecognitionOptions
from serve_app.errors import (
    CorruptDocument,
    EngineFailed,
    EngineLoading,
    PageTimeout,
    QueueFull,
    RecognitionFailed,
    ServiceError,
    VlmServerAway,
)
from serve_app.pipeline.dispatch import Pipeline
from serve_app.pipeline.page_cache import PageCache
from serve_app.pipeline.page_reader import DEADLY_PAGES
from serve_app.pipeline.window_limits import WindowLimits
from serve_app.settings import FolderStoreSettings, Settings
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import StoreMonitor
from tests.support.handles import RESULT, RETRY, SOURCE, FromZero, Handle, Silent, page_result, pipeline_of


async def test_a_cached_page_is_not_sent_to_a_recognizer(tmp_path: Path) -> None:
    store = FolderStore(FolderStoreSettings(path=str(tmp_path)))
    cache = PageCache(store, StoreMonitor(store), Settings(cache_days=1), lambda engine: "1")
    recognizer = Handle(PageResult(RESULT.content, EngineInfo(name="tesseract", version="1")))
    handles: Any = (Handle("pixels"), {"tesseract": recognizer}, cache)
    limits = WindowLimits(lambda engine: 4)
    pipeline = Pipeline(
        *handles, limits=limits, is_ready=bool, has_replicas=bool, fallbacks={}, engine_wait_s={"tesseract": 1}
    )
    source, options = SourceFile("document", b"", digest=cache.digest(b"%PDF-")), RecognitionOptions()
    for _ in range(2):
        found = [
            outcome async for outcome in pipeline.pages(source, [1, 2], engine="tesseract", options=options, dpi=None)
        ]
        assert sorted(outcome.number for outcome in found) == [1, 2]
        assert all(isinstance(outcome.result, PageResult) for outcome in found)
        assert len(recognizer.calls) == 2


async def recognize(
    recognizer: Handle,
    *,
    ready: bool = True,
    has_replicas: bool = True,
    fallback: Handle | None = None,
    from_zero: bool = False,
) -> tuple[PageResult | ServiceError, Handle]:
    rasterizer = Handle("pixels")
    pipeline = pipeline_of(
        rasterizer, recognizer, ready=ready, has_replicas=has_replicas, fallback=fallback, from_zero=from_zero
    )
    (outcome,) = [
        outcome async for outcome in pipeline.pages(SOURCE, [1], engine="x", options=RecognitionOptions(), dpi=None)
    ]
    assert outcome.number == 1
    return outcome.result, rasterizer


def upstream_died() -> RayServeException:
    error = RayServeException("an upstream actor died")
    error.__cause__ = ActorDiedError()
    return error


async def test_a_page_whose_recognizer_died_is_sent_again_with_the_same_pixels() -> None:
    recognizer = Handle(ActorDiedError(), ActorDiedError(), RESULT)
    result, rasterizer = await recognize(recognizer)
    assert result is RESULT
    assert len(rasterizer.calls) == 1
    assert len({id(call[0]) for call in recognizer.calls}) == 1


@pytest.mark.parametrize(
    "lost",
    [
        lambda: RayTaskError("recognize", "traceback", ActorDiedError()),
        upstream_died,
    ],
    ids=["noticed by the recognizer", "noticed by the router"],
)
async def test_a_page_whose_pixels_were_lost_is_rasterized_again(lost: Callable[[], Exception]) -> None:
    result, rasterizer = await recognize(Handle(lost(), RESULT))
    assert result is RESULT
    assert len(rasterizer.calls) == 2


async def test_a_page_that_takes_every_replica_down_is_given_up() -> None:
    recognizer = Handle(ActorDiedError())
    result, _ = await recognize(recognizer)
    assert isinstance(result, RecognitionFailed)
    assert len(recognizer.calls) == RETRY.attempts


async def test_a_bug_in_a_recognizer_is_not_taken_for_a_death_and_costs_its_page_only() -> None:
    recognizer = Handle(RayTaskError("recognize", "traceback", ZeroDivisionError()))
    result, _ = await recognize(recognizer)
    assert isinstance(result, RecognitionFailed) and len(recognizer.calls) == 1


@pytest.mark.parametrize(
    "trouble", [ActorDiedError(), RayTaskError("read_text", "traceback", OSError()), CorruptDocument()]
)
async def test_a_page_whose_text_layer_cannot_be_read_is_recognized(trouble: Exception) -> None:
    pipeline = pipeline_of(Handle(trouble), Handle(RESULT))
    found = pipeline.pages(SOURCE, [1], engine="x", options=RecognitionOptions(), dpi=None, text_layer=True)
    assert [outcome.result async for outcome in found] == [RESULT]


async def test_a_replica_that_cannot_load_its_engine_is_retried_while_another_has_loaded_it() -> None:
    result, _ = await recognize(Handle(EngineFailed(), EngineFailed(), RESULT))
    assert result is RESULT


async def test_an_engine_that_no_replica_can_load_is_not_retried() -> None:
    recognizer = Handle(EngineFailed())
    result, _ = await recognize(recognizer, ready=False)
    assert isinstance(result, EngineFailed) and len(recognizer.calls) == 1


async def test_refusals_by_serve_become_errors_of_the_service() -> None:
    full, _ = await recognize(Handle(BackPressureError(1, 1)))
    assert isinstance(full, QueueFull) and full.retry_after_s
    failed, _ = await recognize(Handle(DeploymentUnavailableError(DeploymentID("x"))))
    assert isinstance(failed, EngineFailed) and failed.retry_after_s


async def test_a_page_does_not_wait_forever_without_a_replica() -> None:
    result, _ = await recognize(Silent(), has_replicas=False)
    assert isinstance(result, EngineLoading) and result.retry_after_s


@pytest.mark.parametrize("unavailable", [EngineFailed(), EngineLoading(), VlmServerAway()], ids=lambda e: str(e.code))
async def test_the_fallback_reads_a_page_while_the_engine_is_unavailable(unavailable: ServiceError) -> None:
    result, _ = await recognize(Handle(unavailable), ready=False, fallback=Handle(page_result()))
    assert isinstance(result, PageResult) and result.page.degraded
    (warning,) = result.page.warnings
    assert warning.code == "fallback_engine" and unavailable.message in warning.message


async def test_the_fallback_reads_a_page_while_the_engine_has_no_replica() -> None:
    result, _ = await recognize(Silent(), has_replicas=False, fallback=Handle(page_result()))
    # The fallback is silent in nothing: it answers before anybody looks for its replicas.
    assert isinstance(result, PageResult) and result.page.degraded


async def test_a_page_waits_for_the_first_replica_of_an_engine_that_starts_from_zero_though_it_has_a_fallback() -> None:
    fallback = Handle(page_result())
    result, _ = await recognize(FromZero(RESULT), has_replicas=False, fallback=fallback, from_zero=True)
    assert result is RESULT and not fallback.calls
    late, _ = await recognize(Silent(), has_replicas=False, fallback=fallback, from_zero=True)
    assert isinstance(late, PageResult) and late.page.degraded, "not for ever"


async def test_the_fallback_does_not_retry_a_page_that_is_bad_itself() -> None:
    fallback = Handle(page_result())
    result, _ = await recognize(Handle(PageTimeout()), fallback=fallback)
    assert isinstance(result, PageTimeout) and not fallback.calls


async def test_the_requested_engines_error_is_returned_if_the_fallback_is_unavailable_too() -> None:
    result, _ = await recognize(Handle(VlmServerAway()), fallback=Handle(EngineFailed()), ready=False)
    assert isinstance(result, VlmServerAway)


async def test_a_document_whose_pages_end_every_replica_is_given_up() -> None:
    recognizer = Handle(ActorDiedError())
    pipeline = pipeline_of(Handle("pixels"), recognizer, window=1)
    document = pipeline.pages(SOURCE, range(1, 9), engine="x", options=RecognitionOptions(), dpi=None)
    outcomes = [outcome.result async for outcome in document]
    assert all(isinstance(outcome, RecognitionFailed) for outcome in outcomes) and len(outcomes) == 8
    assert len(recognizer.calls) == DEADLY_PAGES * RETRY.attempts
    recognizer.answers = [RESULT]
    again = pipeline.pages(SOURCE, [1], engine="x", options=RecognitionOptions(), dpi=None)
    assert [outcome.result async for outcome in again] == [RESULT]
