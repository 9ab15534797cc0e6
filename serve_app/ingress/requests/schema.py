"""JSON schemas for the API's documentation."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without references: within an OpenAPI document they would point elsewhere."""
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
    "description": "For a day, requests with the same key are answered as the first one was",
}
"""Of `openapi_extra`: it is read by hand."""


def body_of(json: type[BaseModel], form: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a body that is read by hand: JSON, or a form whose `file` is the document."""
    form_schema = inlined(form.model_json_schema())
    form_schema["properties"]["file"] = {"type": "string", "format": "binary", "description": "The document as a file"}
    content = {"multipart/form-data": {"schema": form_schema}}
    content["application/json"] = {"schema": inlined(json.model_json_schema())}
    return {"parameters": [IDEMPOTENCY_KEY], "requestBody": {"required": True, "content": content}}
