"""An engine without its recognizer: both stages, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.document import Page, PageContent
from serve_app.errors import ServiceError
from serve_app.recognition.engines import Engine, PageTask


def read_whole(engine: Engine, tasks: Sequence[PageTask]) -> list[PageContent | ServiceError]:
    analyzed = engine.analyze(tasks)
    return [each if isinstance(each, ServiceError) else engine.read(each) for each in analyzed]


def read_pages(engine: Engine, tasks: Sequence[PageTask]) -> list[Page | ServiceError]:
    return [each.page if isinstance(each, PageContent) else each for each in read_whole(engine, tasks)]
