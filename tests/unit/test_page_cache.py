"""The cache of pages: what is found again, what is not, and when it goes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serve_app.document import EngineInfo, ErrorInfo, Figure, NativePage, Page, PageContent, PageResult, SourceFile
from serve_app.document.options import ParsingOptions, RecognitionOptions
from serve_app.metrics.catalogue import CACHE_LOOKUPS
from serve_app.pipeline.page_cache import CachedPages, PageCache
from serve_app.settings import FolderStoreSettings, Settings
from serve_app.storage import StoreUnavailable
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import StoreMonitor
from tests.support.metrics import grows

ENGINE = EngineInfo(name="tesseract", version="5")
RUSSIAN = RecognitionOptions(languages=("rus",))


def page(**fields: Any) -> PageResult:
    read = Page(number=1, width=9, height=9, dpi=72, text="Привет", **fields)
    figure = Figure("imgs/a.jpg", b"\xff\xd8")
    paddlex = NativePage({"width": 9, "parsing_res_list": []}, "Привет", (("a", None), ("б", "imgs/a.jpg")))
    return PageResult(PageContent(read, (figure,), paddlex), ENGINE, {"recognize": 5})


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(FolderStoreSettings(path=str(tmp_path / "output")))


def cache_of(
    store: FolderStore, *, version: str | None = "5", monitor: StoreMonitor | None = None, **settings: Any
) -> PageCache:
    whole = Settings.model_validate({"cache_days": 1, **settings})
    return PageCache(store, monitor or StoreMonitor(store), whole, lambda engine: version)


def pages_of(
    cache: PageCache,
    file: bytes = b"%PDF-",
    owner: str = "анна",
    options: RecognitionOptions = RUSSIAN,
    dpi: int | None = None,
) -> CachedPages:
    source = SourceFile("id", file, None, owner, cache.digest(file))
    pages = cache.pages_of(source, "tesseract", options, dpi)
    assert pages is not None
    return pages


async def test_a_cached_page_comes_back_as_it_was(store: FolderStore) -> None:
    cache = cache_of(store)
    with grows(CACHE_LOOKUPS, outcome="miss"):
        assert await pages_of(cache).get(1) is None
    await pages_of(cache).put(1, page())
    with grows(CACHE_LOOKUPS, outcome="hit"):
        cached = await pages_of(cache).get(1)
    assert cached is not None
    assert cached.timings_ms.pop("cache") > 0
    assert cached == replace(page(), timings_ms={})
    assert await pages_of(cache).get(2) is None


async def test_other_options_owners_and_documents_have_entries_of_their_own(store: FolderStore) -> None:
    cache = cache_of(store)
    await pages_of(cache).put(1, page())
    charts = replace(RUSSIAN, parsing=ParsingOptions(use_chart_recognition=True))
    others = [
        pages_of(cache, owner="борис"),
        pages_of(cache, file=b"%PDF-2"),
        pages_of(cache, options=charts),
        pages_of(cache, options=replace(RUSSIAN, languages=("rus", "eng"))),
        pages_of(cache, options=replace(RUSSIAN, overlay=True)),
        pages_of(cache, dpi=300),
        pages_of(cache_of(store, version="6")),
        pages_of(cache_of(store, engines=[{"name": "tesseract", "languages": ["eng"]}])),
        pages_of(cache_of(store, raster={"default_dpi": 300})),
    ]
    assert [await other.get(1) for other in others] == [None] * len(others)
    assert await pages_of(cache).get(1) is not None


@pytest.mark.parametrize(
    "worse",
    [
        page(degraded=True),
        page(error=ErrorInfo(code="x", message="y")),
        replace(page(), engine=EngineInfo(name="fallback", version="1")),
        replace(page(), engine=EngineInfo(name="tesseract", version="4")),
    ],
)
async def test_a_page_that_a_retry_may_improve_is_not_cached(store: FolderStore, worse: PageResult) -> None:
    pages = pages_of(cache_of(store))
    await pages.put(1, worse)
    assert await pages.get(1) is None


async def test_nothing_is_cached_without_cache_days_or_a_known_engine_version(store: FolderStore) -> None:
    off = cache_of(store, cache_days=0)
    assert off.digest(b"%PDF-") is None
    assert off.pages_of(SourceFile("id", b""), "tesseract", RUSSIAN, None) is None
    loading = cache_of(store, version=None)
    source = SourceFile("id", b"", digest=loading.digest(b""))
    assert loading.pages_of(source, "tesseract", RUSSIAN, None) is None, "which version will read it is not known"


async def test_pages_stay_for_cache_days_or_until_their_document_is_deleted(store: FolderStore, tmp_path: Path) -> None:
    cache = cache_of(store, cache_days=2)
    for file in (b"one", b"two"):
        await pages_of(cache, file).put(1, page())
    digest = cache.digest(b"one")
    assert digest is not None
    await cache.forget("борис", digest)
    assert await pages_of(cache, b"one").get(1) is not None
    await cache.forget("анна", digest)
    assert await pages_of(cache, b"one").get(1) is None
    now = datetime.now(UTC)
    for ahead, there in ((0, True), (1, True), (2, False)):
        await cache_of(store, cache_days=2).sweep(now + timedelta(days=ahead))
        assert (await pages_of(cache, b"two").get(1) is not None) is there, ahead
    await pages_of(cache, b"two").put(1, page())
    await cache_of(store, cache_days=0).sweep(now)
    assert await pages_of(cache, b"two").get(1) is None, "switched off, it leaves nothing"


async def test_a_damaged_or_unavailable_cache_is_a_miss(store: FolderStore, tmp_path: Path) -> None:
    pages = pages_of(cache_of(store))
    await pages.put(1, page())
    (file,) = (tmp_path / "output" / "cache").rglob("*.json")
    for damage in (b"", b"{}", b'{"page": 1, "figures": [], "paddlex": null}', b"\xff"):
        file.write_bytes(damage)
        assert await pages.get(1) is None, damage
    await pages.put(1, page())
    monitor = StoreMonitor(store)
    monitor.report(StoreUnavailable("away"))
    away = pages_of(cache_of(store, monitor=monitor))
    assert await away.get(1) is None
    (tmp_path / "output").rename(tmp_path / "gone")
    await pages.put(2, page())
    assert await pages.get(1) is None
