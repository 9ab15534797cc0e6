"""Errors of the framework as responses and log lines."""

from __future__ import annotations

import logging

import httpx
import pytest
from fastapi import FastAPI

from serve_app.ingress.middleware import error_responses


async def test_a_path_or_method_that_is_not_there_is_logged_with_its_path(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI(openapi_url=None)
    app.get("/health")(lambda: None)
    error_responses.install(app)
    with caplog.at_level(logging.INFO, logger="ray.serve.ingress"):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            await client.get("/healthz?key=secret")
            await client.put("/health")
            await client.get("/" + "x%0a" * 10_000)
    nothing, method, long = caplog.messages
    assert (nothing, method) == ("GET '/healthz': 404", "PUT '/health': 405")
    assert long.startswith(r"GET '/x\nx\n") and len(long) < 500, "one line, which a client cannot make longer"
