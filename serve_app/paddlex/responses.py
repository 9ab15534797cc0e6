"""Answers in PaddleX's form, written page by page."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from serve_app.document import ErrorInfo, NativePage, Page
from serve_app.document.figures import OVERLAYS, PICTURES, local_figure_path, with_local_figures
from serve_app.document.spool import PageSpool
from serve_app.paddlex.exports import Exports
from serve_app.paddlex.pages import as_paddlex_page, failed_page, ocr_result
from serve_app.paddlex.requests import LayoutParsingFields, LinesFields, RestructureRequest

Picture = Callable[[str], str]
"""What stands in an answer for a picture of the spool, by its path: its bytes as base64, or a URL."""


def inline_picture(spool: PageSpool, path: str) -> str:
    return base64.b64encode(spool.figure(path) or b"").decode()


def layout_parsing_results(
    asked: LayoutParsingFields,
    spool: PageSpool,
    restructured: Sequence[NativePage] | None,
    picture: Picture,
    exports: Exports,
) -> Iterator[dict[str, Any]]:
    """`layoutParsingResults`, a page at a time.

    `restructured`: the pages that were read, in order, where they were made of one piece.
    """
    pieces = iter(restructured) if restructured is not None else None
    for page in _pages(spool):
        if page.error is not None:
            # Pages are found by their place, so there is one for it.
            yield _failed(page, {"markdown": {"text": "", "images": {}}})
            continue
        paddlex = next(pieces) if pieces is not None else paddlex_page(page, spool, asked)
        paths = [path for path in spool.figures_of(page.number) if not path.startswith((OVERLAYS, PICTURES))]
        figures = {local_figure_path(path, page.number): path for path in paths}
        images = {name: picture(path) for name, path in figures.items()} if asked.return_markdown_images else {}
        result: dict[str, Any] = {
            "prunedResult": paddlex.result,
            "markdown": {"text": paddlex.markdown, "images": images},
        }
        if asked.visualize:
            overlay = f"{OVERLAYS}page-{page.number}.jpg"
            if overlay in spool.figures_of(page.number):
                result["outputImages"] = {"layout_det_res": picture(overlay)}
            input_image = f"{PICTURES}page-{page.number}.jpg"
            if input_image in spool.figures_of(page.number):
                result["inputImage"] = picture(input_image)
        yield result | exports.of(page.number)


def ocr_results(
    asked: LinesFields, spool: PageSpool, picture: Picture, *, preprocessed: bool
) -> Iterator[dict[str, Any]]:
    """`ocrResults`, a page at a time; `preprocessed` as in `ocr_result`."""
    words, least_score = bool(asked.return_word_box), asked.text_rec_score_thresh or 0.0
    for page in _pages(spool):
        pruned = ocr_result(page, return_word_box=words, least_score=least_score, preprocessed=preprocessed)
        result: dict[str, Any] = {"prunedResult": pruned}
        if page.error is not None:
            result = _failed(page, {}) | {"prunedResult": pruned}
        elif asked.visualize:
            for name, folder in (("ocrImage", OVERLAYS), ("inputImage", PICTURES)):
                path = f"{folder}page-{page.number}.jpg"
                if path in spool.figures_of(page.number):
                    result[name] = picture(path)
        yield result


def write_pages(
    name: str,
    results: Iterator[dict[str, Any]],
    spool: PageSpool,
    *,
    kind: str,
    warnings: Sequence[ErrorInfo] = (),
    log_id: str,
    to: BinaryIO,
) -> None:
    """The answer of /layout-parsing or /ocr: `results` as `name`. `kind` is what the file is, by `sniff`.

    `warnings`, which only this service has, tell what the document as a whole lacks.
    """
    more: dict[str, Any] = {"dataInfo": data_info(spool, kind)}
    if warnings:
        more["warnings"] = [warning.model_dump() for warning in warnings]
    _write_envelope(name, results, log_id, more, to)


def write_lines(name: str, results: Iterator[dict[str, Any]], spool: PageSpool, *, kind: str, to: BinaryIO) -> None:
    """The result of a job: a line of JSON for each page; the first one has what is said of the document."""
    more: dict[str, Any] = {"dataInfo": data_info(spool, kind)}
    for result in results:
        to.write(_json({"result": {name: [result], **more}}) + b"\n")
        more = {}


def write_restructured(
    asked: RestructureRequest,
    restructured: Sequence[NativePage],
    images: Sequence[dict[str, str]],
    exports: Exports,
    *,
    log_id: str,
    to: BinaryIO,
) -> None:
    """The answer of /restructure-pages; `images` are those of each page, by the paths that its Markdown links."""

    def results() -> Iterator[dict[str, Any]]:
        for number, (paddlex, of_page) in enumerate(zip(restructured, images, strict=True), 1):
            shown = of_page if asked.return_markdown_images else {}
            markdown = {"text": paddlex.markdown, "images": shown}
            yield {"prunedResult": paddlex.result, "markdown": markdown} | exports.of(number)

    _write_envelope("layoutParsingResults", results(), log_id, {}, to)


def images_of(asked: RestructureRequest) -> list[dict[str, str]]:
    """The pictures of each page of the answer; of one for all, where two have the same name, the last one."""
    given = [page.markdown_images or {} for page in asked.pages]
    return [{path: image for images in given for path, image in images.items()}] if asked.concatenate_pages else given


def paddlex_page(page: Page, spool: PageSpool, asked: LayoutParsingFields) -> NativePage:
    """A page that was read, in PaddleX's form, with figures by their own names."""
    paddlex = spool.native(page.number)
    if paddlex is None:
        named = with_local_figures(page, spool.figures_of(page.number))
        paddlex = as_paddlex_page(named, ignore_labels=asked.markdown_ignore_labels, pretty=asked.prettify_markdown)
    return paddlex


def pages_read(spool: PageSpool, asked: LayoutParsingFields) -> list[NativePage]:
    """All pages that did not fail, in PaddleX's form."""
    return [paddlex_page(page, spool, asked) for page in _pages(spool) if page.error is None]


def _pages(spool: PageSpool) -> Iterator[Page]:
    return (Page.model_validate_json(page) for page in spool.pages_as_json())


def _failed(page: Page, also: dict[str, Any]) -> dict[str, Any]:
    assert page.error is not None
    return {"prunedResult": failed_page(), **also, "error": {"code": page.error.code, "message": page.error.message}}


def data_info(spool: PageSpool, kind: str) -> dict[str, Any]:
    sizes = [{"width": page.width, "height": page.height} for page in spool.pages()]
    if kind == "PDF" or (kind == "TIFF" and len(sizes) > 1):
        return {"numPages": len(sizes), "pages": sizes, "type": kind.lower()}
    return {**sizes[0], "type": "image"}


def _write_envelope(
    name: str, results: Iterator[dict[str, Any]], log_id: str, more: dict[str, Any], to: BinaryIO
) -> None:
    to.write(b'{"logId":' + _json(log_id) + b',"result":{"' + name.encode() + b'":[')
    for index, result in enumerate(results):
        to.write(b"," * (index > 0) + _json(result))
    to.write(b"]")
    for key, value in more.items():
        to.write(b"," + _json(key) + b":" + _json(value))
    to.write(b'},"errorCode":0,"errorMsg":"Success"}')


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
