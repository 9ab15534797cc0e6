"""The one line that is logged at the end of a request or a job.

What works for it notes facts on the way. They are in the context, so tasks that the request starts note theirs too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

_facts: ContextVar[dict[str, object] | None] = ContextVar("facts", default=None)


@contextmanager
def facts_collected() -> Iterator[None]:
    """Collect what is noted within the context."""
    token = _facts.set({})
    try:
        yield
    finally:
        _facts.reset(token)


def note(**facts: object) -> None:
    """Add facts to the line, or replace earlier ones. Does nothing outside a request or job."""
    noted = _facts.get()
    if noted is not None:
        noted.update(facts)


def note_stage(stage: str, ms: float) -> None:
    """Add milliseconds to a stage of the fact `stages_ms`."""
    noted = _facts.get()
    if noted is not None:
        stages = cast(dict[str, float], noted.setdefault("stages_ms", {}))
        stages[stage] = stages.get(stage, 0) + ms


def end_line(**first: object) -> str:
    """Return these facts and then those noted, as `pages=3 engine=tesseract`. A fact that is None is left out."""
    facts = {**first, **(_facts.get() or {})}
    return " ".join(f"{name}={word(value)}" for name, value in facts.items() if value is not None)


def word(value: object) -> str:
    """Return a value as one printable word, so that it cannot look like further facts, or like another line."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{round(each) if isinstance(each, float) else each}" for name, each in value.items())
    text = str(value)
    return text if text and text.isprintable() and " " not in text else repr(text)
