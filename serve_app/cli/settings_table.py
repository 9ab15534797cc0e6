"""`python -m serve_app settings`: writes docs/configuration.md from the settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from serve_app.settings import DummySettings, Secrets, Settings

INTRODUCTION = """\
# Configuration

<!-- Written by `make configuration` from serve_app/settings/: edit those files. -->

Settings are `args` of the application in the Serve config, such as `configs/local.yaml`. A name that is not on this page
is refused when you deploy. `engines` is a list; the first engine is the default."""

ENVIRONMENT = """\
## Environment

Secrets come from the environment of the node on which the application is built. So do two settings, which take
precedence over the config.

| Variable | Meaning |
|---|---|
| `OCR_OPEN_SURFACES` | Replaces `open_surfaces`: names, comma-separated |
| `OCR_PUBLIC_URL` | Replaces `public_url` |"""

_Row = tuple[str, str, str]


def settings_page() -> str:
    """Return Markdown with a table for each section of the settings (name, default, meaning) and one for the environment.

    Leaves out the settings of the dummy engine.
    """
    sections: dict[str, list[_Row]] = {}
    for name, default, meaning in _settings(Settings, ""):
        part, dot, _ = name.partition(".")
        sections.setdefault(f"`{part}`" if dot else "The service", []).append((name, default, meaning))
    lines = [INTRODUCTION, ""]
    for heading, rows in sections.items():
        lines += [f"## {heading}", "", "| Setting | Default | Meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in rows]
        lines.append("")
    lines.append(ENVIRONMENT)
    lines += [f"| `OCR_{name.upper()}` | {field.description} |" for name, field in Secrets.model_fields.items()]
    return "\n".join(lines) + "\n"


def setting_names() -> list[str]:
    """Return the last part of each setting's name, such as `max_pages`."""
    return [name.rpartition(".")[2] for name, _, _ in _settings(Settings, "")]


def _settings(model: type[BaseModel], path: str) -> Iterator[_Row]:
    for name, field in model.model_fields.items():
        # The dummy engine is for tests; only the code documents its settings.
        nested = [kind for kind in _models(field.annotation) if kind is not DummySettings]
        if not nested or _has_number(field.annotation):
            default = "required" if field.is_required() else _format_default(field.default)
            yield f"{path}{name}", default, field.description or ""
        for kind in nested:
            # Each model of a union has a constant that names it: `engines[tesseract]`, `store[s3]`.
            label = f"[{_constant(kind)}]" if len(nested) > 1 else ""
            yield from _settings(kind, f"{path}{name}{label}.")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation such as tuple[Annotated[A | B, ...], ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _has_number(annotation: Any) -> bool:
    """Whether a number may stand where a model may, as in `int | ReplicaRange`."""
    return annotation is int or any(_has_number(part) for part in get_args(annotation)[:1])


def _constant(model: type[BaseModel]) -> str:
    discriminator = next(name for name in ("name", "kind", "backend") if name in model.model_fields)
    return str(get_args(model.model_fields[discriminator].annotation)[0])


def _format_default(default: Any) -> str:
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
