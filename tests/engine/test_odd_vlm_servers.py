"""What answers at the inference server's address is anybody's: odd lists of models, odd answers, other addresses."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from serve_app.errors import VlmServerAway
from serve_app.recognition.engines.paddleocr_vl import adapter, vlm_client
from serve_app.recognition.engines.paddleocr_vl.budget import PageBudget, page_budget
from serve_app.recognition.engines.paddleocr_vl.vlm_client import VlmClient
from serve_app.recognition.engines.paddleocr_vl.vlm_probe import VlmTiming
from serve_app.settings import VlmServerSettings

KEY = "a-secret-key"
MESSAGES = [{"role": "user", "content": "OCR:"}]
Answer = Callable[[web.Request], web.StreamResponse]


class OddServer:
    """Answers `/v1/models` and `/v1/chat/completions` as it is told."""

    def __init__(self) -> None:
        self.models: Answer = lambda request: web.json_response({"data": [{"id": "m"}]})
        self.completions: Answer = lambda request: completion("text")
        self.requests: list[str] = []
        self.delay_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    async def _start(self) -> str:
        async def answer(request: web.Request) -> web.StreamResponse:
            self.requests.append(request.path)
            await request.read()
            if request.path.endswith("/completions"):
                await asyncio.sleep(self.delay_s)
            return self.models(request) if request.path.endswith("/models") else self.completions(request)

        application = web.Application(client_max_size=10**8)
        application.router.add_route("*", "/{path:.*}", answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def completion(content: Any, **choice: Any) -> web.Response:
    return raw(json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop", **choice}]}).encode())


def raw(body: bytes, **options: Any) -> web.Response:
    return web.Response(body=body, content_type="application/json", **options)


@pytest.fixture
def server() -> Iterator[OddServer]:
    made = OddServer()
    yield made
    made.stop()


@pytest.fixture
def client(server: OddServer) -> Iterator[VlmClient]:
    made = VlmClient(
        VlmServerSettings(backend="vllm-server", url=server.url),
        url=server.url,
        api_key=KEY,
        concurrency=8,
        timing=VlmTiming(probe_s=0.05, probe_away_s=0.05, refused_s=0.2, first_retry_s=0.002),
    )
    until(lambda: made.state.available)
    yield made
    made.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(client: VlmClient, *, tokens: int = 1000) -> tuple[str, PageBudget]:
    budget = PageBudget(seconds=10, tokens=tokens, block_tokens=100)
    budget.start()
    page_budget.set(budget)
    answer = client.create_chat_completion(MESSAGES, return_future=True, timeout=1, max_completion_tokens=100)
    return answer.result(20).choices[0].message.content, budget


def codes(budget: PageBudget) -> list[str]:
    return [warning.code for warning in budget.warnings()]


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [{"id": 7}, {"id": null}, {"id": {"a": 1}}]}',
        b"[" * 100_000,
        b"<html>not here</html>",
        b'{"data": 5}',
        b'{"data": [{"id": "two\\nlines\\u001b[31m"}]}',
        b'{"data": [' + b'{"id": "x"},' * 200_000 + b'{"id": "x"}]}',
        b"\xff\xfe",
    ],
    ids=["numbers", "deep", "html", "no list", "control characters", "long", "no text"],
)
def test_after_an_odd_list_of_models_the_server_is_asked_again(
    server: OddServer, client: VlmClient, body: bytes
) -> None:
    good = server.models
    server.models = lambda request: web.Response(status=503)
    until(lambda: not client.state.available)
    server.models = lambda request: raw(body)
    seen = len(server.requests)
    until(lambda: len(server.requests) >= seen + 2)
    assert "cannot be connected" not in (client.state.reason or "")
    assert (client.state.reason or "x").isprintable()
    server.models = good
    until(lambda: client.state.available and client._probe.model == "m")


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: completion(None),
        lambda request: completion(42),
        lambda request: completion(["text"]),
        lambda request: raw(b"<html>"),
        lambda request: raw(b"[" * 100_000),
        lambda request: raw(b'{"choices": []}'),
        lambda request: raw(b"{}"),
        lambda request: raw(b"x" * (vlm_client.MAX_RESPONSE_BYTES + 1)),
        lambda request: web.Response(status=400, text=f"key={request.headers['Authorization']}\n\x1b[31m fake line"),
    ],
    ids=["null", "number", "list", "html", "deep", "no choice", "empty", "large", "refused"],
)
def test_an_answer_without_text_is_a_failed_block_and_no_more(
    server: OddServer, client: VlmClient, answer: Answer
) -> None:
    server.completions = answer
    text, budget = ask(client)
    assert (text, budget.read, codes(budget)) == ("", 0, ["block_failed"])
    assert server.requests.count("/v1/chat/completions") == 1, "what was answered is not asked again"
    assert client.state.available
    assert budget.failure and KEY not in budget.failure
    assert budget.failure.isprintable() and len(budget.failure) < 300


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(server: OddServer, client: VlmClient, status: int) -> None:
    elsewhere = OddServer()
    try:
        server.completions = lambda request: web.Response(
            status=status, headers={"Location": f"{elsewhere.url}/chat/completions"}
        )
        with pytest.raises(VlmServerAway):
            ask(client)
        assert not elsewhere.requests
        assert not client.state.available and str(status) in (client.state.reason or "")
        server.completions = lambda request: completion("text")
        until(lambda: client.state.available)
        assert ask(client)[0] == "text"
    finally:
        elsewhere.stop()


def test_a_server_that_fails_every_block_is_away(server: OddServer, client: VlmClient) -> None:
    server.completions = lambda request: web.Response(status=500, text="CUDA out of memory")
    with pytest.raises(VlmServerAway):
        for _ in range(vlm_client.ERRORS_IN_A_ROW):
            ask(client)
    assert "it fails every block (status 500: 'CUDA out of memory')" in (client.state.reason or "")
    server.completions = lambda request: completion("text")
    until(lambda: client.state.available)
    assert ask(client)[0] == "text"


def test_tokens_are_estimated_where_the_server_does_not_count(server: OddServer, client: VlmClient) -> None:
    server.completions = lambda request: completion("слово " * 1000)
    _, budget = ask(client, tokens=500)
    assert budget.next_block(None) == 0 and "page_out_of_tokens" in codes(budget)


def test_closing_ends_blocks_in_flight_and_those_that_wait_for_a_place(server: OddServer, client: VlmClient) -> None:
    server.delay_s = 30
    budget = PageBudget(seconds=60, tokens=1000, block_tokens=10)
    budget.start()
    page_budget.set(budget)
    blocks = [client.create_chat_completion(MESSAGES, return_future=True, timeout=1) for _ in range(12)]
    until(lambda: server.requests.count("/v1/chat/completions") == 8)  # as many as have a place
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 5
    assert all(isinstance(block.exception(5), VlmServerAway) for block in blocks)
    client.close()  # twice does no harm


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Привет, мир\tи\nвсё 🙂", "Привет, мир\tи\nвсё 🙂"),
        ("a\ud800b", "a?b"),
        ("a\x00b\x1b[31mc\r\n", "ab[31mc\n"),
    ],
)
def test_text_can_be_sent_on_whatever_a_server_wrote(text: str, clean: str) -> None:
    assert adapter._clean(text) == clean


def test_a_table_is_bounded_before_the_library_makes_a_rectangle_of_it() -> None:
    usual = "<nl>".join("<fcel>a<fcel>b<lcel>" for _ in range(500))
    assert adapter._cut_table(usual) == usual
    bomb = "<fcel>" * 900 + "<nl>" + "<fcel>x<nl>" * 900
    kept = adapter._cut_table(bomb)
    rows = kept.split("<nl>")
    assert len(rows) >= 1 and len(rows) * 900 <= adapter.MAX_CELLS
    assert adapter._cut_table("<fcel>" * 100_000) == ""
