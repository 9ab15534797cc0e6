"""The configuration table of the README, made from the settings themselves: `python -m serve_app settings`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from serve_app.settings import DummySettings, Settings


def settings_table() -> str:
    """Every setting but those of tests as a Markdown table: name, default, meaning with its unit."""
    rows = ["| Setting | Default | Meaning |", "|---|---|---|"]
    for name, default, description in _settings(Settings, ""):
        rows.append(f"| `{name}` | {default} | {description} |")
    return "\n".join(rows)


def _settings(model: type[BaseModel], path: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        # The dummy engine is for tests; who needs its settings reads them in the code.
        nested = [kind for kind in _models(field.annotation) if kind is not DummySettings]
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
    discriminator = next(name for name in ("name", "kind", "backend") if name in model.model_fields)
    return str(get_args(model.model_fields[discriminator].annotation)[0])


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
