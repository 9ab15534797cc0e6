"""What is wrong with the fields of a request, in plain words: never a library's own."""

from __future__ import annotations

from difflib import get_close_matches

from pydantic import BaseModel, ValidationError

from serve_app.errors import FieldError, InvalidField
from serve_app.options import ParsingOptions


def invalid(field: str, message: str) -> InvalidField:
    """The error of one field."""
    name = _field_name(field)
    return InvalidField(f"{name}: {message}", fields=(FieldError(name, message),))


def invalid_fields(error: ValidationError, model: type[BaseModel]) -> InvalidField:
    """The error of a body that is not of this model, field by field, in plain words."""
    problems: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_input=False)[:20]:
        location = [str(part) for part in problem["loc"]]
        # Below a field with several forms stand names of the library's own for each of them.
        depth = 3 if "vlmExtraArgs" in location else 2
        name = _field_name(".".join(location[:depth]))
        message = _PROBLEMS.get(problem["type"], "is not valid").format(**problem.get("ctx", {}))
        if problem["type"] == "extra_forbidden" and (meant := get_close_matches(name, model.model_fields, n=1)):
            message += f"; did you mean '{meant[0]}'?"
        if len(location) > depth or name in problems:
            message = f"is not valid; it is the {_described(location)}"
        problems[name] = message
    fields = tuple(FieldError(name, message) for name, message in problems.items())
    return InvalidField("; ".join(f"{name}: {message}" for name, message in problems.items()), fields=fields)


def _described(location: list[str]) -> str:
    """What the documentation says of an option, to be read within a sentence."""
    for name, option in ParsingOptions.model_fields.items():
        if location[1:2] in ([name], [option.alias]):
            description = option.description or name
            return description[0].lower() + description[1:]
    return location[-1]


_PROBLEMS = {
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "string_too_long": "may have at most {max_length} characters",
    "string_unicode": "is not valid Unicode",
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
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "value_error": "{error}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _field_name(field: str) -> str:
    """A client's own field name, fit to be shown: short, and no half of a surrogate pair."""
    printable = field.encode("utf-8", "replace").decode() or "?"
    return printable if len(printable) <= 100 else f"{printable[:100]}…"
