"""Every error a client may see: a status, a stable code and a message for whoever can act on it.

A message never holds a path, an address, a stack trace or a library's own text; those go to the log.
Between deployments errors travel as values, not as raised exceptions: Serve would log each one with
a traceback, and an error of one page must not fail its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class FieldError:
    """One field of a request that was refused; `field` is a dotted path ("dpi", "pages.0")."""

    field: str
    message: str


class ServiceError(Exception):
    """Base of all errors that reach a client; `str(error)` is the public message."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    default_message: ClassVar[str] = "The service failed; the log has the details under this request's id."

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_s: int | None = None,
        fields: tuple[FieldError, ...] = (),
    ) -> None:
        super().__init__(message or self.default_message)
        self.retry_after_s = retry_after_s
        self.fields = fields

    @property
    def message(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions drop keyword arguments when pickled; these must survive the trip between replicas.
        return (_rebuild, (type(self), self.message, self.retry_after_s, self.fields))


def _rebuild(
    kind: type[ServiceError], message: str, retry_after_s: int | None, fields: tuple[FieldError, ...]
) -> ServiceError:
    return kind(message, retry_after_s=retry_after_s, fields=fields)


# 400, 401, 403, 404, 405, 408, 410: the request itself


class InvalidRequest(ServiceError):
    status, code, default_message = 400, "invalid_request", "The request could not be read."


class InvalidBase64(ServiceError):
    status, code, default_message = 400, "invalid_base64", "The document is not valid base64."


class InvalidRequestId(ServiceError):
    status, code = 400, "invalid_request_id"
    default_message = "X-Request-ID may hold up to 128 letters, digits, dots, hyphens and underscores."


class InvalidUrl(ServiceError):
    status, code, default_message = 400, "invalid_url", "The URL is not valid."


class SchemeNotAllowed(ServiceError):
    status, code, default_message = 400, "scheme_not_allowed", "Only http and https URLs are fetched."


class Unauthorized(ServiceError):
    status, code = 401, "unauthorized"
    default_message = "A valid API key is needed: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."


class UrlForbidden(ServiceError):
    status, code = 403, "url_forbidden"
    default_message = "The URL points to an address that this service does not fetch from."


class LinkInvalid(ServiceError):
    status, code, default_message = 403, "link_invalid", "This link was not made by this service, or was changed."


class IdempotencyMismatch(ServiceError):
    status, code = 422, "idempotency_mismatch"
    default_message = "This Idempotency-Key was used with another request."


class RequestRunning(ServiceError):
    status, code = 409, "request_running"
    default_message = "The first request with this Idempotency-Key is still being answered."


class JobGone(ServiceError):
    status, code, default_message = 410, "job_gone", "This job and its results are deleted."


class JobNotDone(ServiceError):
    status, code, default_message = 409, "job_not_done", "This job is not done yet."


class JobHasNoResult(ServiceError):
    """It is at its end, and never will have one."""

    status, code, default_message = 409, "job_has_no_result", "This job has ended without a result."


class LinkExpired(ServiceError):
    status, code, default_message = 410, "link_expired", "This link was for a time that is over."


class NotFound(ServiceError):
    status, code, default_message = 404, "not_found", "There is nothing at this address."


class MethodNotAllowed(ServiceError):
    status, code, default_message = 405, "method_not_allowed", "This address does not take this HTTP method."


class UploadStalled(ServiceError):
    status, code, default_message = 408, "upload_stalled", "The request's body stopped arriving."


# 413, 415, 422: the document


class TooLarge(ServiceError):
    status, code, default_message = 413, "too_large", "The document is larger than this service takes."


class TooManyPages(ServiceError):
    status, code, default_message = 413, "too_many_pages", "The document has more pages than this service takes."


class UnsupportedMediaType(ServiceError):
    status, code = 415, "unsupported_media_type"
    default_message = "This kind of file is not supported."


class InvalidField(ServiceError):
    status, code, default_message = 422, "invalid_field", "A field of the request is not valid."


class EmptyDocument(ServiceError):
    status, code, default_message = 422, "empty_document", "The document is empty."


class CorruptDocument(ServiceError):
    status, code, default_message = 422, "corrupt_document", "The document is damaged and could not be read."


class PasswordRequired(ServiceError):
    status, code, default_message = 422, "password_required", "The document is encrypted: a password is needed."


class UrlFetchFailed(ServiceError):
    status, code, default_message = 422, "url_fetch_failed", "The document could not be fetched from the URL."


# 5xx: the service


class RecognitionFailed(ServiceError):
    status, code, default_message = 500, "recognition_failed", "The page could not be recognized."


class QueueFull(ServiceError):
    status, code, default_message = 503, "queue_full", "The service is at its limit; try again shortly."


class ServiceUnavailable(ServiceError):
    status, code = 503, "service_unavailable"
    default_message = "A part of the service is not available; try again shortly."


class EngineLoading(ServiceError):
    status, code, default_message = 503, "engine_loading", "The OCR engine is still loading; try again shortly."


class EngineFailed(ServiceError):
    """It could not be loaded; another replica's may have been."""

    status, code, default_message = 503, "engine_unavailable", "The OCR engine is not available."


class VlmServerAway(ServiceError):
    status, code = 503, "vlm_server_away"
    default_message = "The inference server that the OCR engine works with is not available; try again shortly."


# The engine can read nothing just now, whatever the page: its fallback may, where it has one.
ENGINE_UNAVAILABLE = (EngineLoading, EngineFailed, VlmServerAway)


class PageTimeout(ServiceError):
    status, code, default_message = 504, "page_timeout", "A page took longer than the limit for one page."


class RequestTimeout(ServiceError):
    status, code, default_message = 504, "request_timeout", "The request took longer than the limit."


class DocumentTimeout(ServiceError):
    status, code = 504, "document_timeout"
    default_message = "The document took longer than the limit; this page was not read."


NO_ROOM_RETRY_AFTER_S = 30

_OF_DOCUMENTS: dict[str, type[ServiceError]] = {
    error.code: error
    for error in (
        *(CorruptDocument, EmptyDocument, PasswordRequired, TooLarge, TooManyPages, UnsupportedMediaType),
        ServiceUnavailable,
    )
}


def document_error(code: str, message: str) -> ServiceError:
    """What a process of ours that reads a document has said is wrong with it. Raises KeyError for another code."""
    kind = _OF_DOCUMENTS[code]
    return kind(message, retry_after_s=NO_ROOM_RETRY_AFTER_S if kind is ServiceUnavailable else None)
