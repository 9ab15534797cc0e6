"""A Recognizer outside Serve."""

from __future__ import annotations

from serve_app.recognition.deployment import Recognizer


class LocalRecognizer(Recognizer):
    """Only Serve awaits an asynchronous `__del__`; here `close` does its work."""

    def __del__(self) -> None:  # type: ignore[override]
        """Do nothing, so the garbage collector does not create a coroutine that is never awaited."""

    async def close(self) -> None:
        await super().__del__()
