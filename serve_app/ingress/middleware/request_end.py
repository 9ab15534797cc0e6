"""Counts each request at its end."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.metrics.catalogue import REQUESTS


class RequestEnd:
    """Outermost ASGI middleware: counts requests by the name of their key, status, and the code of the error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "none"  # the client left, or the service stopped

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            state = scope.get("state", {})
            REQUESTS.inc(key=state.get("key_name") or "", status=status, reason=state.get("error_code", ""))
