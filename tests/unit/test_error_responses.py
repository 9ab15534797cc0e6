"""Errors of the framework as responses, and in the lines of their requests."""

from __future__ import annotations

import logging

import httpx
import pytest
from fastapi import FastAPI

from serve_app.ingress.middleware import error_responses
from serve_app.ingress.middleware.request_end import RequestEnd


async def test_a_path_or_method_that_is_not_there_is_logged_with_its_path(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI(openapi_url=None)
    app.get("/health")(lambda: None)
    error_responses.install(app)
    app.add_middleware(RequestEnd)
    with caplog.at_level(logging.INFO, logger="ray.serve.ingress"):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            await client.get("/healthz?key=secret")
            await client.put("/health")
            await client.get("/" + "x%0a" * 10_000)
    nothing, method, long = caplog.messages
    assert nothing.startswith("GET /healthz 404: error=not_found ")
    assert method.startswith("PUT /health 405: error=method_not_allowed ")
    assert long.startswith(r"GET '/x\nx\n") and len(long) < 500 and "\n" not in long, (
        "one line, which a client cannot make longer"
    )
