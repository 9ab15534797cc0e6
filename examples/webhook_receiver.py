"""Receives webhooks of PaddleOCR-VL Serve: prints the jobs that have ended, and refuses webhooks that are not genuine.

    export OCR_WEBHOOK_SECRET=whsec_...             # the same as the service's
    python examples/webhook_receiver.py 9000        # then submit jobs with webhook=http://127.0.0.1:9000/

The receiver listens on 127.0.0.1, so the service needs `allowed_private_networks: [127.0.0.0/8]`. It uses only Python's
standard library. The check is that of Standard Webhooks, which has libraries for other languages.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

TOLERANCE_S = 300
"""A signed webhook that is older, or from the future, is refused: somebody may have recorded it and sent it again."""

MAX_BYTES = 1_000_000


def signing_key(secret: str) -> bytes:
    """Return the key in a secret: base64 after `whsec_`; any other text as it is."""
    return base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()


def is_genuine(headers: Mapping[str, str], body: bytes, key: bytes, now: float | None = None) -> bool:
    """Whether the service signed this body, within TOLERANCE_S of `now` (seconds since the epoch).

    `headers`: names in lower case.
    """
    webhook_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not re.fullmatch("[0-9]{1,12}", timestamp):
        return False
    if abs((time.time() if now is None else now) - int(timestamp)) > TOLERANCE_S:
        return False
    mac = hmac.digest(key, f"{webhook_id}.{timestamp}.".encode() + body, "sha256")
    expected = b"v1," + base64.b64encode(mac)
    # While a secret is being replaced, there may be several signatures.
    given = headers.get("webhook-signature", "").encode().split()
    return any(hmac.compare_digest(each, expected) for each in given)


class Receiver(BaseHTTPRequestHandler):
    key: bytes
    seen: set[str]
    """Ids of accepted webhooks: the service sends one again if the response to it is lost."""

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BYTES:
            self.send_error(413)
            return
        body = self.rfile.read(int(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not is_genuine(headers, body, self.key):
            self.send_error(401)
            return
        if headers["webhook-id"] not in self.seen:
            self.seen.add(headers["webhook-id"])
            job = json.loads(body)["job"]
            print(f"job {job['id']}: {job['state']}", flush=True)
        self.send_response(204)  # any 2xx; after any other status, the service tries again
        self.end_headers()


def main() -> None:
    Receiver.key, Receiver.seen = signing_key(os.environ["OCR_WEBHOOK_SECRET"]), set()
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
