"""The client of an inference server that reads blocks: deadlines, retries, and a bound on what is in flight.

It takes the place of paddlex's own client, which never looks whether its server is there and gives each
request ten minutes. The requests themselves are still made by paddlex: it knows what each kind of server wants.
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

from serve_app.errors import VlmServerAway
from serve_app.recognition.engines.engine import VlmServerState
from serve_app.recognition.engines.paddleocr_vl.budget import PageBudget, Shortfall, page_budget
from serve_app.recognition.engines.paddleocr_vl.vlm_answer import AnswerTooLarge, read_bounded
from serve_app.recognition.engines.paddleocr_vl.vlm_probe import ServerProbe, refusal
from serve_app.settings import VlmServerSettings

log = logging.getLogger("ray.serve.vlm_server")

AWAY_RETRY_AFTER_S = 10
# Reading a block changes nothing, so a request that the server did not answer, or could not, may be sent
# again. One that ran into a deadline, ours or a proxy's, may not: the server would do the same work twice.
# As many tries as make a block of a server that fails every fifth time fail once in 80,000: a page has dozens.
TRIES = 7
RETRY_PAUSE_S = 0.2
MOST_PAUSE_S = 1.0
RETRIED = frozenset({409, 429, 500, 502, 503})
# The server is there, but not for us: a key, a name or an address is wrong, and no block will fare better.
REFUSED = frozenset({301, 302, 303, 307, 308, 401, 403, 404})
# Where a server does not say how many tokens a text took.
CHARACTERS_A_TOKEN = 4
# An answer larger than this is no text of a block.
ANSWER_BYTES = 4_000_000
# So many errors without a success between them are the server's, not a page's.
ERRORS_IN_A_ROW = 20


class VlmClient:
    """Asks a server for blocks, from the threads of many pages, in an event loop of its own.

    At most `concurrency` blocks are in flight. `create_chat_completion` and `backend` are what paddlex
    uses of its client.
    """

    def __init__(self, settings: VlmServerSettings, *, url: str, api_key: str | None, concurrency: int) -> None:
        self.backend = settings.backend
        self._url = url.rstrip("/")
        self._concurrency = concurrency
        self._api_key = api_key
        self._errors_in_a_row = 0
        self._connect_s = settings.connect_s
        self._asked: set[asyncio.Task[Any] | None] = set()  # blocks in flight and those that wait for a place
        self._closing = False
        self._inflight: dict[asyncio.Task[_Completion], PageBudget] = {}
        self._probe = ServerProbe(
            self._url, model=settings.model, timeout_s=settings.connect_s, on_away=self._give_up_in_flight
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vlm-client", daemon=True)
        self._thread.start()
        self._submit(self._open()).result()

    @property
    def state(self) -> VlmServerState:
        return self._probe.state

    def wait_until_probed(self, timeout_s: float) -> VlmServerState:
        """The state after the first probe, or what is known after `timeout_s`."""
        self._probe.first.wait(timeout_s)
        return self._probe.state

    def create_chat_completion(
        self, messages: list[dict[str, Any]], *, return_future: bool, timeout: float, **request: Any
    ) -> concurrent.futures.Future[Any]:
        """Ask for one block of the page in `page_budget`; the future is an OpenAI-like completion.

        Its text is empty where the page has run out of time or tokens, or the server would not read this
        block, which the budget notes. The future raises VlmServerAway.
        """
        budget = page_budget.get()
        extra = request.pop("extra_body", {})
        body = {"messages": messages, **request, **extra}
        return self._submit(self._complete(body, budget))

    def abandon(self, budget: PageBudget) -> None:
        """Give up the blocks of a page that nobody waits for; the server sees the connection close."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._give_up_in_flight, budget)

    def close(self) -> None:
        if self._loop.is_running():
            self._submit(self._close()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _submit(self, work: Any) -> concurrent.futures.Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _open(self) -> None:
        self._places = asyncio.Semaphore(self._concurrency)
        self._session = aiohttp.ClientSession(
            headers={
                "Accept-Encoding": "identity",  # an answer's size is what arrives
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
        self._give_up_in_flight()
        await asyncio.gather(self._probing, *filter(None, self._asked), return_exceptions=True)
        await self._session.close()

    async def _complete(self, body: dict[str, Any], budget: PageBudget) -> Any:
        this = asyncio.current_task()
        self._asked.add(this)
        try:
            return await self._in_time(body, budget)
        finally:
            self._asked.discard(this)

    async def _in_time(self, body: dict[str, Any], budget: PageBudget) -> Any:
        token_limit = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
        completion = None
        with contextlib.suppress(TimeoutError):
            # The wait for a place counts: other pages may hold all of them past this page's deadline.
            async with asyncio.timeout(budget.left_s), self._places:
                allowed = budget.next_block(body.get(token_limit))
                if not allowed:
                    return _answer("")
                completion = await self._answered({**body, token_limit: allowed}, budget)
        if completion is None:
            budget.note(Shortfall.OUT_OF_TIME)
            return _answer("")
        if completion.text is None:
            budget.note(Shortfall.FAILED)
            budget.failure = completion.problem
            return _answer("")
        budget.done(completion.tokens, cut=completion.cut)
        return _answer(completion.text)

    async def _answered(self, body: dict[str, Any], budget: PageBudget) -> _Completion:
        """One block, given up when the server is found to be away. Raises VlmServerAway.

        Raises TimeoutError where its page was abandoned.
        """
        task = asyncio.create_task(self._ask(body))
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

    async def _ask(self, body: dict[str, Any]) -> _Completion:
        """One block. Raises VlmServerAway."""
        problem = ""
        for attempt in range(1, TRIES + 1):
            if not self._probe.state.available or self._closing:
                raise _away()
            body["model"] = self._probe.model
            try:
                async with self._session.post(
                    f"{self._url}/chat/completions", json=body, allow_redirects=False
                ) as response:
                    told = await read_bounded(response, ANSWER_BYTES)
            except AnswerTooLarge:
                return _failed(f"an answer of more than {ANSWER_BYTES} bytes")
            except (aiohttp.ClientError, OSError) as error:
                # Is it the connection or the server? The probe tells, before this block is tried again.
                problem = type(error).__name__
                await self._probe.now()
            else:
                if response.status == 200:
                    self._errors_in_a_row = 0
                    return _completion(told)
                problem = f"status {response.status}: {self._shown(told)}"
                if response.status in REFUSED:
                    self._probe.refused(refusal(response.status))
                    raise _away()
                if response.status not in RETRIED:
                    return _failed(problem)
                self._errors_in_a_row += 1
                if self._errors_in_a_row >= ERRORS_IN_A_ROW:
                    self._errors_in_a_row = 0
                    self._probe.refused(f"it fails every block ({problem})")
                    raise _away()
                if response.status == 503:
                    await self._probe.now()
            if attempt < TRIES:
                await asyncio.sleep(min(RETRY_PAUSE_S * 2**attempt, MOST_PAUSE_S))
        return _failed(f"{problem} ({TRIES} tries)")

    def _shown(self, told: bytes) -> str:
        """What the server said, fit for a log: short, one line, without our key."""
        text = told[:200].decode("utf-8", "replace")
        return repr(text.replace(self._api_key, "***") if self._api_key else text)

    def _give_up_in_flight(self, budget: PageBudget | None = None) -> None:
        for task, of in self._inflight.items():
            if budget is None or of is budget:
                task.cancel()


@dataclass(frozen=True)
class _Completion:
    """The answer to one block; `text` is None where there is none, and `problem` tells why."""

    text: str | None
    tokens: int = 0
    cut: bool = False
    problem: str | None = None


def _completion(told: bytes) -> _Completion:
    """The text in an OpenAI chat completion."""
    try:
        answer = json.loads(told)
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        counted = (answer.get("usage") or {}).get("completion_tokens")
        cut = choice.get("finish_reason") == "length"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return _failed("an answer that is no chat completion")
    if not isinstance(text, str):
        return _failed("an answer without text")
    tokens = counted if isinstance(counted, int) and counted > 0 else len(text) // CHARACTERS_A_TOKEN
    return _Completion(text, tokens, cut)


def _failed(problem: str) -> _Completion:
    return _Completion(None, problem=problem)


def _answer(text: str) -> Any:
    return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=text))])


def _away() -> VlmServerAway:
    return VlmServerAway(retry_after_s=AWAY_RETRY_AFTER_S)
