"""The one shape of errors: {"error": {"code", "message", "request_id", "fields"?}}."""

from __future__ import annotations

from fastapi.responses import JSONResponse

from serve_app.errors import ServiceError, Unauthorized, UploadStalled


def error_response(error: ServiceError, request_id: str) -> JSONResponse:
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
    return JSONResponse({"error": body}, status_code=error.status, headers=headers)
