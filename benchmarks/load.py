"""Clients in a separate process: each sends its next page when the previous one is answered."""

from __future__ import annotations

import asyncio
import multiprocessing as mp
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Any

import aiohttp

from benchmarks.service import KEY, take

Ask = Callable[[aiohttp.ClientSession, bytes], Awaitable[str]]
"""Sends one file and returns a digest of the recognized text. Raises RuntimeError if the text is wrong."""


@dataclass(frozen=True)
class Answer:
    """One page: index of its file, and times of sending and of the answer (s, on a clock that all processes share)."""

    file: int
    sent: float
    done: float
    digest: str


class Load:
    """A load of `pages` pages, at most one at a time from each client.

    `answers` receives the list of all answers, then the CPU seconds that the clients took.
    """

    def __init__(self, address: str, files: Sequence[bytes], clients: int, pages: int, ask: Ask) -> None:
        """`ask` must be a module's function, since another process calls it."""
        spawn = mp.get_context("spawn")
        self.answers: SimpleQueue[Any] = spawn.SimpleQueue()
        self._start = spawn.Event()
        self.process = spawn.Process(
            target=_clients, args=(address, files, clients, pages, ask, self.answers, self._start), daemon=True
        )
        self.process.start()
        take(self.answers, [self.process])  # its modules are loaded

    def start(self) -> None:
        self._start.set()


def in_steady_state(answers: Sequence[Answer], clients: int) -> tuple[float, list[Answer]]:
    """The time at which the steady state begins, and its answers.

    Leaves out the first page of each client, which fills the service, and the last, which empties it. If each client
    sends two pages at most, all answers count.

    Engines that take the same time for each page answer in rounds. So begin and end are each the last answer of a round if
    clients and pages are multiples of the engines.
    """
    done = sorted(answers, key=lambda answer: answer.done)
    if len(done) <= 2 * clients:
        return min(answer.sent for answer in done), done
    return done[clients - 1].done, done[clients : len(done) - clients]


def _clients(
    address: str, files: Sequence[bytes], clients: int, pages: int, ask: Ask, answers: SimpleQueue[Any], start: Any
) -> None:
    answers.put(None)
    start.wait()
    cpu = time.process_time()
    answers.put(asyncio.run(_send(address, files, clients, pages, ask)))
    answers.put(time.process_time() - cpu)


async def _send(address: str, files: Sequence[bytes], clients: int, pages: int, ask: Ask) -> list[Answer]:
    answers: list[Answer] = []

    async def client(session: aiohttp.ClientSession, numbers: Iterator[int]) -> None:
        for number in numbers:
            file = number % len(files)
            sent = time.monotonic()
            digest = await ask(session, files[file])
            answers.append(Answer(file, sent, time.monotonic(), digest))

    numbers = iter(range(pages))  # shared: whoever is free takes the next one
    async with aiohttp.ClientSession(
        address,
        headers={"Authorization": f"Bearer {KEY}"},
        connector=aiohttp.TCPConnector(limit=clients),
        timeout=aiohttp.ClientTimeout(total=600),
    ) as session:
        await asyncio.gather(*(client(session, numbers) for _ in range(clients)))
    return answers
