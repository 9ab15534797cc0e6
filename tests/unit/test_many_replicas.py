"""Documents over many replicas, in virtual time: how much of the cluster they use, and how long others wait beside them.

The pipeline, its slots, the choice of replicas and their queues are the real ones. Stand-ins are the engines, which take a
second a page, and Serve's handles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from serve_app.document import SourceFile
from serve_app.document.options import RecognitionOptions
from serve_app.pipeline.dispatch import Pipeline
from serve_app.pipeline.window_limits import WindowLimits
from serve_app.scheduling.batch_queue import BatchQueue
from serve_app.scheduling.shortest_queue import ShortestQueueRouter
from serve_app.settings import DummySettings
from tests.support.caches import no_cache
from tests.support.handles import page_result
from tests.support.virtual_time import run_in_virtual_time

PAGE_S = 1.0
DECODE_S = 0.02


class Replica:
    """One replica with its queue, which counts the calls that it holds."""

    def __init__(self, number: int, page_s: float, result: Callable[[], Any]) -> None:
        self.replica_id = number
        self._page_s, self._result = page_s, result
        self._queue: BatchQueue[None, None] = BatchQueue(self._run, max_batch=1)
        self.calls = 0

    async def call(self, pixels: Any, document: str, owner: str) -> Any:
        self.calls += 1
        try:
            await pixels
            await self._queue.submit(None, caller=document, owner=owner)
        finally:
            self.calls -= 1
        return self._result()

    async def _run(self, items: Sequence[None]) -> Sequence[None]:
        await asyncio.sleep(self._page_s)
        return items


class Router(ShortestQueueRouter):
    """The router without the rest of Serve's: it knows the queue of every replica."""

    def __init__(self, replicas: Any) -> None:
        self._all = replicas

    @property
    def replica_queue_len_cache(self) -> Any:
        return self

    def get(self, number: int) -> Any:
        return self._all[number].calls


class Deployment:
    """Stands for a handle: each call goes to the replica that the router chooses, and waits there for its pixels."""

    def __init__(self, replicas: int, page_s: float, result: Callable[[], Any]) -> None:
        self._engine = page_s, result
        self.replicas: list[Replica] = []
        self._router = Router(self.replicas)
        self.start(replicas)

    def __getattr__(self, name: str) -> Any:
        return self

    def start(self, replicas: int) -> None:
        first = len(self.replicas)
        self.replicas += [Replica(first + number, *self._engine) for number in range(replicas)]

    def send(self, pixels: Any, document: str, owner: str) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._send(pixels, document, owner))

    async def _send(self, pixels: Any, document: str, owner: str) -> Any:
        replicas: Any = self.replicas
        (candidates,) = await self._router.choose_replicas(replicas)
        chosen: Any = min(candidates, key=calls_at)
        return await chosen.call(pixels, document, owner)


def calls_at(replica: Any) -> int:
    calls: int = replica.calls
    return calls


class Rasterizers(Deployment):
    def remote(self, document: str, *_: Any, owner: str, **__: Any) -> asyncio.Future[Any]:
        return self.send(asyncio.sleep(0), document, owner)


class Recognizers(Deployment):
    def remote(self, pixels: Any, options: Any, document: str, owner: str, **_: Any) -> asyncio.Future[Any]:
        return self.send(pixels, document, owner)


class Cluster:
    def __init__(self, replicas: int) -> None:
        self.recognizers = Recognizers(replicas, PAGE_S, page_result)
        handles: Any = (Rasterizers(4, DECODE_S, object), {"x": self.recognizers}, no_cache())
        window = DummySettings(max_batch=1).window_of_a_replica(PAGE_S)
        self.pipeline = Pipeline(
            *handles,
            limits=WindowLimits(lambda engine: len(self.recognizers.replicas) * window),
            is_ready=bool,
            has_replicas=bool,
            fallbacks={},
            engine_wait_s={"x": 1},
        )

    async def read(self, name: str, pages: int, *, owner: str = "") -> float:
        """Read a document; return the seconds that it took."""
        started = asyncio.get_running_loop().time()
        source = SourceFile(name, b"", owner=owner)
        with self.pipeline.slot():
            async for _ in self.pipeline.pages(
                source, range(1, pages + 1), engine="x", options=RecognitionOptions(), dpi=None
            ):
                pass
        return asyncio.get_running_loop().time() - started


@pytest.mark.parametrize(
    ("replicas", "documents", "pages"),
    [(1, 1, 20), (4, 1, 80), (32, 1, 320), (32, 1, 1000), (32, 10, 100), (32, 320, 1)],
)
def test_documents_use_the_whole_cluster(replicas: int, documents: int, pages: int) -> None:
    async def read() -> float:
        cluster = Cluster(replicas)
        numbers = iter(range(documents))

        async def client() -> None:
            for number in numbers:
                await cluster.read(str(number), pages)

        await asyncio.gather(*(client() for _ in range(64)))
        return asyncio.get_running_loop().time()

    seconds = run_in_virtual_time(read())
    assert documents * pages * PAGE_S / replicas / seconds > 0.96


async def test_callers_do_not_all_choose_the_same_one_of_equal_queues() -> None:
    replicas: Any = Recognizers(8, PAGE_S, page_result).replicas
    router = Router(replicas)
    chosen = {(await router.choose_replicas(replicas))[0][0].replica_id for _ in range(500)}
    assert len(chosen) == 8
    assert await router.choose_replicas([]) == [[]]


@pytest.mark.parametrize("replicas", [1, 4, 32])
@pytest.mark.parametrize(("documents", "owner"), [(1, "same"), (3, "other")])
def test_a_single_page_beside_long_documents_waits_no_longer_than_three_times_as_alone(
    replicas: int, documents: int, owner: str
) -> None:
    """Beside the document of its own owner, or several of another owner's."""

    async def read() -> tuple[list[float], list[float]]:
        cluster = Cluster(replicas)
        alone = [await cluster.read("single", 1) for _ in range(5)]
        long = [asyncio.create_task(cluster.read(f"{each}", 300, owner="same")) for each in range(documents)]
        await asyncio.sleep(3.5)
        beside = [await cluster.read("single", 1, owner=owner) for _ in range(3)]
        assert not any(each.done() for each in long)
        for each in long:
            each.cancel()
        await asyncio.gather(*long, return_exceptions=True)
        return alone, beside

    alone, beside = run_in_virtual_time(read())
    assert max(beside) < 3 * max(alone)


def test_replicas_that_start_while_a_document_is_read_help_with_it() -> None:
    async def read() -> float:
        cluster = Cluster(1)
        long = asyncio.create_task(cluster.read("long", 160))
        await asyncio.sleep(10)
        cluster.recognizers.start(15)
        return await long

    # 10 s for 10 pages, and 9.4 s for the others, whatever has queued at the first replica.
    assert run_in_virtual_time(read()) < 21
