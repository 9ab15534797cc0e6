"""The body of errors: {"error": {"code", "message", "request_id", "fields"?}}, plus PaddleX's fields for its clients."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.types import Scope

from serve_app.errors import ServiceError, Unauthorized, UploadStalled
from serve_app.ingress.middleware.request_scope import OFFICIAL_JOBS, is_paddlex, path_of, request_id_of


def error_response(error: ServiceError, scope: Scope) -> JSONResponse:
    request_id = request_id_of(scope)
    scope["state"]["error_code"] = error.code
    body: dict[str, object] = {"code": error.code, "message": error.message, "request_id": request_id}
    if error.fields:
        body["fields"] = [{"field": field.field, "message": field.message} for field in error.fields]
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UploadStalled):
        headers["Connection"] = "close"
    content: dict[str, object] = {"error": body}
    if is_paddlex(scope):
        log_id = scope["state"].get("log_id", request_id)
        content = {"logId": log_id, "errorCode": error.status, "errorMsg": error.message, **content}
    if path_of(scope).startswith(OFFICIAL_JOBS):
        status = 400 if error.status in (413, 415, 422) else error.status
        content = {"code": status, "msg": error.message, **content}
        return JSONResponse(content, status_code=status, headers=headers)
    return JSONResponse(content, status_code=error.status, headers=headers)
