"""Turns exceptions into error responses."""

from __future__ import annotations

import logging

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from ray.exceptions import RayActorError, TaskCancelledError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import InvalidRequest, MethodNotAllowed, NotFound, ServiceError, ServiceUnavailable
from serve_app.ingress.middleware.error_shape import error_response
from serve_app.ingress.requests.validation_errors import parameters_error
from serve_app.runtime.end_line import note, word
from serve_app.runtime.temp_dir import log_failure
from serve_app.storage import StoreUnavailable

log = logging.getLogger("ray.serve.ingress")

_BY_STATUS: dict[int, type[ServiceError]] = {404: NotFound, 405: MethodNotAllowed}


class ErrorResponses:
    """ASGI middleware that turns every exception into an error response. Details of unexpected ones go to the log only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except ServiceError as error:
            await error_response(error, scope)(scope, receive, send)
        except StoreUnavailable as error:
            log.error("the store is not available: %s", error)
            if not started:
                unavailable = ServiceUnavailable("The store is not available; try again shortly.", retry_after_s=10)
                await error_response(unavailable, scope)(scope, receive, send)
        except (ClientDisconnect, TaskCancelledError):
            note(left="before its request was read")
        except RayActorError:
            # The pipeline handles the death of other actors, so this is the proxy in front of the ingress.
            log.warning("the proxy died, and with it the client's connection")
        except Exception as error:
            failure = log_failure(log, error, f"unexpected error in {scope['method']} {word(scope['path'])}")
            if not started:
                await error_response(failure, scope)(scope, receive, send)


def install(app: FastAPI) -> None:
    """Send errors of the framework (404, 405, malformed multipart) as this service's error responses."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        kind = _BY_STATUS.get(error.status_code, InvalidRequest if error.status_code < 500 else ServiceError)
        response = error_response(kind(), request.scope)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def parameter_error(request: Request, error: RequestValidationError) -> Response:
        return error_response(parameters_error(error), request.scope)

    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> Response:
        return error_response(error, request.scope)
