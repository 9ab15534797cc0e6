"""Refuses unknown query parameters, as unknown fields of bodies are refused."""

from __future__ import annotations

from difflib import get_close_matches

from fastapi import Request
from fastapi.routing import APIRoute

from serve_app.ingress.requests.validation_errors import field_error


def known_query_only(request: Request) -> None:
    """Raise InvalidField for an unknown query parameter. A dependency for routers."""
    route = request.scope["route"]
    if not isinstance(route, APIRoute):
        return
    known = [field.alias for field in route.dependant.query_params]
    for name in request.query_params:
        if name not in known:
            similar = get_close_matches(name, known, n=1)
            hint = ""
            if similar:
                hint = f"; did you mean '{similar[0]}'?"
            elif "requestBody" in (route.openapi_extra or {}):
                hint = "; send options as fields of the body"
            raise field_error(name, f"is not a known query parameter{hint}")
