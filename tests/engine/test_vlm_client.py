"""The client of an inference server, with a server that is away, slow, wrong, full or dying."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from serve_app.document import Page, PageContent, PageResult
from serve_app.errors import PageTimeout, RecognitionFailed, ServiceError, VlmServerAway
from serve_app.recognition.engines.paddleocr_vl import vlm_client
from serve_app.recognition.engines.paddleocr_vl.budget import PageBudget, page_budget
from serve_app.recognition.engines.paddleocr_vl.engine import PaddleOcrVlEngine
from serve_app.recognition.engines.paddleocr_vl.vlm_client import VlmClient
from serve_app.recognition.engines.paddleocr_vl.vlm_probe import DEFAULT_TIMING, TWO_SECRETS, VlmTiming
from serve_app.settings import Limits, VlmServerSettings
from tests.support.engines import read_whole
from tests.support.recognizer import LocalRecognizer, initialized
from tests.support.tiny_paddleocr_vl import LIGHT_BOXES, TinyModels
from tests.support.vl_pages import LIGHT, make_task, page, tiny_settings
from tests.support.vlm_server import MODEL, OCR_TEXT, VlmServer

BACKENDS = ("vllm-server", "sglang-server", "fastdeploy-server", "llama-cpp-server")
BLOCKS = 5  # of the light page that are read; the sixth is a picture
DEADLINE_S = 10.0


def settings(url: str, **options: Any) -> VlmServerSettings:
    return VlmServerSettings(**{"backend": "vllm-server", "url": url, "connect_s": 0.5, **options})


@pytest.fixture
def connect() -> Iterator[Callable[..., VlmClient]]:
    """Makes clients, which are closed after the test."""
    clients = []

    def connect(
        url: str,
        *,
        api_key: str | None = None,
        concurrency: int = 200,
        timing: VlmTiming = DEFAULT_TIMING,
        **options: Any,
    ) -> VlmClient:
        client = VlmClient(settings(url, **options), url=url, api_key=api_key, concurrency=concurrency, timing=timing)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


def load_engine(
    models: TinyModels,
    url: str,
    *,
    page_s: float = 30,
    timing: VlmTiming = DEFAULT_TIMING,
    **options: Any,
) -> PaddleOcrVlEngine:
    made = tiny_settings(models, vlm=settings(url, **options), doc_preprocessor=False)
    engine = PaddleOcrVlEngine(made, page_s=page_s, api_key=None, timing=timing)
    engine.load()
    return engine


@pytest.fixture
def load(tiny_models: TinyModels) -> Iterator[Callable[..., PaddleOcrVlEngine]]:
    """Makes loaded engines, which are closed after the test."""
    engines = []

    def load(url: str, **options: Any) -> PaddleOcrVlEngine:
        engines.append(load_engine(tiny_models, url, **options))
        return engines[-1]

    yield load
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def shared_engine(shared_server: VlmServer, tiny_models: TinyModels) -> Iterator[PaddleOcrVlEngine]:
    engine = load_engine(tiny_models, shared_server.url)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine: PaddleOcrVlEngine, server: VlmServer) -> PaddleOcrVlEngine:
    """An engine that works with `server`."""
    until(lambda: shared_engine.unavailable() is None)
    return shared_engine


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What is logged of the server's state. Serve may have cut its loggers off from pytest's."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("ray.serve.vlm_server"), Handler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(before)


def until(condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> float:
    """Waits until the condition holds; the seconds that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + timeout_s
        time.sleep(0.01)
    return time.monotonic() - started


def free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def about(url: str, told: list[str]) -> list[str]:
    return [line for line in told if url in line]


def probe_now(client: VlmClient, times: int = 1) -> None:
    for _ in range(times):
        client._submit(client._probe.probe_now()).result(DEADLINE_S)


def budget(*, page_s: float = 30, tokens: int = 10_000, block_tokens: int = 4096) -> PageBudget:
    made = PageBudget(seconds=page_s, tokens=tokens, block_tokens=block_tokens)
    made.start()
    return made


