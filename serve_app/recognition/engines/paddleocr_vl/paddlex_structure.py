"""PaddleX's /restructure-pages: joins pages in PaddleX's form and renders them again.

The work is done by the library's `restructure_pages`, except for joining tables, which would parse a table of n pages n
times (see `outline_structure`).
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
    """Return one page for each, or a single page if `options.concatenate` is set.

    Raises InvalidField for pages that are not in the form of /layout-parsing.
    """
    from paddlex.inference.pipelines.layout_parsing.title_level import assign_levels_to_parsing_res
    from paddlex.inference.pipelines.paddleocr_vl.pipeline import _PaddleOCRVLPipeline
    from paddlex.inference.pipelines.paddleocr_vl.result import PaddleOCRVLResult

    try:
        inputs = [{"res": {**page.result, "input_path": "", "page_index": index}} for index, page in enumerate(pages)]
        results = list(_PaddleOCRVLPipeline.restructure_pages(None, inputs, merge_tables=False, relevel_titles=False))
        blocks = [result["parsing_res_list"] for result in results]
        for page, page_blocks in zip(pages, blocks, strict=True):
            _restore_blocks(page_blocks, page.raw_blocks)
        if options.merge_tables:
            _join_tables(blocks)
        if options.relevel_titles:
            assign_levels_to_parsing_res(blocks)
        if options.concatenate:
            results = [PaddleOCRVLResult(_concatenate(results))]
        return [_native_page(result, options) for result in results]
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # The library does not validate its input.
        problem = "are not pages as /layout-parsing gives them"
        raise InvalidField(f"pages: {problem}.", fields=(FieldError("pages", problem),)) from error


def _restore_blocks(blocks: Sequence[Any], raw: Sequence[tuple[str, str | None]]) -> None:
    """Restore the content and pictures of blocks, which JSON does not carry or the library drops."""
    for block, (content, picture) in zip(blocks, raw, strict=False):
        block.content = content
        block.image = None if picture is None else {"path": picture, "img": None}


def _join_tables(pages: Sequence[Sequence[Any]]) -> None:
    # Blocks without an area are skipped, since the library divides by it.
    outlines = [(number, [block for block in page if has_area(block.bbox)]) for number, page in enumerate(pages, 1)]
    for table in continued_tables(outlines):
        table.block.content = str(table.soup)
        for _, block in table.continued_by:
            block.content = ""
            block.global_group_id = table.block.global_group_id


def _concatenate(results: Sequence[Any]) -> dict[str, Any]:
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


def _native_page(result: Any, options: Restructuring) -> NativePage:
    pruned = without_file_names(result.json["res"])
    markdown = result._to_markdown(pretty=options.prettify_markdown, show_formula_number=options.show_formula_number)
    return NativePage(pruned, markdown["markdown_texts"])
