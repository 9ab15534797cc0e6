"""What is wrong with the fields of a request, in plain words: never a library's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from serve_app.errors import FieldError, InvalidField


def field_error(field: str, message: str) -> InvalidField:
    """The error of one field."""
    name = _field_name(field)
    return InvalidField(f"{name}: {message}", fields=(FieldError(name, message),))


def fields_error(error: ValidationError, model: type[BaseModel]) -> InvalidField:
    """The error of a body that is not of this model, field by field, in plain words."""
    problems: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_input=False)[:20]:
        place = _FieldPath(model, problem["loc"])
        message = _PROBLEMS.get(problem["type"], "is not valid").format(**problem.get("ctx", {}))
        if problem["type"] == "extra_forbidden" and (meant := get_close_matches(place.last, place.siblings, n=1)):
            message += f"; did you mean '{meant[0]}'?"
        # What is wrong with fields together says so; a name that is no text is none to pydantic.
        name = _field_name(place.name or ("" if problem["type"] == "value_error" else "?"))
        # Below a field with several forms stand names of the library's own for each of them.
        if place.is_within_value or name in problems:
            message = f"is not valid; it is the {_described(place.field, place.last)}"
        problems[name] = message
    fields = tuple(FieldError(name, message) for name, message in problems.items())
    texts = [f"{name}: {message}" if name else message for name, message in problems.items()]
    return InvalidField("; ".join(texts), fields=fields)


def parameters_error(error: RequestValidationError) -> InvalidField:
    """The error of a request whose path, query or headers are not what they may be, in plain words."""
    problems = {}
    for problem in error.errors()[:20]:
        name = _field_name(str(problem["loc"][-1]))
        problems[name] = _PROBLEMS.get(problem["type"], "is not valid").format(**problem.get("ctx", {}))
    fields = tuple(FieldError(name, message) for name, message in problems.items())
    return InvalidField("; ".join(f"{name}: {message}" for name, message in problems.items()), fields=fields)


class _FieldPath:
    """Where in a body something is wrong.

    `name` is the dotted path that the client wrote, `last` the last part of it, `field` the model's field there, where
    there is one, and `siblings` are the names that could stand there. `is_within_value`: it is in a part of the value.
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


def _described(field: FieldInfo | None, name: str) -> str:
    """What the documentation says of a field, to be read within a sentence."""
    description = (field.description if field is not None else None) or name
    return description[0].lower() + description[1:]


_PROBLEMS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "string_too_long": "may have at most {max_length} characters",
    "string_unicode": "is not valid Unicode",
    "string_pattern_mismatch": "has characters that it may not have",
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
    "too_short": "must have at least {min_length}",
    "value_error": "{error}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _field_name(field: str) -> str:
    """A client's own field name, fit to be shown: short, and no half of a surrogate pair."""
    printable = field.encode("utf-8", "replace").decode()
    return printable if len(printable) <= 100 else f"{printable[:100]}…"
