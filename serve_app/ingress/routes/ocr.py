"""POST /ocr: one image in, its typed document out."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic.alias_generators import to_camel

from serve_app.document import Document
from serve_app.errors import FieldError, InvalidField, RequestTimeout
from serve_app.ingress.body import OcrForm, OcrRequest, read_submission
from serve_app.ingress.context import Context, context_of
from serve_app.ingress.negotiation import best_match
from serve_app.options import ParsingOptions, RecognitionOptions
from serve_app.settings import EngineSettings, PaddleOcrVlSettings, TesseractSettings

log = logging.getLogger("ray.serve.ingress")
router = APIRouter(tags=["ocr"])

_JSON, _MARKDOWN, _TEXT = "application/json", "text/markdown", "text/plain"


def _body_schema() -> dict[str, Any]:
    # The body is read by hand, within limits; this tells the documentation what it may be.
    json_schema = _inlined(OcrRequest.model_json_schema())
    form_schema = _inlined(OcrForm.model_json_schema())
    form_schema["properties"]["options"] = {
        "type": "string",
        "description": f'{form_schema["properties"]["options"]["description"]}: `{{"useChartRecognition": true}}`',
    }
    for name, field in form_schema["properties"].items():
        if name != "file":
            field["example"] = ""  # what Swagger UI would fill in by itself is sent; an empty field is as if absent
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form_schema},
                "application/json": {
                    "schema": json_schema,
                    "examples": {
                        "url": {"value": {"image_url": "https://example.com/page.png", "language": "rus+eng"}},
                        "base64": {"value": {"image_base64": "iVBORw0KGgo...", "dpi": 200}},
                    },
                },
                "application/x-www-form-urlencoded": {
                    "schema": {
                        **form_schema,
                        "properties": {k: v for k, v in form_schema["properties"].items() if k != "file"},
                    }
                },
            },
        }
    }


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without references: within an OpenAPI document they would point elsewhere."""
    definitions = schema.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, list):
            return [inline(each) for each in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inline(definitions[part["$ref"].rpartition("/")[2]])
        return {name: inline(each) for name, each in part.items()}

    inlined: dict[str, Any] = inline(schema)
    return inlined


@router.post(
    "/ocr",
    summary="Recognize an image",
    response_model=Document,
    responses={
        200: {"content": {_TEXT: {}, _MARKDOWN: {}}, "description": "The document, in the form that `Accept` asks for"}
    },
    openapi_extra=_body_schema(),
)
async def ocr(request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    """Send one image as `image_base64`, `image_url` or the multipart file `file`.

    JPEG, PNG, WebP, GIF (first frame), BMP and single-page TIFF. `Accept: text/plain` and
    `Accept: text/markdown` give just that; the default is the whole document as JSON.
    """
    started = time.perf_counter()
    limit_s = context.settings.limits.request_s
    with context.admission.place():
        try:
            async with asyncio.timeout(limit_s):
                document = await _read(request, context, started)
        except TimeoutError:
            raise RequestTimeout(f"The request took longer than {limit_s:g} s.") from None
    log.info(
        "document %s: key %r, engine %s, %d page(s), %.0f ms",
        document.id, request.state.key_name, document.engine.name, len(document.pages), document.timings_ms["total"],
    )  # fmt: skip
    return _answer(document, request.headers.get("accept", ""))


async def _read(request: Request, context: Context, started: float) -> Document:
    limits = context.settings.limits
    submission = await read_submission(request, max_bytes=int(limits.body_mb * 1e6), stall_s=limits.stall_s)
    engine = _engine(submission.request, context.settings.engines)
    options = RecognitionOptions(
        languages=_languages(submission.request, engine), parsing=_parsing(submission.request, engine)
    )
    timings_ms = {"receive": (time.perf_counter() - started) * 1000}
    source = submission.source
    if source is None:
        assert submission.request.image_url is not None
        fetch_started = time.perf_counter()
        source = await context.fetcher.fetch(submission.request.image_url)
        timings_ms["fetch"] = (time.perf_counter() - fetch_started) * 1000
    return await context.documents.read(
        source,
        engine=engine.name,
        options=options,
        dpi_hint=submission.request.dpi,
        timings_ms=timings_ms,
        started=started,
    )


def _engine(request: OcrRequest, engines: tuple[EngineSettings, ...]) -> EngineSettings:
    for engine in engines:
        if request.engine in (None, engine.name):
            return engine
    names = ", ".join(engine.name for engine in engines)
    raise _invalid("engine", f"this service has: {names}")


def _languages(request: OcrRequest, engine: EngineSettings) -> tuple[str, ...]:
    """The languages asked for, in the engine's own order: the same set is the same prepared engine."""
    if request.language is None:
        return ()
    if isinstance(engine, PaddleOcrVlSettings):
        return ()  # it reads what there is, and a client that always says a language may go on doing so
    if not isinstance(engine, TesseractSettings):
        raise _invalid("language", f"the engine {engine.name} has no choice of languages")
    known = engine.languages
    asked = [language.strip() for language in request.language.split("+")]
    if not set(asked) <= set(known):
        raise _invalid("language", f"this service reads: {', '.join(known)} (join several with '+')")
    return tuple(language for language in known if language in asked)


def _parsing(request: OcrRequest, engine: EngineSettings) -> ParsingOptions:
    options = request.options
    if options is None:
        return ParsingOptions()
    if not isinstance(engine, PaddleOcrVlSettings):
        raise _invalid("options", f"the engine {engine.name} has no options")
    for name in ("use_doc_orientation_classify", "use_doc_unwarping"):
        if getattr(options, name) and not engine.doc_preprocessor:
            raise _invalid(f"options.{to_camel(name)}", "this service has no model for it ('doc_preprocessor' is off)")
    return options


def _invalid(field: str, message: str) -> InvalidField:
    return InvalidField(f"{field}: {message}", fields=(FieldError(field, message),))


def _answer(document: Document, accept: str) -> Response:
    headers = {"X-Document-ID": document.id}
    match best_match(accept, (_JSON, _TEXT, _MARKDOWN)):
        case "text/plain":
            return PlainTextResponse(document.text, headers=headers)
        case "text/markdown":
            return PlainTextResponse(document.markdown, headers=headers, media_type=_MARKDOWN)
        case _:
            return JSONResponse(document.model_dump(mode="json"), headers=headers)
