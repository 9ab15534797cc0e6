"""Converts the library's result, which cannot be pickled and holds the page's pixels twice, to plain data."""

from __future__ import annotations

from typing import Any

from serve_app.document import Block, Box, ErrorInfo, Figure, NativePage, Page, PageContent
from serve_app.document.options import ParsingOptions
from serve_app.document.tables import table_text
from serve_app.recognition.engines.figures import jpeg

_BETWEEN = "\n\n"  # the library's separator of blocks in Markdown


def page_content(
    result: Any, options: ParsingOptions, *, number: int, dpi: int, warnings: list[ErrorInfo]
) -> PageContent:
    """Convert a PaddleOCRVLResult."""
    pruned: dict[str, Any] = without_file_names(result.json["res"])
    exact_markdown, pictures, spans = _markdown(result, options)
    pictures = {path: picture for path, picture in pictures.items() if picture.width and picture.height}
    figures = tuple(Figure(path, jpeg(picture)) for path, picture in pictures.items())
    blocks = [
        _block(order, block, raw.image["path"] if raw.image and raw.image["path"] in pictures else None, span)
        for order, (block, raw, span) in enumerate(
            zip(pruned["parsing_res_list"], result["parsing_res_list"], spans, strict=True)
        )
    ]
    width, height = pruned["width"], pruned["height"]
    rotation = max(0, int(pruned.get("doc_preprocessor_res", {}).get("angle", 0)))
    if rotation:
        blocks = [_on_original_page(block, rotation, width, height) for block in blocks]
    page = Page(
        number=number,
        width=width if rotation % 180 == 0 else height,
        height=height if rotation % 180 == 0 else width,
        dpi=dpi,
        rotation=rotation,
        text="\n\n".join(block.text for block in blocks if block.text),
        markdown=exact_markdown.strip(),
        blocks=blocks,
        degraded=bool(warnings),
        warnings=warnings,
    )
    raw = tuple((block.content, block.image["path"] if block.image else None) for block in result["parsing_res_list"])
    return PageContent(page, figures, NativePage(pruned, exact_markdown, raw))


def without_file_names(value: Any) -> Any:
    """Remove the input's name and page index from a result, as the library's own server does."""
    if isinstance(value, dict):
        return {
            name: without_file_names(item) for name, item in value.items() if name not in ("input_path", "page_index")
        }
    return [without_file_names(item) for item in value] if isinstance(value, list) else value


_Span = tuple[int, int]


def _markdown(result: Any, options: ParsingOptions) -> tuple[str, dict[str, Any], list[_Span | None]]:
    """Return the result of the library's `_to_markdown` (text, pictures by path) and the span of each block.

    Spans are offsets into the stripped text. A block that is not in the text has None.
    """
    from paddlex.inference.common.result.converter import MarkdownConverter

    pieces: list[str] = []

    def record(write: Any) -> Any:
        def write_and_record(block: Any) -> str:
            pieces.append(write(block))
            return pieces[-1]

        return write_and_record

    writers = result._build_handle_funcs_dict(pretty=options.prettify_markdown)
    converted = MarkdownConverter.convert(
        result["parsing_res_list"],
        handle_funcs_dict={label: record(write) for label, write in writers.items()},
        show_formula_number=options.show_formula_number,
        imgs_in_doc=result["imgs_in_doc"],
    )
    text: str = converted["markdown_texts"]
    markdown = text.strip()
    blank = len(text) - len(text.lstrip())
    spans: list[_Span | None] = []
    written_pieces, end = iter(pieces), 0
    for block in result["parsing_res_list"]:
        if block.label not in writers:
            spans.append(None)
            continue
        start = end + len(_BETWEEN) * (end > 0)
        end = start + len(next(written_pieces))
        spans.append((min(max(start - blank, 0), len(markdown)), min(max(end - blank, 0), len(markdown))))
    return text, converted["markdown_images"], spans


def _block(order: int, block: dict[str, Any], figure: str | None, markdown_span: _Span | None) -> Block:
    label, content = block["block_label"], block["block_content"].strip()
    text = table_text(content) if label == "table" else content
    left, top, right, bottom = block["block_bbox"]
    box: Box = (int(left), int(top), int(right), int(bottom))
    polygon = block.get("block_polygon_points")
    return Block(
        label=label,
        text=text,
        content=content if content != text else None,
        bbox=box,
        order=order,
        polygon=[(float(x), float(y)) for x, y in polygon] if polygon else None,
        group=block["group_id"],
        figure=figure,
        markdown_span=markdown_span,
    )


def _on_original_page(block: Block, rotation: int, width: int, height: int) -> Block:
    """Map a block from the page turned upright (`width` x `height`) to the page as submitted."""
    left, top, right, bottom = block.bbox
    corners = [_original_point(x, y, rotation, width, height) for x, y in ((left, top), (right, bottom))]
    (x1, x2), (y1, y2) = (sorted(map(int, axis)) for axis in zip(*corners, strict=True))
    polygon = block.polygon and [_original_point(x, y, rotation, width, height) for x, y in block.polygon]
    return block.model_copy(update={"bbox": (x1, y1, x2, y2), "polygon": polygon})


def _original_point(x: float, y: float, rotation: int, width: int, height: int) -> tuple[float, float]:
    match rotation:
        case 90:
            return height - y, x
        case 180:
            return width - x, height - y
        case 270:
            return y, width - x
        case _:
            return x, y
