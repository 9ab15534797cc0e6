"""The stand-in for an inference server behaves like one, also to the real client."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.support.vlm_server import ANSWERS, MODEL, OCR_TEXT, VlmServer


def image_uri(kind: str = "jpeg") -> str:
    stream = io.BytesIO()
    Image.new("RGB", (28, 28), "white").save(stream, kind)
    return f"data:image/{kind};base64," + base64.b64encode(stream.getvalue()).decode()


def messages(prompt: str = "OCR:", url: str | None = None) -> list[Any]:
    image = {"type": "image_url", "image_url": {"url": url or image_uri()}}
    return [{"role": "user", "content": [image, {"type": "text", "text": prompt}]}]


@pytest.fixture
async def client(server: VlmServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=server.url, api_key="null", max_retries=0, timeout=20) as client:
        yield client


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_the_real_client_lists_the_model_and_gets_the_answer_of_each_prompt(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]
    for prompt, expected in ANSWERS.items():
        completion = await client.chat.completions.create(
            model=MODEL,
            messages=messages(prompt, image_uri("png")),
            temperature=0,
            max_completion_tokens=4096,
            extra_body={"mm_processor_kwargs": {"min_pixels": 112_896}},
        )
        assert completion.choices[0].message.content == expected
        assert completion.choices[0].finish_reason == "stop"
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 200
        assert completion.usage.total_tokens == completion.usage.prompt_tokens + 200


@pytest.mark.parametrize("limit", ["max_completion_tokens", "max_tokens"])
async def test_an_answer_is_cut_where_the_tokens_end(client: openai.AsyncOpenAI, limit: str) -> None:
    limits: dict[str, Any] = {limit: 100}
    completion = await client.chat.completions.create(model=MODEL, messages=messages(), **limits)
    assert completion.choices[0].finish_reason == "length"
    assert completion.choices[0].message.content == OCR_TEXT[: len(OCR_TEXT) // 2]
    assert completion.usage is not None and completion.usage.completion_tokens == 100


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "gpt-4"}, "gpt-4"),
        ({"messages": messages("What is this?")}, "What is this?"),
        ({"messages": messages() * 2}, "one user message"),
        ({"messages": [{"role": "user", "content": "OCR:"}]}, "one user message"),
        ({"messages": messages(url="http://127.0.0.1/image.png")}, "data URI"),
        ({"messages": messages(url="data:image/jpeg;base64,!!!!")}, "base64"),
        ({"messages": messages(url="data:image/jpeg;base64,AAAA")}, "image/jpeg"),
        ({"messages": messages(url=image_uri().replace("jpeg", "png"))}, "image/png"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
async def test_what_the_client_of_paddlex_does_not_send_is_refused(
    server: VlmServer, client: openai.AsyncOpenAI, change: dict[str, Any], says: str
) -> None:
    refused = server.counters()["refused"]
    request: dict[str, Any] = {"model": MODEL, "messages": messages(), **change}
    with pytest.raises(openai.BadRequestError, match=says.replace("?", ".")):
        await client.chat.completions.create(**request)
    assert server.counters()["refused"] == refused + 1


async def test_answers_cost_their_tokens_all_at_once(server: VlmServer, client: openai.AsyncOpenAI) -> None:
    server.control(tokens=50, token_ms=10)
    start = time.monotonic()
    requests = [client.chat.completions.create(model=MODEL, messages=messages()) for _ in range(16)]
    await asyncio.gather(*requests)
    assert 0.5 <= time.monotonic() - start < 4  # one after another they take 8 s
    assert server.counters()["most_in_flight"] >= 8


async def test_a_client_that_goes_away_is_counted_and_costs_nothing_more(
    server: VlmServer, client: openai.AsyncOpenAI
) -> None:
    server.control(hang=True)
    cancelled = server.counters()["cancelled"]
    request = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=messages()))
    await until(lambda: server.counters()["in_flight"] == 1)
    request.cancel()
    await until(lambda: server.counters()["cancelled"] == cancelled + 1)
    assert server.counters()["in_flight"] == 0


async def test_completions_fail_as_set(server: VlmServer, client: openai.AsyncOpenAI) -> None:
    async def status() -> int:
        try:
            await client.chat.completions.create(model=MODEL, messages=messages())
        except openai.APIStatusError as error:
            return error.status_code
        return 200

    failed = server.counters()["failed"]
    server.control(fail_every=3)
    assert [await status() for _ in range(6)] == [200, 200, 500, 200, 200, 500]
    server.control(fail_every=None, status=429)
    assert await status() == 429
    server.control(status=None)
    assert await status() == 200
    assert server.counters()["failed"] == failed + 3


async def test_while_loading_all_is_503(server: VlmServer, client: openai.AsyncOpenAI) -> None:
    async with httpx.AsyncClient(base_url=server.url.removesuffix("/v1")) as prober:
        server.control(loading=True)
        assert (await prober.get("/health")).status_code == 503
        with pytest.raises(openai.InternalServerError):
            await client.models.list()
        server.control(loading=False)
        assert (await prober.get("/health")).status_code == 200


def test_the_probe_hangs_as_set(server: VlmServer) -> None:
    server.control(hang_models=True)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{server.url}/models", timeout=0.2)


def test_a_setting_that_does_not_exist_is_an_error(server: VlmServer) -> None:
    with pytest.raises(ValueError, match="hangs"):
        server.control(hangs=True)
    with pytest.raises(ValueError, match="tokens"):
        server.control(tokens="many")


async def test_a_key_is_asked_for_where_one_is_set() -> None:
    with VlmServer(api_key="secret") as server:
        with pytest.raises(openai.AuthenticationError):
            async with openai.AsyncOpenAI(base_url=server.url, api_key="null", max_retries=0) as stranger:
                await stranger.models.list()
        async with openai.AsyncOpenAI(base_url=server.url, api_key="secret", max_retries=0) as client:
            assert [model.id async for model in client.models.list()] == [MODEL]
            await client.chat.completions.create(model=MODEL, messages=messages())


def test_it_pauses_resumes_and_comes_back_on_its_port() -> None:
    with VlmServer() as server:
        url = server.url
        server.pause()
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{url}/models", timeout=0.2)
        server.resume()
        assert httpx.get(f"{url}/models").status_code == 200
        server.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/models")
        server.start()
        assert server.url == url
        assert httpx.get(f"{url}/models").status_code == 200
