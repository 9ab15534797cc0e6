"""An engine without its recognizer: both stages, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serve_app.document import Page, PageContent, PageImage, RgbPixels
from serve_app.document.options import RecognitionOptions
from serve_app.errors import ServiceError
from serve_app.recognition.engines import Engine, PageTask


def read_whole(engine: Engine, tasks: Sequence[PageTask]) -> list[PageContent | ServiceError]:
    analyzed = engine.analyze(tasks)
    return [each if isinstance(each, ServiceError) else engine.read(each) for each in analyzed]


def read_pages(engine: Engine, tasks: Sequence[PageTask]) -> list[Page | ServiceError]:
    return [each.page if isinstance(each, PageContent) else each for each in read_whole(engine, tasks)]


def page_task(pixels: RgbPixels, *languages: str, number: int = 1) -> PageTask:
    return PageTask(PageImage(np.ascontiguousarray(pixels), number, 200, 0.0), RecognitionOptions(languages))


def read_content(engine: Engine, pixels: RgbPixels, *languages: str) -> PageContent:
    """Read one page, which must not fail."""
    (content,) = read_whole(engine, [page_task(pixels, *languages)])
    assert isinstance(content, PageContent), content
    return content


def read_page(engine: Engine, pixels: RgbPixels, *languages: str) -> Page:
    """Read one page, which must not fail, without its figures."""
    return read_content(engine, pixels, *languages).page
