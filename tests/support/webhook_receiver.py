"""A web server that webhooks are sent to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType

HOST = "127.0.0.2"


@dataclass(frozen=True)
class Heard:
    """A POST, with its headers in lower case and the clock's time in seconds."""

    headers: dict[str, str]
    body: bytes
    at: float


class WebhookReceiver:
    """Keeps what is posted in `heard`. Answers the first one with 500, the others with 204. Usable as a context manager."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                at = time.time()
                body = self.rfile.read(int(self.headers["Content-Length"]))
                heard.append(Heard({name.lower(): value for name, value in self.headers.items()}, body, at))
                self.send_response(500 if len(heard) == 1 else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_address[1]}/hook"

    def __enter__(self) -> WebhookReceiver:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
