"""POST /ocr: recognizes one document."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from serve_app.document import Document
from serve_app.errors import Unauthorized
from serve_app.ingress.context import Context, context_of, request_deadline
from serve_app.ingress.idempotency.replay import respond_once
from serve_app.ingress.requests.body import Body, read_body
from serve_app.ingress.requests.document_fields import OcrForm, OcrRequest
from serve_app.ingress.requests.document_request import document_request
from serve_app.ingress.requests.negotiation import negotiate_format
from serve_app.ingress.requests.schema import IDEMPOTENCY_KEY, inline_references
from serve_app.ingress.requests.submission import Submission, submission_of
from serve_app.ingress.responses.document_events import EventStream
from serve_app.ingress.responses.files import document_response
from serve_app.ingress.routes import paddlex
from serve_app.outputs.formats import MEDIA_TYPES, STREAMED, OutputFormat
from serve_app.paddlex.requests import LinesRequest
from serve_app.pipeline.document_run import DocumentRun
from serve_app.pipeline.timings import Timings

router = APIRouter(tags=["ocr"])


def _body_schema() -> dict[str, Any]:
    # `read_body` reads the body, within limits; this describes it for the documentation.
    json_schema = {"anyOf": [inline_references(kind.model_json_schema()) for kind in (OcrRequest, LinesRequest)]}
    form_schema = inline_references(OcrForm.model_json_schema())
    form_schema["properties"]["options"] = {
        "type": "string",
        "description": f'{form_schema["properties"]["options"]["description"]}: `{{"useChartRecognition": true}}`',
    }
    for name, field in form_schema["properties"].items():
        if name != "file":
            field["example"] = ""  # an empty field counts as absent; Swagger UI would send made-up values
    return {
        "parameters": [IDEMPOTENCY_KEY],
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
        },
    }


@router.post(
    "/ocr",
    summary="Recognize a document",
    response_model=Document,
    responses={
        200: {
            "content": {media_type: {} for kind, media_type in MEDIA_TYPES.items() if kind is not OutputFormat.JSON},
            "description": "The document, in the format that `output` or `Accept` selects",
        }
    },
    openapi_extra=_body_schema(),
)
async def ocr(request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    """Send one document as `image_base64`, `image_url` or the multipart file `file`.

    Accepts PDF, TIFF, JPEG, PNG, BMP, WebP and GIF (first frame). The response is JSON, unless `output`
    or `Accept` selects another format. If a page cannot be read, it has an `error`, the other pages are
    returned, and `status` is `partial` (also in the header `X-Document-Status`).

    `application/x-ndjson` and `text/event-stream` send each page as soon as it is done, in any order: the
    events are `start` (`id`, `page_count`, `pages`), `page` (`progress`, `page`, perhaps `images`) and at the
    end `document` (everything except pages and their text) or `error` (`code`, `message`).

    With an `Idempotency-Key`, a request that is repeated within a day gets the first one's response.
    """
    timings = Timings()
    limits = context.settings.limits
    with ExitStack() as resources:
        resources.enter_context(context.admission.slot())
        async with request_deadline(context):
            body = await read_body(request, max_bytes=int(limits.body_mb * 1e6), stall_s=limits.stall_s)
        if paddlex.is_paddlex_ocr(body):
            paddlex.use_dialect(request, body)
            respond = partial(paddlex.ocr, request, context, body, timings)
        elif request.state.key_name is None:
            raise Unauthorized  # only PaddleX's API may be open to requests without a key
        else:
            respond = partial(_respond, request, context, body, timings)
        return await respond_once(request, context, body, resources, respond)


async def _respond(request: Request, context: Context, body: Body, timings: Timings, resources: ExitStack) -> Response:
    async with request_deadline(context, spent_s=timings.elapsed_s):
        submission = await submission_of(body, OcrRequest)
        run = resources.enter_context(await _open(submission, request.state.key_name, context, timings))
    output = submission.request.output or negotiate_format(request.headers.get("accept", ""))
    options = submission.request.output_options()
    del submission  # its file may be large
    if output in STREAMED:
        return EventStream(run, MEDIA_TYPES[output], resources.pop_all(), include_images=options.include_images)
    summary = await run.read_all()
    rendered = await run.renderer.render(output, summary, options)
    return document_response(rendered, output, summary, resources, pages=len(run.numbers), failed=run.collector.failed)


async def _open(submission: Submission[OcrRequest], key_name: str, context: Context, timings: Timings) -> DocumentRun:
    requested = document_request(submission.request, context.settings.engines)
    timings.add_elapsed("receive")
    source = submission.source
    if source is None:
        assert submission.request.image_url is not None
        with timings.measure("fetch"):
            source = await context.fetcher.fetch(submission.request.image_url)
    return await context.documents.open(source, requested, owner=key_name, timings=timings)
