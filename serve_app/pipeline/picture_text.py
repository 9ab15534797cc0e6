"""Adds text recognized in pictures to a page whose other text is its text layer."""

from __future__ import annotations

from dataclasses import replace

from serve_app.document import Block, Box, PageContent, PageResult
from serve_app.document.markdown import page_markdown
from serve_app.document.warnings import WarningCode, warning
from serve_app.errors import ServiceError

MIN_CONFIDENCE = 0.6
"""Least confidence of a block: below it are drawings taken for letters."""

NOT_READ = warning(WarningCode.PICTURES_NOT_READ, "The text in this page's pictures could not be recognized.")


def with_pictures(layer: PageResult, recognized: PageResult | ServiceError) -> PageResult:
    """Return the page of the text layer with the blocks that were recognized in its pictures, in reading order.

    If recognition failed, the page is degraded, and a warning says so.
    """
    page = layer.page
    if isinstance(recognized, ServiceError):
        changed = page.model_copy(update={"degraded": True, "warnings": [*page.warnings, NOT_READ]})
        return replace(layer, content=PageContent(changed), unread_pictures=())
    blocks = list(page.blocks)
    waiting = [block for block in recognized.page.blocks if _is_text(block)]
    for picture in layer.unread_pictures:
        found = [block for block in waiting if _is_in(block, picture)]
        waiting = [block for block in waiting if not _is_in(block, picture)]  # pictures may overlap
        place = _place(blocks, picture)
        blocks[place:place] = found
    places_elsewhere = {"figure": None, "markdown_span": None, "group": None}
    blocks = [block.model_copy(update={**places_elsewhere, "order": order}) for order, block in enumerate(blocks)]
    changed = page.model_copy(
        update={
            "blocks": blocks,
            "text": "\n\n".join(block.text for block in blocks),
            "markdown": page_markdown(blocks),
            "degraded": page.degraded or recognized.page.degraded,
            "warnings": [*page.warnings, *recognized.page.warnings],
        }
    )
    return PageResult(PageContent(changed), layer.engine, {**recognized.timings_ms, **layer.timings_ms})


def _is_text(block: Block) -> bool:
    return bool(block.text.strip()) and (block.confidence is None or block.confidence >= MIN_CONFIDENCE)


def _is_in(block: Block, picture: Box) -> bool:
    across, down = (block.bbox[0] + block.bbox[2]) / 2, (block.bbox[1] + block.bbox[3]) / 2
    return picture[0] <= across <= picture[2] and picture[1] <= down <= picture[3]


def _place(blocks: list[Block], picture: Box) -> int:
    """Return where a picture's text goes among blocks: before the first one below it in its column, else at the end."""
    middle = (picture[1] + picture[3]) / 2
    column = [n for n, block in enumerate(blocks) if block.bbox[0] < picture[2] and picture[0] < block.bbox[2]]
    below = [n for n in column if (blocks[n].bbox[1] + blocks[n].bbox[3]) / 2 > middle]
    if below:
        return below[0]
    return column[-1] + 1 if column else len(blocks)