def image_uri() -> str:
    stream = io.BytesIO()
    Image.new("RGB", (28, 28), "white").save(stream, "jpeg")
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def ask(client: VlmClient, of: PageBudget, prompt: str = "OCR:", **request: Any) -> Future[Any]:
    """One block, as paddlex asks for it."""
    image = {"type": "image_url", "image_url": {"url": image_uri()}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": prompt}]}]
    page_budget.set(of)
    request = {"temperature": 0, "max_completion_tokens": 4096, "extra_body": {"skip_special_tokens": True}, **request}
    return client.create_chat_completion(messages, return_future=True, timeout=600, **request)


def text(future: Future[Any]) -> str:
    return str(future.result(DEADLINE_S).choices[0].message.content)


def codes(of: PageBudget) -> list[str]:
    return [warning.code for warning in of.warnings()]


def read(engine: PaddleOcrVlEngine) -> PageContent | ServiceError:
    (outcome,) = read_whole(engine, [make_task(page(LIGHT))])
    return outcome


def good(outcome: PageContent | ServiceError) -> Page:
    assert isinstance(outcome, PageContent), outcome
    return outcome.page


def codes_of(found: Page) -> list[str]:
    return [warning.code for warning in found.warnings]


# How it is asked


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_of_each_kind_takes_the_requests(
    server: VlmServer, load: Callable[..., PaddleOcrVlEngine], backend: str
) -> None:
    before = server.counters()
    engine = load(server.url, backend=backend)
    until(lambda: engine.unavailable() is None)
    found = good(read(engine))
    assert [block.text for block in found.blocks][:3] == [OCR_TEXT, OCR_TEXT, "Item\tPrice\nTea\t3.50"]
    assert not found.degraded
    after = server.counters()
    assert (after["requests"] - before["requests"], after["refused"]) == (BLOCKS, before["refused"])


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_blocks_tokens_are_bounded_by_its_page(
    server: VlmServer, connect: Callable[..., VlmClient], limit: str
) -> None:
    client = connect(server.url)
    assert client.wait_until_probed(DEADLINE_S).available
    of = budget(tokens=250, block_tokens=200)
    request: dict[str, Any] = {"max_completion_tokens": 4096} if limit == "max_completion_tokens" else {limit: 4096}
    if limit == "max_tokens":
        request["max_completion_tokens"] = None
    assert text(ask(client, of, **request)) == OCR_TEXT
    assert text(ask(client, of, **request)) == OCR_TEXT[: len(OCR_TEXT) // 4]  # 50 of 200 tokens
    assert text(ask(client, of, **request)) == ""
    assert of.read == 2
    assert codes(of) == ["page_out_of_tokens", "block_cut"]


def test_an_answer_that_repeats_itself_is_told(engine: PaddleOcrVlEngine, server: VlmServer) -> None:
    server.control(text="ещё и ещё раз " * 40)
    found = good(read(engine))
    assert found.degraded and codes_of(found) == ["block_repeats"]
    assert found.warnings[0].message.startswith("3 block(s)")
    assert len(found.blocks[1].text) < 100


# Who is there


def test_a_server_that_is_down_costs_nothing_and_is_found_when_it_is_up(
    connect: Callable[..., VlmClient], told: list[str]
) -> None:
    server = VlmServer()
    url = free_url()
    client = connect(url)
    assert client.wait_until_probed(DEADLINE_S).reason == "it cannot be connected to"
    with pytest.raises(VlmServerAway) as away:
        ask(client, budget()).result(1)
    assert away.value.retry_after_s
    probe_now(client, times=5)
    assert told == [f"inference server {url} is away: it cannot be connected to"]

    server.start(int(url.split(":")[2].removesuffix("/v1")))
    try:
        assert until(lambda: client.state.available, 2.5) < 2.5
        probe_now(client, times=5)
        assert told[1:] == [f"inference server {url} is available ({MODEL})"]
        assert text(ask(client, budget())) == OCR_TEXT
        server.stop()
        probe_now(client, times=5)
        assert told[2:] == [f"inference server {url} is away: it cannot be connected to"]
    finally:
        server.stop()


def test_nothing_waits_for_the_first_answer(server: VlmServer, connect: Callable[..., VlmClient]) -> None:
    server.control(hang_models=True)
    started = time.monotonic()
    client = connect(server.url, connect_s=30)
    assert (client.state.available, client.state.reason) == (False, "it has not been probed yet")
    with pytest.raises(VlmServerAway):
        ask(client, budget()).result(5)
    client.close()
    assert time.monotonic() - started < 5


def test_an_engine_loads_without_its_server_and_says_that_it_is_away(load: Callable[..., PaddleOcrVlEngine]) -> None:
    engine = load(free_url())
    away = engine.unavailable()
    assert isinstance(away, VlmServerAway) and away.retry_after_s
    state = engine.vlm_server()
    assert state is not None and not state.available and state.reason == "it cannot be connected to"
    assert isinstance(read(engine), VlmServerAway)


def test_a_model_that_is_not_served_is_told_with_those_that_are(
    server: VlmServer, connect: Callable[..., VlmClient]
) -> None:
    state = connect(server.url, model="PaddleOCR-VL-9").wait_until_probed(DEADLINE_S)
    assert (state.available, state.reason) == (False, f"it does not serve PaddleOCR-VL-9, but {MODEL}")
    assert connect(server.url, model=MODEL).wait_until_probed(DEADLINE_S).available


def test_a_server_that_is_loading_is_away(server: VlmServer, connect: Callable[..., VlmClient]) -> None:
    server.control(loading=True)
    client = connect(server.url)
    assert client.wait_until_probed(DEADLINE_S).reason == "it is still loading (status 503)"
    server.control(loading=False)
    assert until(lambda: client.state.available, 2.5) < 2.5


def test_what_is_no_inference_server_is_away(server: VlmServer, connect: Callable[..., VlmClient]) -> None:
    state = connect(server.url.removesuffix("/v1") + "/nowhere").wait_until_probed(DEADLINE_S)
    assert (state.available, state.reason) == (False, "it responds with status 404")


def test_a_key_is_sent_and_its_refusal_told(connect: Callable[..., VlmClient]) -> None:
    with VlmServer(api_key="secret") as server:
        for key in (None, "wrong"):
            state = connect(server.url, api_key=key).wait_until_probed(DEADLINE_S)
            assert (state.available, state.reason) == (False, "it refuses the key (status 401)")
        client = connect(server.url, api_key="secret")
        assert client.wait_until_probed(DEADLINE_S).available
        assert text(ask(client, budget())) == OCR_TEXT


def test_a_url_with_a_password_beside_a_key_is_told_and_no_password_is_logged(
    connect: Callable[..., VlmClient], told: list[str]
) -> None:
    address = free_url().removeprefix("http://")
    for key, reason in (("KEY", TWO_SECRETS), (None, "it cannot be connected to")):
        client = connect(f"http://user:PASSWORD@{address}", api_key=key)
        assert client.wait_until_probed(DEADLINE_S).reason == reason
    assert len(about(f"http://{address} ", told)) == 2 and "PASSWORD" not in "".join(told)


def test_a_server_that_refuses_blocks_only_is_away_for_a_while(
    server: VlmServer, connect: Callable[..., VlmClient], told: list[str]
) -> None:
    client = connect(server.url, timing=VlmTiming(refused_s=0.5))
    assert client.wait_until_probed(DEADLINE_S).available
    server.control(status=401)
    with pytest.raises(VlmServerAway):
        ask(client, budget()).result(DEADLINE_S)
    server.control(status=None)
    probe_now(client, times=3)
    assert (client.state.available, client.state.reason) == (False, "it refuses the key (status 401)")
    assert about(server.url, told)[1:] == [f"inference server {server.url} is away: it refuses the key (status 401)"]
    time.sleep(0.5)
    probe_now(client)
    assert text(ask(client, budget())) == OCR_TEXT


# What goes wrong with blocks


def test_errors_now_and_then_are_tried_again(engine: PaddleOcrVlEngine, server: VlmServer) -> None:
    failed = server.counters()["failed"]
    server.control(fail_every=5)
    for _ in range(3):
        found = good(read(engine))
        assert [block.text for block in found.blocks if block.label in ("doc_title", "text", "number")] == [
            OCR_TEXT
        ] * 3
        assert not found.degraded
    assert server.counters()["failed"] > failed


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_page_of_which_the_server_refuses_every_block_is_an_error(
    engine: PaddleOcrVlEngine, server: VlmServer, status: int
) -> None:
    before = server.counters()["requests"]
    server.control(status=status)
    assert isinstance(read(engine), RecognitionFailed)
    assert server.counters()["requests"] == before + BLOCKS  # nothing is tried again
    assert engine.unavailable() is None


def test_a_block_that_the_server_refuses_is_missing_alone(server: VlmServer, connect: Callable[..., VlmClient]) -> None:
    client = connect(server.url)
    assert client.wait_until_probed(DEADLINE_S).available
    of = budget()
    futures = [ask(client, of), ask(client, of, prompt="Not a prompt:"), ask(client, of)]
    assert [text(future) for future in futures] == [OCR_TEXT, "", OCR_TEXT]
    assert (of.read, codes(of)) == (2, ["block_failed"])


def test_a_block_that_fails_every_time_is_given_up(server: VlmServer, connect: Callable[..., VlmClient]) -> None:
    client = connect(server.url, timing=VlmTiming(first_retry_s=0.002))
    assert client.wait_until_probed(DEADLINE_S).available
    before = server.counters()["requests"]
    server.control(status=500)
    of = budget()
    assert text(ask(client, of)) == ""
    assert (of.read, codes(of)) == (0, ["block_failed"])
    assert server.counters()["requests"] == before + vlm_client.TRIES
    assert client.state.available


def test_a_server_that_is_full_is_not_away(server: VlmServer, connect: Callable[..., VlmClient]) -> None:
    client = connect(server.url, timing=VlmTiming(first_retry_s=0.002))
    assert client.wait_until_probed(DEADLINE_S).available
    server.control(status=429)
    of = budget()
    assert [text(future) for future in [ask(client, of) for _ in range(8)]] == [""] * 8
    assert 8 * vlm_client.TRIES > vlm_client.ERRORS_IN_A_ROW and client.state.available
    server.control(status=500)
    ended = [ask(client, budget()) for _ in range(8)]
    until(lambda: not client.state.available)
    for future in ended:
        future.exception(DEADLINE_S)


def test_a_page_whose_blocks_hang_ends_at_its_deadline_and_the_server_is_told(
    engine: PaddleOcrVlEngine, server: VlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_page_s", 0.5)
    cancelled = server.counters()["cancelled"]
    server.control(hang=True)
    started = time.monotonic()
    assert isinstance(read(engine), PageTimeout)
    assert time.monotonic() - started < 2
    until(lambda: server.counters()["cancelled"] == cancelled + BLOCKS)
    assert server.counters()["in_flight"] == 0
    assert engine.unavailable() is None


def test_a_page_that_nobody_waits_for_any_more_frees_the_server(
    engine: PaddleOcrVlEngine, server: VlmServer, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled = server.counters()["cancelled"]
    server.control(hang=True)
    (analyzed,) = engine.analyze([make_task(page(LIGHT))])
    assert not isinstance(analyzed, ServiceError)
    with ThreadPoolExecutor(1) as reader:
        left = reader.submit(engine.read, analyzed)
        until(lambda: server.counters()["in_flight"] == BLOCKS)
        engine.abandon(analyzed)
        left.result(2)
    until(lambda: server.counters()["cancelled"] == cancelled + BLOCKS)
    assert engine.unavailable() is None and not caplog.records


def test_a_block_that_hangs_is_missing_alone(server: VlmServer, connect: Callable[..., VlmClient]) -> None:
    client = connect(server.url)
    assert client.wait_until_probed(DEADLINE_S).available
    of = budget(page_s=0.5)
    assert text(ask(client, of)) == OCR_TEXT
    server.control(hang=True)
    assert text(ask(client, of)) == ""
    assert text(ask(client, of)) == ""  # not begun
    assert (of.read, codes(of)) == (1, ["page_out_of_time"])
    assert of.warnings()[0].message.startswith("The page ran out of time: 2 block(s)")


def test_no_more_blocks_are_in_flight_than_configured(connect: Callable[..., VlmClient]) -> None:
    with VlmServer(tokens=20, token_ms=1) as server:
        client = connect(server.url, concurrency=3)
        assert client.wait_until_probed(DEADLINE_S).available
        of = budget()
        futures = [ask(client, of) for _ in range(15)]
        assert {text(future) for future in futures} == {OCR_TEXT}
        assert server.counters()["most_in_flight"] == 3


def test_blocks_that_wait_are_sent_once_there_is_room_for_more(connect: Callable[..., VlmClient]) -> None:
    with VlmServer() as server:
        client = connect(server.url, concurrency=2)
        assert client.wait_until_probed(DEADLINE_S).available
        server.control(hang=True)
        of = budget()
        futures = [ask(client, of) for _ in range(6)]
        until(lambda: server.counters()["in_flight"] == 2)
        client.resize(5)
        until(lambda: server.counters()["in_flight"] == 5)
        probe_now(client)
        assert server.counters()["most_in_flight"] == 5
        give_up(client, of)
        assert {text(future) for future in futures} == {""}


def test_with_less_room_the_blocks_in_flight_are_finished_and_fewer_follow(connect: Callable[..., VlmClient]) -> None:
    with VlmServer() as server:
        client = connect(server.url, concurrency=4)
        assert client.wait_until_probed(DEADLINE_S).available
        server.control(hang=True)
        first, second = budget(), budget()
        futures = [ask(client, first) for _ in range(4)]
        until(lambda: server.counters()["in_flight"] == 4)
        client.resize(1)
        futures += [ask(client, second) for _ in range(3)]
        probe_now(client)
        assert server.counters()["in_flight"] == 4, "none is cancelled"
        give_up(client, first)
        until(lambda: server.counters()["cancelled"] == 4 and server.counters()["in_flight"] == 1)
        probe_now(client)
        assert server.counters()["requests"] == 5
        give_up(client, second)
        assert {text(future) for future in futures} == {""}


def test_a_replica_takes_a_larger_part_of_the_server_when_others_stop(load: Callable[..., PaddleOcrVlEngine]) -> None:
    with VlmServer() as server, ThreadPoolExecutor() as pool:
        engine = load(server.url, concurrency=4)
        engine.share_vlm_server(4)
        until(lambda: engine.unavailable() is None)
        server.control(hang=True)
        (analyzed,) = engine.analyze([make_task(page(LIGHT))])
        assert not isinstance(analyzed, ServiceError)
        reading = pool.submit(engine.read, analyzed)
        until(lambda: server.counters()["in_flight"] == 1)
        engine.share_vlm_server(2)
        until(lambda: server.counters()["in_flight"] == 2)
        engine.share_vlm_server(1)
        until(lambda: server.counters()["in_flight"] == 4)
        engine.share_vlm_server(9)  # more than blocks: each still sends one
        engine.abandon(analyzed)
        assert isinstance(reading.result(DEADLINE_S), ServiceError)
        server.control(hang=False)
        assert not good(read(engine)).degraded


async def test_a_recognizer_divides_the_server_by_the_replicas_of_which_it_is_told(tiny_models: TinyModels) -> None:
    with VlmServer() as server:
        chosen = tiny_settings(tiny_models, vlm=settings(server.url, concurrency=4), doc_preprocessor=False)
        made = await initialized(LocalRecognizer, chosen, Limits())
        try:
            await asyncio.to_thread(until, lambda: made._engine.unavailable() is None)
            await made.state(4)
            task = make_task(page(LIGHT))
            assert isinstance(await made.recognize(task.image, task.options, "document"), PageResult)
            assert server.counters()["most_in_flight"] == 1
            await made.state()  # from one that has not counted them yet
            await made.state(1)
            server.control(hang=True)
            reading = asyncio.create_task(made.recognize(task.image, task.options, "document"))
            await asyncio.to_thread(until, lambda: server.counters()["in_flight"] == 4)
            reading.cancel()
            await asyncio.to_thread(until, lambda: server.counters()["in_flight"] == 0)
        finally:
            await made.close()


def give_up(client: VlmClient, of: PageBudget) -> None:
    of.abandon()
    client.abandon(of)


def test_replicas_share_what_the_server_takes(load: Callable[..., PaddleOcrVlEngine]) -> None:
    with VlmServer(tokens=20, token_ms=1) as server:
        replicas = [load(server.url, concurrency=5) for _ in range(2)]
        for engine in replicas:
            engine.share_vlm_server(2)
        until(lambda: all(engine.unavailable() is None for engine in replicas))
        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(read_prepared, [(engine, n) for engine in replicas for n in (1, 2)]))
        assert not any(good(outcome).degraded for outcome in outcomes)
        assert 2 <= server.counters()["most_in_flight"] <= 4


_layout = threading.Lock()


def read_prepared(job: tuple[PaddleOcrVlEngine, int]) -> PageContent | ServiceError:
    """A page whose layout is found by one thread at a time, as it must be."""
    engine, number = job
    with _layout:
        (analyzed,) = engine.analyze([make_task(page(LIGHT), number)])
    return analyzed if isinstance(analyzed, ServiceError) else engine.read(analyzed)


# A server that dies, or stops


def test_a_page_ends_when_its_server_dies_and_the_next_one_is_read_when_it_is_back(
    load: Callable[..., PaddleOcrVlEngine],
) -> None:
    with VlmServer() as server:
        engine = load(server.url)
        until(lambda: engine.unavailable() is None)
        server.control(hang=True)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read, engine)
            until(lambda: server.counters()["in_flight"] == BLOCKS)
            started = time.monotonic()
            os.kill(server.pid, signal.SIGKILL)
            assert isinstance(reading.result(DEADLINE_S), VlmServerAway)
            assert time.monotonic() - started < 2
        assert isinstance(engine.unavailable(), VlmServerAway)
        server.stop()
        server.start()  # on its port
        assert engine._client is not None
        probe_now(engine._client)
        assert engine.unavailable() is None
        assert not good(read(engine)).degraded


def test_a_server_that_was_lost_is_found_soon_after_it_is_back(connect: Callable[..., VlmClient]) -> None:
    with VlmServer() as server:
        client = connect(server.url, timing=VlmTiming(probe_s=60))
        assert client.wait_until_probed(DEADLINE_S).available
        server.stop()
        with pytest.raises(VlmServerAway):
            ask(client, budget()).result(2)
        server.start()  # on its port
        until(lambda: client.state.available, 2.5)


def test_a_server_that_stops_in_its_tracks_is_away_and_its_pages_end(
    load: Callable[..., PaddleOcrVlEngine],
) -> None:
    with VlmServer() as server:
        engine = load(server.url, page_s=60, timing=VlmTiming(probe_s=0.2, probe_away_s=0.2))
        until(lambda: engine.unavailable() is None)
        server.control(hang=True)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read, engine)
            until(lambda: server.counters()["in_flight"] == BLOCKS)
            server.pause()
            started = time.monotonic()
            assert isinstance(reading.result(DEADLINE_S), VlmServerAway)
            # Two probes of 0.5 s and the pauses before them.
            assert 0.8 < time.monotonic() - started < 3
        state = engine.vlm_server()
        assert state is not None and state.reason == "it does not respond within 0.5 s"
        server.resume()
        server.control(hang=False)
        assert until(lambda: engine.unavailable() is None, 2.5) < 2.5
        assert not good(read(engine)).degraded


def test_a_server_that_is_late_once_is_not_away(
    server: VlmServer, connect: Callable[..., VlmClient], told: list[str]
) -> None:
    client = connect(server.url)
    assert client.wait_until_probed(DEADLINE_S).available
    server.control(hang_models=True)
    probe_now(client)
    assert client.state.available
    server.control(hang_models=False)
    probe_now(client)
    server.control(hang_models=True)
    probe_now(client)
    assert client.state.available  # twice late, but not in a row
    assert len(about(server.url, told)) == 1


def test_a_client_may_be_closed_twice() -> None:
    url = free_url()
    client = VlmClient(settings(url), url=url, api_key=None, concurrency=1)
    client.close()
    client.close()
    assert not client._thread.is_alive()


def test_the_light_page_has_as_many_blocks_as_these_tests_count() -> None:
    assert sum(box.label != "image" for box in LIGHT_BOXES) == BLOCKS
