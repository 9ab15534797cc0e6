"""/docs, /redoc and /openapi.json. Their scripts and styles come from this service, for browsers without internet."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from serve_app.ingress.middleware.request_scope import path_of

_PATHS = ("/docs", "/redoc", "/openapi.json", "/static-offline-docs")
# Swagger UI and ReDoc need inline scripts and styles; ReDoc would load its logo from the internet.
_POLICY = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; worker-src blob:"


class ErrorField(BaseModel):
    field: str
    message: str


class ErrorBody(BaseModel):
    code: str
    message: str
    request_id: str
    fields: list[ErrorField] | None = None


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorBody


def documented_app(*, title: str, version: str, description: str, lifespan: Lifespan[FastAPI] | None) -> FastAPI:
    """Create a FastAPI application whose OpenAPI document includes authentication and the body of errors."""
    app = FastAPIOffline(
        title=title,
        version=version,
        description=description,
        lifespan=lifespan,
        swagger_ui_oauth2_redirect_url="/docs/oauth2-redirect",
        responses={"default": {"model": ErrorResponse, "description": "Error"}},
        # Serve traces requests already. FastAPI's spans would not be within Serve's, and have the queries of signed links.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.docs_url = "/docs"  # for the Ray dashboard's link
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        components = schema.setdefault("components", {})
        # Authentication is a middleware, so FastAPI does not know of it.
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        schema["security"] = [{"bearer": []}, {"header": []}]
        # FastAPI's default body of validation errors is never sent.
        for name in ("HTTPValidationError", "ValidationError"):
            components.get("schemas", {}).pop(name, None)
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def is_documentation(path: str) -> bool:
    """Whether a path below the route prefix is a documentation page or a file that such a page loads."""
    return any(path == page or path.startswith(f"{page}/") for page in _PATHS)


class DocumentationPolicy:
    """ASGI middleware that keeps documentation pages from loading anything from other hosts."""

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
