"""Keeps work on large bodies off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

THREAD_BYTES = 256 * 1024
"""Larger inputs are parsed and decoded in a thread, so that other requests need not wait."""

Input = TypeVar("Input")
Output = TypeVar("Output")


async def run_off_loop(size: int, function: Callable[[Input], Output], argument: Input) -> Output:
    """Call the function: in a thread if `size`, in bytes, is above THREAD_BYTES."""
    return await asyncio.to_thread(function, argument) if size > THREAD_BYTES else function(argument)
