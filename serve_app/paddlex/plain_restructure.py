"""/restructure-pages where no engine knows more of the pages than they say themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.document import PaddlexPage
from serve_app.errors import FieldError, InvalidField
from serve_app.paddlex.pages import MARGINALS
from serve_app.paddlex.restructuring import Restructuring


def restructure_pages(pages: Sequence[dict[str, Any]], how: Restructuring) -> list[PaddlexPage]:
    """The pages with blocks numbered through the document; one for all, if that is asked for. Raises InvalidField."""
    try:
        numbered = _numbered(pages)
        if how.concatenate:
            whole = {**numbered[0], "page_count": len(numbered)}
            whole["parsing_res_list"] = [block for page in numbered for block in page["parsing_res_list"]]
            whole["layout_det_res"] = [page.get("layout_det_res") for page in numbered]
            numbered = [whole]
        return [PaddlexPage(page, _markdown(page)) for page in numbered]
    except (AttributeError, LookupError, TypeError) as error:
        problem = "are not pages as /layout-parsing gives them"
        raise InvalidField(f"pages: {problem}.", fields=(FieldError("pages", problem),)) from error


def _numbered(pages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    numbered, count = [], 0
    for page in pages:
        blocks = []
        for block in page["parsing_res_list"]:
            blocks.append({**block, "global_block_id": count, "global_group_id": count})
            count += 1
        numbered.append({**page, "parsing_res_list": blocks})
    return numbered


def _markdown(page: dict[str, Any]) -> str:
    settings = page.get("model_settings") or {}
    ignored = settings.get("markdown_ignore_labels", MARGINALS)
    pieces = [
        block["block_content"]
        for block in page["parsing_res_list"]
        if block["block_label"] not in ignored and block["block_content"]
    ]
    return "\n\n".join(pieces)
