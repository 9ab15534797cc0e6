"""Authentication by API key. Needs only headers, and runs before any of the body is read."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.errors import Unauthorized
from serve_app.ingress.keys import KeyRing

# Existing clients use each of these: `Bearer X`, `token X` and `X-API-Key: X`.
_SCHEMES = ("bearer", "token")


class Authentication:
    """ASGI middleware that refuses requests without a valid key, and sets `scope["state"]["key_name"]`.

    A request without a key may pass on open paths; its `key_name` is None. A wrong key is refused there too.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, is_open: Callable[[Scope], bool]) -> None:
        """`is_open` decides from the scope whether a request is served without a key."""
        self._app = app
        self._keys = keys
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            presented = _presented_key(Headers(scope=scope))
            name = self._keys.name_of(presented) if presented else None
            if name is None and (presented or not self._is_open(scope)):
                raise Unauthorized
            scope.setdefault("state", {})["key_name"] = name
        await self._app(scope, receive, send)


def _presented_key(headers: Headers) -> bytes | None:
    """Return the key as the bytes that were sent; Starlette decodes headers as latin-1."""
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() in _SCHEMES and credentials.strip():
        return credentials.strip().encode("latin-1")
    key = headers.get("x-api-key")
    return key.strip().encode("latin-1") if key else None
