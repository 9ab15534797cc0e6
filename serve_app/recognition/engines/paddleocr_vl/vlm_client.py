"""The client of an inference server that reads blocks: deadlines, retries, and a limit on blocks in flight.

It replaces paddlex's client, which never checks whether its server is there and gives each request ten minutes.
Paddlex still builds the requests: it knows the dialect of each kind of server.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
from anyio import CapacityLimiter

from serve_app.errors import VlmServerAway
from serve_app.recognition.engines.engine import VlmServerState
from serve_app.recognition.engines.paddleocr_vl.budget import PageBudget, Shortfall, page_budget
from serve_app.recognition.engines.paddleocr_vl.vlm_probe import DEFAULT_TIMING, ServerProbe, VlmTiming, refusal
from serve_app.recognition.engines.paddleocr_vl.vlm_response import ResponseTooLarge, read_bounded
from serve_app.settings import VlmServerSettings

log = logging.getLogger("ray.serve.vlm_server")

AWAY_RETRY_AFTER_S = 10
# Reading a block changes nothing, so a request that failed may be sent again. A request that met a deadline, ours or a
# proxy's, may not: the server would do the same work twice.
# If a server fails one request in five, seven tries lose one block in 80,000. A page has dozens of blocks.
TRIES = 7
FULL = 429
RETRIED = frozenset({409, FULL, 500, 502, 503})
# A key, a name or an address is wrong, so every block would fail.
REFUSED = frozenset({301, 302, 303, 307, 308, 401, 403, 404})
# An estimate for servers that do not report tokens.
CHARACTERS_PER_TOKEN = 4
# A larger response cannot be the text of a block.
MAX_RESPONSE_BYTES = 4_000_000
# After this many errors in a row, the fault is the server's and not a page's.
ERRORS_IN_A_ROW = 20


class VlmClient:
    """Sends blocks to a server, for the threads of many pages, in an event loop of its own.

    At most `concurrency` blocks are in flight, or as many as `resize` says. Paddlex uses `create_chat_completion` and `backend`.
    """

    def __init__(
        self,
        settings: VlmServerSettings,
        *,
        url: str,
        api_key: str | None,
        concurrency: int,
        timing: VlmTiming = DEFAULT_TIMING,
    ) -> None:
        self.backend = settings.backend
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._errors_in_a_row = 0
        self._connect_s = settings.connect_s
        self._timing = timing
        self._blocks: set[asyncio.Task[Any] | None] = set()  # in flight or waiting for a slot
        self._closing = False
        self._inflight: dict[asyncio.Task[_Completion], PageBudget] = {}
        self._probe = ServerProbe(
            self._url,
            model=settings.model,
            timeout_s=settings.connect_s,
            on_away=self._cancel_in_flight,
            timing=timing,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vlm-client", daemon=True)
        self._thread.start()
        self._submit(self._open(concurrency)).result()

    @property
    def state(self) -> VlmServerState:
        return self._probe.state

    def wait_until_probed(self, timeout_s: float) -> VlmServerState:
        """Wait for the first probe, up to `timeout_s`, and return the state."""
        self._probe.probed.wait(timeout_s)
        return self._probe.state

    def create_chat_completion(
        self, messages: list[dict[str, Any]], *, return_future: bool, timeout: float, **request: Any
    ) -> concurrent.futures.Future[Any]:
        """Read one block of the page in `page_budget`. The future's result has the shape of OpenAI's completion.

        Its text is empty if the page has run out of time or tokens, or the server failed on this block; the budget
        records which. The future raises VlmServerAway.
        """
        budget = page_budget.get()
        extra = request.pop("extra_body", {})
        body = {"messages": messages, **request, **extra}
        return self._submit(self._complete(body, budget))

    def resize(self, concurrency: int) -> None:
        """Have at most this many blocks in flight from now on. If more are, they are finished. Does not block."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(setattr, self._slots, "total_tokens", concurrency)

    def abandon(self, budget: PageBudget) -> None:
        """Cancel the blocks of a page whose caller was cancelled. The server sees the connection close."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._cancel_in_flight, budget)

    def close(self) -> None:
        if self._loop.is_running():
            self._submit(self._close()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _submit(self, work: Any) -> concurrent.futures.Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _open(self, concurrency: int) -> None:
        self._slots = CapacityLimiter(concurrency)
        self._session = aiohttp.ClientSession(
            headers={
                "Accept-Encoding": "identity",  # so that the size limit holds for what arrives
                **({"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}),
            },
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
        )
        self._probing = asyncio.create_task(self._probe.run(self._session))

    async def _close(self) -> None:
        self._closing = True
        self._probing.cancel()
        self._cancel_in_flight()
        await asyncio.gather(self._probing, *filter(None, self._blocks), return_exceptions=True)
        await self._session.close()

    async def _complete(self, body: dict[str, Any], budget: PageBudget) -> Any:
        this = asyncio.current_task()
        self._blocks.add(this)
        try:
            return await self._within_budget(body, budget)
        finally:
            self._blocks.discard(this)

    async def _within_budget(self, body: dict[str, Any], budget: PageBudget) -> Any:
        token_limit = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
        completion = None
        with contextlib.suppress(TimeoutError):
            # The wait for a slot counts: other pages may use all of them past this page's deadline.
            async with asyncio.timeout(budget.left_s), self._slots:
                allowed = budget.next_block(body.get(token_limit))
                if not allowed:
                    return _openai_completion("")
                completion = await self._read_block({**body, token_limit: allowed}, budget)
        if completion is None:
            budget.note(Shortfall.OUT_OF_TIME)
            return _openai_completion("")
        if completion.text is None:
            budget.note(Shortfall.FAILED)
            budget.failure = completion.problem
            return _openai_completion("")
        budget.done(completion.tokens, cut=completion.cut)
        return _openai_completion(completion.text)

    async def _read_block(self, body: dict[str, Any], budget: PageBudget) -> _Completion:
        """Read one block; cancelled when the server turns out to be away.

        Raises VlmServerAway, and TimeoutError if its page was abandoned.
        """
        task = asyncio.create_task(self._send(body))
        self._inflight[task] = budget
        try:
            return await task
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if this is not None and this.cancelling():
                raise  # by its deadline, or because another block of the page failed
            if budget.left_s <= 0:
                raise TimeoutError from None
            raise _away() from None
        finally:
            del self._inflight[task]

    async def _send(self, body: dict[str, Any]) -> _Completion:
        """Send one block, with retries. Raises VlmServerAway."""
        problem = ""
        for attempt in range(1, TRIES + 1):
            if not self._probe.state.available or self._closing:
                raise _away()
            body["model"] = self._probe.model
            try:
                async with self._session.post(
                    f"{self._url}/chat/completions", json=body, allow_redirects=False
                ) as response:
                    content = await read_bounded(response, MAX_RESPONSE_BYTES)
            except ResponseTooLarge:
                return _failure(f"a response of more than {MAX_RESPONSE_BYTES} bytes")
            except (aiohttp.ClientError, OSError) as error:
                # A probe finds out whether only the connection or the whole server failed, before the next try.
                problem = type(error).__name__
                await self._probe.probe_now()
            else:
                if response.status == 200:
                    self._errors_in_a_row = 0
                    return _completion(content)
                problem = f"status {response.status}: {self._loggable(content)}"
                if response.status in REFUSED:
                    self._probe.report_refusal(refusal(response.status))
                    raise _away()
                if response.status not in RETRIED:
                    return _failure(problem)
                # One that is full is not broken.
                self._errors_in_a_row += response.status != FULL
                if self._errors_in_a_row >= ERRORS_IN_A_ROW:
                    self._errors_in_a_row = 0
                    self._probe.report_refusal(f"it fails every block ({problem})")
                    raise _away()
                if response.status == 503:
                    await self._probe.probe_now()
            if attempt < TRIES:
                pause_s = self._timing.first_retry_s * 2 ** (attempt - 1)
                await asyncio.sleep(min(pause_s, self._timing.longest_retry_s))
        return _failure(f"{problem} ({TRIES} tries)")

    def _loggable(self, content: bytes) -> str:
        """Return the beginning of a response for the log: one line, without our key."""
        text = content[:200].decode("utf-8", "replace")
        return repr(text.replace(self._api_key, "***") if self._api_key else text)

    def _cancel_in_flight(self, budget: PageBudget | None = None) -> None:
        for task, page in self._inflight.items():
            if budget is None or page is budget:
                task.cancel()


@dataclass(frozen=True)
class _Completion:
    """The result for one block. If `text` is None, `problem` says why."""

    text: str | None
    tokens: int = 0
    cut: bool = False
    problem: str | None = None


def _completion(content: bytes) -> _Completion:
    """Parse an OpenAI chat completion."""
    try:
        fields = json.loads(content)
        choice = fields["choices"][0]
        text = choice["message"]["content"]
        counted = (fields.get("usage") or {}).get("completion_tokens")
        cut = choice.get("finish_reason") == "length"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return _failure("a response that is no chat completion")
    if not isinstance(text, str):
        return _failure("a response without text")
    tokens = counted if isinstance(counted, int) and counted > 0 else len(text) // CHARACTERS_PER_TOKEN
    return _Completion(text, tokens, cut)


def _failure(problem: str) -> _Completion:
    return _Completion(None, problem=problem)


def _openai_completion(text: str) -> Any:
    return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=text))])


def _away() -> VlmServerAway:
    return VlmServerAway(retry_after_s=AWAY_RETRY_AFTER_S)
