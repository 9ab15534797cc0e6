"""Counts each request at its end, and logs a line about it."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.ingress.middleware.request_scope import PROBES, path_of
from serve_app.metrics.catalogue import REQUESTS
from serve_app.runtime.end_line import end_line, facts_collected, word

log = logging.getLogger("ray.serve.ingress")

MAX_LOGGED_PATH = 200

_POLLED = re.compile(r"(/|/health|/jobs(/[^/]+)?|/api/v2/ocr/jobs/[^/]+)")
"""Paths that clients ask for again and again."""


class RequestEnd:
    """Outermost ASGI middleware. Requests that only look are logged at the level DEBUG, everything else at INFO.

    Keys are never logged, and queries are not either: those of links have signatures.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = "none"  # the client left, or the service stopped
        received = sent = 0

        async def receive_and_note() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_and_note(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = str(message["status"])
            sent += len(message.get("body", b""))
            await send(message)

        with facts_collected():
            try:
                await self._app(scope, receive_and_note, send_and_note)
            finally:
                state: dict[str, Any] = scope.get("state", {})
                key, reason = state.get("key_name") or "", state.get("error_code", "")
                REQUESTS.inc(key=key, status=status, reason=reason)
                path = path_of(scope)
                log.log(
                    logging.DEBUG if _only_looks(scope["method"], path, status) else logging.INFO,
                    "%s %s %s: %s",
                    scope["method"],
                    word(path[:MAX_LOGGED_PATH]),
                    status,
                    end_line(
                        key=key or None,
                        error=reason or None,
                        ms=round((time.perf_counter() - started) * 1000),
                        bytes_in=received,
                        bytes_out=sent,
                    ),
                )


def _only_looks(method: str, path: str, status: str) -> bool:
    """Whether a request is a probe, whatever the response, or asks successfully how something is."""
    return method == "GET" and (path in PROBES or (status == "200" and _POLLED.fullmatch(path) is not None))
