from __future__ import annotations

import time

import numpy as np
import pytest

from serve_app.document import Page, PageImage
from serve_app.document.options import RecognitionOptions
from serve_app.recognition.engines import EngineLoadError, PageTask, create_engine
from serve_app.settings import DummySettings
from tests.support.engines import read_pages


def task(number: int, width: int = 30, height: int = 20) -> PageTask:
    return PageTask(PageImage(np.zeros((height, width, 3), np.uint8), number, 200, 0.0), RecognitionOptions())


def test_every_page_gets_its_own_result_in_order() -> None:
    engine = create_engine(DummySettings(text="привет"), page_s=1)
    engine.load()
    pages = read_pages(engine, [task(1), task(2, width=50), task(3)])
    assert all(isinstance(page, Page) for page in pages)
    assert [(p.number, p.width, p.height, p.text) for p in pages if isinstance(p, Page)] == [
        (1, 30, 20, "привет"),
        (2, 50, 20, "привет"),
        (3, 30, 20, "привет"),
    ]


def test_its_block_covers_the_page() -> None:
    engine = create_engine(DummySettings(text="a"), page_s=1)
    (page,) = read_pages(engine, [task(1, width=7, height=5)])
    assert isinstance(page, Page)
    assert [(block.bbox, block.order, block.text) for block in page.blocks] == [((0, 0, 7, 5), 0, "a")]


def test_an_empty_text_gives_a_page_without_blocks() -> None:
    (page,) = read_pages(create_engine(DummySettings(text=""), page_s=1), [task(1)])
    assert isinstance(page, Page)
    assert (page.text, page.markdown, page.blocks) == ("", "", [])


def test_loading_fails_with_the_configured_reason_after_the_configured_time() -> None:
    engine = create_engine(DummySettings(load_s=0.05, load_error="no GPU"), page_s=1)
    started = time.monotonic()
    with pytest.raises(EngineLoadError, match=r"^no GPU$"):
        engine.load()
    assert time.monotonic() - started >= 0.05


def test_a_batch_costs_its_share_and_that_of_its_pages() -> None:
    engine = create_engine(DummySettings(batch_s=0.04, page_s=0.02, max_batch=4), page_s=1)
    engine.load()
    assert (engine.name, engine.version, engine.max_batch) == ("dummy", "1", 4)
    started = time.monotonic()
    read_pages(engine, [task(1), task(2), task(3)])
    assert 0.1 <= time.monotonic() - started < 0.3
    engine.close()
