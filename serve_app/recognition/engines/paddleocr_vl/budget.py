"""The time and tokens that one page may use, and why blocks of it have less text than they should."""

from __future__ import annotations

import math
import time
from collections import Counter
from contextvars import ContextVar
from enum import StrEnum

from serve_app.document import ErrorInfo
from serve_app.document.warnings import WarningCode, warning


class Shortfall(StrEnum):
    """Why a block has less text than it should. The values are warning codes."""

    OUT_OF_TIME = WarningCode.PAGE_OUT_OF_TIME
    OUT_OF_TOKENS = WarningCode.PAGE_OUT_OF_TOKENS
    CUT = WarningCode.BLOCK_CUT
    REPEATS = WarningCode.BLOCK_REPEATS
    FAILED = WarningCode.BLOCK_FAILED


_MESSAGES = {
    Shortfall.OUT_OF_TIME: "The page ran out of time: {} block(s) are missing or cut.",
    Shortfall.OUT_OF_TOKENS: "The page ran out of tokens: {} block(s) are missing.",
    Shortfall.CUT: "{} block(s) reached the limit of tokens and are cut.",
    Shortfall.REPEATS: "{} block(s) repeated themselves and were cut.",
    Shortfall.FAILED: "{} block(s) could not be read.",
}


class PageBudget:
    """Time and tokens of one page, shared by its blocks.

    The time begins with `start`. Blocks in flight at the same time may together exceed `tokens`; no further block is
    then started. There is no lock: every method but `abandon` is called by the page's thread, or while it waits.
    """

    def __init__(self, *, seconds: float, tokens: int, block_tokens: int) -> None:
        self._seconds = seconds
        self._deadline = math.inf
        self._abandoned = False
        self._tokens = tokens
        self._block_tokens = block_tokens
        self._shortfalls: Counter[Shortfall] = Counter()
        self.read = 0
        self.failure: str | None = None  # why the last block failed, for the log

    def start(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def abandon(self) -> None:
        """End the page's time now, since its caller was cancelled."""
        self._abandoned = True

    @property
    def left_s(self) -> float:
        return 0.0 if self._abandoned else self._deadline - time.monotonic()

    def next_block(self, requested: int | None) -> int:
        """Return the most tokens for the next block: 0, which is noted, if the page has run out of time or tokens."""
        if self.left_s <= 0:
            self.note(Shortfall.OUT_OF_TIME)
            return 0
        if self._tokens <= 0:
            self.note(Shortfall.OUT_OF_TOKENS)
            return 0
        return min(requested or self._block_tokens, self._block_tokens, self._tokens)

    def done(self, tokens: int, *, cut: bool = False) -> None:
        """Count a block that was read, and its tokens. `cut`: its text is incomplete."""
        self._tokens -= tokens
        self.read += 1
        if cut:
            self.note(Shortfall.OUT_OF_TIME if self.left_s <= 0 else Shortfall.CUT)

    def note(self, shortfall: Shortfall) -> None:
        self._shortfalls[shortfall] += 1

    def ran_out_of_time(self) -> bool:
        return Shortfall.OUT_OF_TIME in self._shortfalls

    def warnings(self) -> list[ErrorInfo]:
        return [
            warning(WarningCode(shortfall), _MESSAGES[shortfall].format(self._shortfalls[shortfall]))
            for shortfall in Shortfall
            if shortfall in self._shortfalls
        ]


page_budget: ContextVar[PageBudget] = ContextVar("page_budget")
"""The budget of the page that this thread reads. The library's code lies between `StagedPipeline.parse` and the VLM."""
