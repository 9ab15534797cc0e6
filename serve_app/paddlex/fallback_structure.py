"""`/restructure-pages` for engines without structure analysis: blocks are numbered across pages, pages concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.document import NativePage
from serve_app.document.markdown import page_markdown
from serve_app.document.options import Restructuring
from serve_app.paddlex.pages import MARGINALS, from_paddlex, with_html_pictures


def restructure_without_engine(pages: Sequence[NativePage], restructuring: Restructuring) -> list[NativePage]:
    """Return the pages with blocks numbered across the document, or one page with all blocks if `concatenate` is set."""
    numbered = _number_blocks([page.result for page in pages])
    markdowns = [_markdown(page, restructuring) for page in numbered]
    if restructuring.concatenate:
        whole = {**numbered[0], "page_count": len(numbered)}
        whole["parsing_res_list"] = [block for page in numbered for block in page["parsing_res_list"]]
        whole["layout_det_res"] = [page.get("layout_det_res") for page in numbered]
        return [NativePage(whole, "\n\n".join(filter(None, markdowns)))]
    return [NativePage(page, markdown) for page, markdown in zip(numbered, markdowns, strict=True)]


def _number_blocks(pages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    numbered, count = [], 0
    for page in pages:
        blocks = []
        for block in page["parsing_res_list"]:
            blocks.append({**block, "global_block_id": count, "global_group_id": count})
            count += 1
        numbered.append({**page, "parsing_res_list": blocks})
    return numbered


def _markdown(pruned_result: dict[str, Any], restructuring: Restructuring) -> str:
    """Return the Markdown that /layout-parsing wrote for this page."""
    ignored = (pruned_result.get("model_settings") or {}).get("markdown_ignore_labels")
    ignored = frozenset(MARGINALS if ignored is None else ignored)
    page = from_paddlex(pruned_result, 1)
    blocks = [block for block in page.blocks if block.label not in ignored]
    parts = [block.content if block.content is not None else page_markdown([block]) for block in blocks]
    markdown = "\n\n".join(filter(None, parts))
    return with_html_pictures(markdown, page) if restructuring.prettify_markdown else markdown
