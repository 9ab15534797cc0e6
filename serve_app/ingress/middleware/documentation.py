"""/docs, /redoc and /openapi.json: served from here, for browsers that see nothing but this service."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from serve_app.ingress.middleware.request_scope import path_of

_PATHS = ("/docs", "/redoc", "/openapi.json", "/static-offline-docs")
# Swagger UI and ReDoc write scripts and styles into their pages; ReDoc would fetch its logo from its makers.
_POLICY = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; worker-src blob:"


class ErrorField(BaseModel):
    field: str
    message: str


class ErrorBody(BaseModel):
    code: str
    message: str
    request_id: str
    fields: list[ErrorField] | None = None


class ErrorAnswer(BaseModel):
    """Every error, whatever its status."""

    error: ErrorBody


def documented_app(*, title: str, version: str, description: str, lifespan: Lifespan[FastAPI]) -> FastAPI:
    """A FastAPI application whose documentation tells of the key and of the one shape of errors."""
    app = FastAPIOffline(
        title=title,
        version=version,
        description=description,
        lifespan=lifespan,
        swagger_ui_oauth2_redirect_url="/docs/oauth2-redirect",
        responses={"default": {"model": ErrorAnswer, "description": "An error"}},
    )
    app.docs_url = "/docs"  # for the Ray dashboard's link
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        components = schema.setdefault("components", {})
        # Authentication is a middleware, which runs before any body is read, so FastAPI knows nothing of it.
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        schema["security"] = [{"bearer": []}, {"header": []}]
        # FastAPI's own form of validation errors, which never leaves this service.
        for name in ("HTTPValidationError", "ValidationError"):
            components.get("schemas", {}).pop(name, None)
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def is_documentation(path: str) -> bool:
    """Whether a path, below the route prefix, is the documentation or what its pages load."""
    return any(path == page or path.startswith(f"{page}/") for page in _PATHS)


class DocumentationPolicy:
    """ASGI middleware: the documentation's pages load nothing from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_documentation(path_of(scope)):
            await self._app(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        await self._app(scope, receive, send_with_policy)
