"""Clients in a process of their own: each sends its next page when it has the answer to the one before."""

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
"""Sends one file and returns a digest of what was read on it. Raises RuntimeError where it was not read well."""


@dataclass(frozen=True)
class Answer:
    """One page: which file, when it was sent and when its answer was there (s, a clock all processes share)."""

    file: int
    sent: float
    done: float
    digest: str


class Load:
    """So many pages, never more than one of each client.

    What comes in `answers` is the list of all, and then the CPU seconds that sending them took.
    """

    def __init__(self, address: str, files: Sequence[bytes], clients: int, pages: int, ask: Ask) -> None:
        """`ask` is a function of a module: it is called in another process."""
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
    """When it begins, and the answers from then on; clients that ask once only have none, and all answers count.

    The first page of each client fills the service, the last one empties it.
    """
    done = sorted(answers, key=lambda answer: answer.done)
    if len(done) <= clients:
        return min(answer.sent for answer in done), done
    return done[clients - 1].done, done[clients : len(done) - clients + 1]


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
