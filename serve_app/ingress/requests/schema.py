"""OpenAPI descriptions of bodies and headers that routes read themselves, so that FastAPI does not know them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def inline_references(schema: dict[str, Any]) -> dict[str, Any]:
    """Replace references in a schema by their definitions, which an OpenAPI document would not have."""
    definitions = schema.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, list):
            return [inline(each) for each in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inline(definitions[part["$ref"].rpartition("/")[2]])
        return {name: inline(each) for name, each in part.items()}

    whole: dict[str, Any] = inline(schema)
    return whole


IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "Makes a retry safe: for a day, a repeated request with the same key gets the first one's response",
}
"""A parameter for `openapi_extra`, since routes read this header themselves."""


def body_of(json: type[BaseModel], form: type[BaseModel]) -> dict[str, Any]:
    """Make the `openapi_extra` of a route that reads its body itself: JSON, or a form whose `file` is the document."""
    form_schema = inline_references(form.model_json_schema())
    form_schema["properties"]["file"] = {"type": "string", "format": "binary", "description": "The document as a file"}
    content = {"multipart/form-data": {"schema": form_schema}}
    content["application/json"] = {"schema": inline_references(json.model_json_schema())}
    return {"parameters": [IDEMPOTENCY_KEY], "requestBody": {"required": True, "content": content}}
