"""PaddleX's /restructure-pages: pages in its own form, made of one piece, and written anew.

As the library's `restructure_pages` does it, but for its joining of tables, which parses a table of n pages n
times (see `restructure`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.document import NativePage
from serve_app.document.options import Restructuring
from serve_app.errors import FieldError, InvalidField
from serve_app.recognition.engines.paddleocr_vl.outline_structure import continued_tables, has_area
from serve_app.recognition.engines.paddleocr_vl.page_conversion import without_file_names


def restructure_pages(pages: Sequence[NativePage], options: Restructuring) -> list[NativePage]:
    """One page for each, or one for all. Raises InvalidField for what /layout-parsing did not make."""
    from paddlex.inference.pipelines.layout_parsing.title_level import assign_levels_to_parsing_res
    from paddlex.inference.pipelines.paddleocr_vl.pipeline import _PaddleOCRVLPipeline
    from paddlex.inference.pipelines.paddleocr_vl.result import PaddleOCRVLResult

    try:
        dressed = [{"res": {**page.result, "input_path": "", "page_index": index}} for index, page in enumerate(pages)]
        results = list(_PaddleOCRVLPipeline.restructure_pages(None, dressed, merge_tables=False, relevel_titles=False))
        blocks = [result["parsing_res_list"] for result in results]
        for page, of_page in zip(pages, blocks, strict=True):
            _as_they_were(of_page, page.raw_blocks)
        if options.merge_tables:
            _join_tables(blocks)
        if options.relevel_titles:
            assign_levels_to_parsing_res(blocks)
        if options.concatenate:
            results = [PaddleOCRVLResult(_concatenated(results))]
        return [_written(result, options) for result in results]
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # The library looks at nothing before it uses it.
        problem = "are not pages as /layout-parsing gives them"
        raise InvalidField(f"pages: {problem}.", fields=(FieldError("pages", problem),)) from error


def _as_they_were(blocks: Sequence[Any], raw: Sequence[tuple[str, str | None]]) -> None:
    """What JSON does not tell of blocks, and what the library takes away from those that it makes of JSON."""
    for block, (content, picture) in zip(blocks, raw, strict=False):
        block.content = content
        block.image = None if picture is None else {"path": picture, "img": None}


def _join_tables(pages: Sequence[Sequence[Any]]) -> None:
    # One of the library's tables is worth no attention where its box has no area: it divides by it.
    outlines = [(number, [block for block in page if has_area(block.bbox)]) for number, page in enumerate(pages, 1)]
    for table in continued_tables(outlines):
        table.block.content = str(table.soup)
        for _, block in table.continued_by:
            block.content = ""
            block.global_group_id = table.block.global_group_id


def _concatenated(results: Sequence[Any]) -> dict[str, Any]:
    first = dict(results[0])
    settings = results[-1]["model_settings"]
    first["parsing_res_list"] = []
    for index, result in enumerate(results):
        for block in result["parsing_res_list"]:
            block.page_index = index
            first["parsing_res_list"].append(block)
    first |= {"imgs_in_doc": [], "page_index": None, "page_count": len(results)}
    for name, used in (("layout_det_res", "use_layout_detection"), ("doc_preprocessor_res", "use_doc_preprocessor")):
        if settings[used]:
            first[name] = [result[name] for result in results]
    return first


def _written(result: Any, options: Restructuring) -> NativePage:
    pruned = without_file_names(result.json["res"])
    markdown = result._to_markdown(pretty=options.prettify_markdown, show_formula_number=options.show_formula_number)
    return NativePage(pruned, markdown["markdown_texts"])
