"""Turns validation errors into messages of this service. Text of pydantic never reaches a client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from serve_app.errors import FieldError, InvalidField

LONGEST_NAME = 100
"""No field has a longer name, in characters."""


def field_error(field: str, message: str) -> InvalidField:
    """Make the error for one field."""
    name = _field_name(field)
    return InvalidField(f"{name}: {message}", fields=(FieldError(name, message),))


def fields_error(error: ValidationError, model: type[BaseModel]) -> InvalidField:
    """Make the error for a body that does not match `model`, with a message for each field."""
    problems: dict[str, str] = {}
    for problem in _without_consequences(error.errors(include_url=False, include_input=False)[:20]):
        path = _FieldPath(model, problem["loc"])
        message = _PROBLEMS.get(problem["type"], "is not valid").format(**problem.get("ctx", {}))
        # To compare a name takes time and memory for each of its characters, and that of an unknown field may have millions.
        may_be_misspelt = problem["type"] == "extra_forbidden" and len(path.last) <= LONGEST_NAME
        if may_be_misspelt and (similar := get_close_matches(path.last, path.siblings, n=1)):
            message += f"; did you mean '{similar[0]}'?"
        # Two problems have no name: one of several fields together, and a field whose name is not valid Unicode.
        name = _field_name(path.name or ("" if problem["type"] == "value_error" else "?"))
        # For a field of a union type pydantic reports each alternative; one message with the description replaces them.
        if path.is_within_value or name in problems:
            message = f"is not valid; it is the {_describe(path.field, path.last)}"
        problems[name] = message
    fields = tuple(FieldError(name, message) for name, message in problems.items())
    texts = [f"{name}: {message}" if name else message for name, message in problems.items()]
    return InvalidField("; ".join(texts), fields=fields)


def _without_consequences(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out that a list is too short if one of its items is not valid: pydantic does not count such items."""
    outer = {problem["loc"][:length] for problem in problems for length in range(len(problem["loc"]))}
    return [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in outer]


def parameters_error(error: RequestValidationError) -> InvalidField:
    """Make the error for path parameters, query parameters or headers that are not valid."""
    problems = {}
    for problem in error.errors()[:20]:
        name = _field_name(str(problem["loc"][-1]))
        problems[name] = _PROBLEMS.get(problem["type"], "is not valid").format(**problem.get("ctx", {}))
    fields = tuple(FieldError(name, message) for name, message in problems.items())
    return InvalidField("; ".join(f"{name}: {message}" for name, message in problems.items()), fields=fields)


class _FieldPath:
    """The field that a validation error is about.

    `name` is the dotted path as the client wrote it and `last` its last part. `field` is the model's field, or None if it
    has no such field, and `siblings` are the names of all fields beside it. `is_within_value` is set if the error is about
    a part of the field's value.
    """

    def __init__(self, model: type[BaseModel], location: Sequence[int | str]) -> None:
        names: list[str] = []
        models: list[type[BaseModel]] = [model]
        self.field: FieldInfo | None = None
        self.siblings: list[str] = []
        self.is_within_value = False
        for part in location:
            if isinstance(part, int) and names:
                names.append(str(part))
                continue
            found = _field(models, part)
            if found is None and not models:
                self.is_within_value = True
                break
            self.siblings = [field.alias or name for each in models for name, field in each.model_fields.items()]
            names.append(str(part) if found is None else found.alias or str(part))
            self.field = found
            models = [] if found is None else list(_models_in(found.annotation))
        self.name = ".".join(names)
        self.last = names[-1] if names else ""


def _field(models: Iterable[type[BaseModel]], part: int | str) -> FieldInfo | None:
    for model in models:
        for name, field in model.model_fields.items():
            if part in (name, field.alias):
                return field
    return None


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _describe(field: FieldInfo | None, name: str) -> str:
    """Return a field's description with a lower-case first letter, for use within a sentence."""
    description = (field.description if field is not None else None) or name
    return description[0].lower() + description[1:]


_PROBLEMS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "string_too_long": "may have at most {max_length} characters",
    "string_unicode": "is not valid Unicode",
    "string_pattern_mismatch": "has characters that are not allowed",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "int_from_float": "must be a whole number",
    "finite_number": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "enum": "must be one of: {expected}",
    "literal_error": "must be one of: {expected}",
    "tuple_type": "must be a list",
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "too_long": "may have at most {max_length} items",
    "too_short": "must have at least {min_length} item(s)",
    "value_error": "{error}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _field_name(field: str) -> str:
    """Make a field name sent by a client safe to repeat: short, and without lone surrogates."""
    printable = field.encode("utf-8", "replace").decode()
    return printable if len(printable) <= 100 else f"{printable[:100]}…"
