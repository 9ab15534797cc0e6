"""A Recognizer outside Serve."""

from __future__ import annotations

from typing import Any, TypeVar

from serve_app.recognition.deployment import Recognizer

Made = TypeVar("Made", bound=Recognizer)


class LocalRecognizer(Recognizer):
    """Only Serve awaits an asynchronous `__del__`; here `close` does its work."""

    def __del__(self) -> None:  # type: ignore[override]
        """Do nothing, so the garbage collector does not create a coroutine that is never awaited."""

    async def close(self) -> None:
        await super().__del__()


async def initialized(kind: type[Made], *arguments: Any, **options: Any) -> Made:
    """Make one as Serve does, which awaits an asynchronous `__init__`."""
    made = kind.__new__(kind)
    await made.__init__(*arguments, **options)  # type: ignore[misc]  # mypy takes it for a mistake
    return made
