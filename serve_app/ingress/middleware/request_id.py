"""Request ids: one per request, in the response's `X-Request-ID`, in its error and in each log line."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import InvalidRequestId
from serve_app.ingress.middleware.error_shape import error_response
from serve_app.ingress.middleware.request_scope import request_id_of
from serve_app.runtime.request_context import use_request_id

_VALID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestId:
    """ASGI middleware: uses the client's id, refuses a malformed one, and generates one if there is none.

    Ray Serve's proxy already generates the id and adds it to the response and the log context. This adds the header
    only to responses of requests that did not come through the proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).getlist("x-request-id")
        if len(sent) > 1 or (sent and not _VALID.fullmatch(sent[0])):
            use_request_id(request_id_of(scope))  # in the log, instead of the client's
            await error_response(InvalidRequestId(), scope)(scope, receive, send)
            return
        if sent:
            scope.setdefault("state", {})["request_id"] = sent[0]
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)
