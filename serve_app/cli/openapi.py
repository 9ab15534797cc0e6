"""`python -m serve_app openapi`: writes docs/openapi.json, the description of the HTTP API."""

from __future__ import annotations

import json

from serve_app import __version__


def openapi_document(version: str = __version__) -> str:
    """Return the OpenAPI document as JSON. Its version is the major one, so that only a change of the API changes it."""
    # Imported here, as it imports Ray, which `serve` must configure before that.
    from serve_app.ingress.deployment import create_api

    document = create_api().openapi()
    document["info"]["version"] = version.partition(".")[0]
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"
