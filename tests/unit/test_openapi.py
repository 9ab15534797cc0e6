"""docs/openapi.json: the committed description of the HTTP API."""

from __future__ import annotations

import json
from pathlib import Path

from serve_app.cli.openapi import openapi_document

FILE = Path(__file__).parents[2] / "docs/openapi.json"


def test_the_committed_openapi_file_describes_the_routes() -> None:
    assert json.loads(openapi_document()) == json.loads(FILE.read_text()), "run `make openapi` and read the difference"


def test_a_release_that_does_not_change_the_api_does_not_change_the_file() -> None:
    assert openapi_document("2.0.0") == openapi_document("2.13.1") != openapi_document("3.0.0")


def test_every_operation_has_a_summary_and_the_body_of_errors() -> None:
    operations = [each for path in json.loads(openapi_document())["paths"].values() for each in path.values()]
    assert len(operations) > 10
    for operation in operations:
        assert operation["summary"] and not operation["summary"].endswith("."), operation["operationId"]
        schema = operation["responses"]["default"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ErrorResponse"}, operation["operationId"]
