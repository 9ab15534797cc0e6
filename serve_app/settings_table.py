"""The configuration table of the README, made from the settings themselves: `python -m serve_app settings`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from serve_app.settings import Settings


def settings_table() -> str:
    """Every setting as a Markdown table: name, default, meaning with its unit."""
    rows = ["| Setting | Default | Meaning |", "|---|---|---|"]
    for name, default, description in _settings(Settings, ""):
        rows.append(f"| `{name}` | {default} | {description} |")
    return "\n".join(rows)


def _settings(model: type[BaseModel], path: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        nested = _models(field.annotation)
        for kind in nested:
            # Of several kinds each has a constant that names it: `engines[tesseract]`, `store[s3]`.
            label = f"[{_constant(kind)}]" if len(nested) > 1 else ""
            yield from _settings(kind, f"{path}{name}{label}.")
        if not nested:
            default = "required" if field.is_required() else _shown(field.default)
            yield f"{path}{name}", default, field.description or ""


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models within an annotation such as tuple[Annotated[A | B, ...], ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _constant(model: type[BaseModel]) -> str:
    return str(next(model.model_fields[name].default for name in ("name", "kind") if name in model.model_fields))


def _shown(default: Any) -> str:
    match default:
        case None:
            return "unset"
        case () | "":
            return "empty"
        case bool():
            return f"`{str(default).lower()}`"
        case tuple():
            return f"`[{', '.join(map(str, default))}]`"
        case _:
            return f"`{default}`"
