"""Restructures pages of /layout-parsing as one document, with the layout engine if there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serve_app.document import NativePage
from serve_app.document.options import Restructuring
from serve_app.errors import RequestTimeout
from serve_app.paddlex.engine_options import layout_engine
from serve_app.paddlex.fallback_structure import restructure_without_engine
from serve_app.paddlex.requests import LayoutParsingFields, RestructureRequest
from serve_app.pipeline.dispatch import Pipeline
from serve_app.settings import PaddleOcrVlSettings, Settings


def restructuring_of(fields: LayoutParsingFields | RestructureRequest, *, concatenate: bool = False) -> Restructuring:
    return Restructuring(
        merge_tables=fields.merge_tables,
        relevel_titles=fields.relevel_titles,
        concatenate=concatenate,
        prettify_markdown=fields.prettify_markdown,
        show_formula_number=fields.show_formula_number,
    )


async def restructure_pages(
    pipeline: Pipeline, settings: Settings, pages: Sequence[NativePage], restructuring: Restructuring
) -> list[NativePage]:
    """Restructure pages. Returns one page for each, or a single page if they are concatenated. Raises ServiceError."""
    engine, limit_s = layout_engine(settings), settings.limits.page_s
    try:
        async with asyncio.timeout(limit_s):
            if isinstance(engine, PaddleOcrVlSettings):
                return await pipeline.restructure_pages(engine.name, pages, restructuring)
            return await asyncio.to_thread(restructure_without_engine, pages, restructuring)
    except TimeoutError:
        raise RequestTimeout(f"Restructuring the pages took longer than {limit_s:g} s.") from None
