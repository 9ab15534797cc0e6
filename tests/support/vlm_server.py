"""A stand-in for an OpenAI-compatible inference server with PaddleOCR-VL, as a process of its own.

    python -m tests.support.vlm_server --port N [--tokens 200] [--token-ms 5] [--api-key KEY]

prints `READY PORT` when it listens on the loopback address, and runs until a signal. It answers what
PaddleX's client asks with a fixed text for each prompt; an answer costs tokens x token_ms milliseconds,
any number of them at once, which is how continuous batching looks from outside.

`POST /control` changes how it behaves while it runs (the fields of `Behaviour`); `GET /control` counts.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import http.client
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict

from aiohttp import web

HOST = "127.0.0.1"
MODEL = "PaddleOCR-VL-1.6-0.9B"
OCR_TEXT = "Съешь ещё этих мягких французских булок, да выпей чаю. The quick brown fox."
ANSWERS = {
    "OCR:": OCR_TEXT,
    "Table Recognition:": "<fcel>Item<fcel>Price<nl><fcel>Tea<fcel>3.50<nl>",
    "Formula Recognition:": "\\[ E=mc^{2} \\]",
    "Chart Recognition:": "Year | Sales\n2024 | 10",
    "Seal Recognition:": "APPROVED",
    "Spotting:": "Spotted<|LOC_10|><|LOC_10|><|LOC_90|><|LOC_10|><|LOC_90|><|LOC_90|><|LOC_10|><|LOC_90|>",
}
PROMPT_TOKENS = 300  # about an image of 200,000 pixels
MAX_BODY = 64 * 2**20
START_S = 20.0
CONTROL_S = 10.0

REPOSITORY = Path(__file__).parents[2]

_IMAGES = {  # how a file of the format begins and ends
    "image/jpeg": (b"\xff\xd8\xff", b"\xff\xd9"),
    "image/png": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
}


@dataclass(frozen=True)
class Behaviour:
    """What `POST /control` sets; a null there stands for the value at the start."""

    tokens: int = 200  # of every answer, whatever its text
    token_ms: float = 5.0
    text: str = OCR_TEXT  # answer to "OCR:"
    fail_every: int = 0  # every n-th completion answers 500; 0: none
    status: int = 0  # every completion answers with this status; 0: none
    hang: bool = False  # completions never answer
    hang_models: bool = False  # the list of models never answers
    loading: bool = False  # all but /control answers 503

    def changed(self, settings: dict[str, Any], start: Behaviour) -> Behaviour:
        """With some fields set. Raises ValueError for an unknown name or a value of another type."""
        types = {field.name: type(field.default) for field in fields(self)}
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in types:
                raise ValueError(f"unknown setting {name!r}; there are {', '.join(types)}")
            if value is None:
                value = getattr(start, name)
            elif types[name] is float and type(value) is int:
                value = float(value)
            if type(value) is not types[name]:
                raise ValueError(f"{name} is {value!r}, not of type {types[name].__name__}")
            values[name] = value
        return replace(self, **values)


class Counters(TypedDict):
    """Completions since the start of the process."""

    requests: int  # received, with all that follow
    in_flight: int  # right now
    most_in_flight: int
    refused: int  # 400 and 401: not what PaddleX's client sends
    failed: int  # by `fail_every`, `status` or `loading`
    cancelled: int  # the client went away before the answer


class _Refused(Exception):
    """A request that is not what PaddleX's client sends."""


def _error(status: int, message: str) -> web.Response:
    kinds = {400: "BadRequestError", 401: "AuthenticationError", 503: "ServiceUnavailableError"}
    body = {"message": message, "type": kinds.get(status, "InternalServerError"), "param": None, "code": status}
    return web.json_response({"error": body}, status=status)


def _prompt(body: Any, model: str) -> str:
    """The prompt of a chat completion. Raises _Refused."""
    if not isinstance(body, dict):
        raise _Refused("the body is not a JSON object")
    if body.get("model") != model:
        raise _Refused(f"the model {body.get('model')!r} does not exist")
    if body.get("stream"):
        raise _Refused("streaming is not supported here")
    try:
        (message,) = body["messages"]
        parts = {part["type"]: part for part in message["content"]}
        if message["role"] != "user" or len(message["content"]) != 2:
            raise _Refused("expected one user message of an image and a text")
        prompt, url = parts["text"]["text"], parts["image_url"]["image_url"]["url"]
    except (KeyError, TypeError, ValueError):
        raise _Refused("expected one user message of an image and a text") from None
    _check_image(url)
    if prompt not in ANSWERS:
        raise _Refused(f"unknown prompt {prompt!r}")
    return str(prompt)


def _check_image(url: Any) -> None:
    """Raises _Refused for anything but a data URI with a whole JPEG or PNG file."""
    head, comma, encoded = url.partition(",") if isinstance(url, str) else ("", "", "")
    kind = head.removeprefix("data:").removesuffix(";base64")
    if not comma or head != f"data:{kind};base64" or kind not in _IMAGES:
        raise _Refused("the image is not a data URI of a JPEG or PNG file")
    begin, end = _IMAGES[kind]
    try:
        image = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise _Refused("the image is not base64") from None
    if not image.startswith(begin) or not image.endswith(end):
        raise _Refused(f"the image is not a whole file of the type {kind}")


def _max_tokens(body: dict[str, Any]) -> float:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = body.get(name)
        if limit is not None:
            if type(limit) is not int or limit < 1:
                raise _Refused(f"{name} must be a whole number of at least 1")
            return limit
    return math.inf


class StandIn:
    """The server's state and its handlers."""

    def __init__(self, behaviour: Behaviour, *, model: str, api_key: str | None) -> None:
        self._start = self._behaviour = behaviour
        self._model = model
        self._api_key = api_key
        self._completions = 0  # since `fail_every` was last set
        self._counters = Counters(requests=0, in_flight=0, most_in_flight=0, refused=0, failed=0, cancelled=0)

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._gate], client_max_size=MAX_BODY)
        application.add_routes(
            [
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._complete),
                web.get("/control", self._count),
                web.post("/control", self._control),
            ]
        )
        return application

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path == "/v1/chat/completions":
            return await self._counted(request, handler)
        return self._closed(request) or await handler(request)

    def _closed(self, request: web.Request) -> web.Response | None:
        if request.path == "/control":
            return None
        if self._behaviour.loading:
            return _error(503, "Loading model")
        needs_key = self._api_key is not None and request.path.startswith("/v1/")
        if needs_key and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return _error(401, "Unauthorized")
        return None

    async def _counted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        counters = self._counters
        counters["requests"] += 1
        counters["in_flight"] += 1
        counters["most_in_flight"] = max(counters["most_in_flight"], counters["in_flight"])
        try:
            closed = self._closed(request)
            if closed is not None:
                counters["failed" if closed.status == 503 else "refused"] += 1
            return closed or await handler(request)
        except _Refused as refusal:
            counters["refused"] += 1
            return _error(400, str(refusal))
        except (asyncio.CancelledError, ConnectionResetError):
            counters["cancelled"] += 1
            raise
        finally:
            counters["in_flight"] -= 1

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        if self._behaviour.hang_models:
            await asyncio.Event().wait()
        model = {"id": self._model, "object": "model", "created": int(time.time()), "owned_by": "vllm"}
        return web.json_response({"object": "list", "data": [model]})

    async def _complete(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
        except ValueError:
            raise _Refused("the body is not JSON") from None
        prompt = _prompt(body, self._model)
        limit = _max_tokens(body)
        behaviour = self._behaviour
        self._completions += 1
        if behaviour.status:
            self._counters["failed"] += 1
            return _error(behaviour.status, f"status {behaviour.status}, as it was set")
        if behaviour.fail_every and self._completions % behaviour.fail_every == 0:
            self._counters["failed"] += 1
            return _error(500, f"completion {self._completions} fails, as it was set")
        if behaviour.hang:
            await asyncio.Event().wait()
        text = behaviour.text if prompt == "OCR:" else ANSWERS[prompt]
        tokens = behaviour.tokens
        if tokens > limit:
            text, tokens = text[: int(len(text) * limit / tokens)], int(limit)
        await asyncio.sleep(tokens * behaviour.token_ms / 1000)
        return web.json_response(self._completion(text, tokens, "stop" if tokens == behaviour.tokens else "length"))

    def _completion(self, text: str, tokens: int, finish_reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {
            "id": f"chatcmpl-{self._counters['requests']}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
            "usage": {
                "prompt_tokens": PROMPT_TOKENS,
                "completion_tokens": tokens,
                "total_tokens": PROMPT_TOKENS + tokens,
            },
        }

    async def _count(self, request: web.Request) -> web.Response:
        return web.json_response(self._counters)

    async def _control(self, request: web.Request) -> web.Response:
        settings = await request.json()
        try:
            self._behaviour = self._behaviour.changed(settings, self._start)
        except ValueError as error:
            return _error(400, str(error))
        if "fail_every" in settings:
            self._completions = 0
        return web.json_response(asdict(self._behaviour))


async def _run(stand_in: StandIn, port: int, *, until_eof: bool) -> None:
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    if until_eof:
        loop.add_reader(sys.stdin.fileno(), end.set)  # nobody writes there
    # A handler is cancelled when its client goes away, as an inference server ends a sequence then.
    runner = web.AppRunner(stand_in.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, port, backlog=1024).start()
    print(f"READY {runner.addresses[0][1]}", flush=True)
    await end.wait()
    await runner.cleanup()


class VlmServer:
    """The stand-in for tests: a process that ends with this one. Usable as a context manager.

    Answers come at once unless `token_ms` says otherwise.
    """

    def __init__(
        self, *, tokens: int = 200, token_ms: float = 0.0, api_key: str | None = None, model: str = MODEL
    ) -> None:
        self._options = ["--tokens", str(tokens), "--token-ms", str(token_ms), "--model", model]
        if api_key is not None:
            self._options += ["--api-key", api_key]
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None

    @property
    def url(self) -> str:
        """Address up to `/v1`, known from the first start on."""
        assert self._port is not None, "the server was never started"
        return f"http://{HOST}:{self._port}/v1"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self, port: int | None = None) -> None:
        """Start it and wait until it listens. Without `port`, on the one it had before, or a free one.

        Raises RuntimeError if it does not listen in time.
        """
        assert self._process is None, "the server runs already"
        options = ["--port", str(port or self._port or 0), "--until-eof", *self._options]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.vlm_server", *options],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,  # its end tells the server that this process is gone
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_S)
        line = self._process.stdout.readline().split() if ready else []
        if line[:1] != [b"READY"]:
            self.stop()
            raise RuntimeError("the stand-in for an inference server did not start; more is on stderr")
        self._port = int(line[1])

    def stop(self) -> None:
        """Kill it (SIGKILL), paused or not. Does nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def pause(self) -> None:
        """Stop it in its tracks: connections are accepted by the kernel, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def control(self, **settings: Any) -> None:
        """Set fields of `Behaviour`; None stands for the value at the start. Raises ValueError."""
        self._ask("POST", json.dumps(settings))

    def counters(self) -> Counters:
        counters: Counters = self._ask("GET", None)
        return counters

    def _ask(self, method: str, body: str | None) -> Any:
        with contextlib.closing(http.client.HTTPConnection(HOST, self._port, timeout=CONTROL_S)) as connection:
            connection.request(method, "/control", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = json.loads(answer.read())
        if answer.status != 200:
            raise ValueError(content["error"]["message"])
        return content

    def __enter__(self) -> VlmServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.vlm_server")
    parser.add_argument("--port", type=int, required=True, help="0: a free one")
    parser.add_argument("--tokens", type=int, default=Behaviour.tokens, help="tokens of an answer")
    parser.add_argument("--token-ms", type=float, default=Behaviour.token_ms, help="milliseconds of a token")
    parser.add_argument("--api-key", help="key that requests must bear; without: none")
    parser.add_argument("--model", default=MODEL, help="name of the one model")
    parser.add_argument("--until-eof", action="store_true", help="end also when stdin ends")
    options = parser.parse_args()
    behaviour = Behaviour(tokens=options.tokens, token_ms=options.token_ms)
    stand_in = StandIn(behaviour, model=options.model, api_key=options.api_key)
    asyncio.run(_run(stand_in, options.port, until_eof=options.until_eof))


if __name__ == "__main__":
    main()
