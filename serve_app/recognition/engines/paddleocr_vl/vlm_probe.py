"""Whether the inference server is there: asked in the background, told in one log line a change."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable

import aiohttp

from serve_app.recognition.engines.engine import VlmServerState
from serve_app.recognition.engines.paddleocr_vl.vlm_answer import AnswerTooLarge, read_bounded

log = logging.getLogger("ray.serve.vlm_server")

# A server that is away is looked for often, so that work goes on soon after it is back.
PROBE_AWAY_S = 1.0
PROBE_S = 5.0
# A server at its limit may be late once; one that refuses the connection is away at once.
SILENT_PROBES = 2
# A server that lists its models but reads no blocks for us is not asked for blocks again for so long.
REFUSED_S = 30.0
LIST_BYTES = 1_000_000


class ServerProbe:
    """Asks `GET {url}/models` for ever. Lives in one event loop; `state` may be read from any thread."""

    def __init__(self, url: str, *, model: str | None, timeout_s: float, on_away: Callable[[], None]) -> None:
        """`model`: the name it must serve; None takes the first one it lists."""
        self._url = url
        self._wanted = model
        self._timeout_s = timeout_s
        self._on_away = on_away
        self._silent = 0
        self._refused_until = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self.model = model or ""
        self.state = VlmServerState(available=False, reason="it has not been asked yet")
        self.first = threading.Event()
        self._lost = asyncio.Event()

    async def run(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        while True:
            try:
                await self.now()
            except Exception:  # whatever a stranger's server may answer, it is asked again
                log.exception("inference server %s could not be asked", self._url)
                self._away("it could not be asked; the log has the details")
            self._lost.clear()
            with contextlib.suppress(TimeoutError):  # a server that is lost meanwhile is looked for at once
                pause_s = PROBE_S if self.state.available and not self._silent else PROBE_AWAY_S
                await asyncio.wait_for(self._lost.wait(), pause_s)

    async def now(self) -> None:
        """Ask now; callers that come meanwhile share the answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        await asyncio.shield(self._asking)

    def refused(self, reason: str) -> None:
        """The server is there, but reads no blocks for us."""
        self._refused_until = time.monotonic() + REFUSED_S
        self._away(reason)

    async def _ask(self) -> None:
        assert self._session is not None
        try:
            async with self._session.get(
                f"{self._url}/models", allow_redirects=False, timeout=aiohttp.ClientTimeout(total=self._timeout_s)
            ) as response:
                if response.status != 200:
                    self._away(refusal(response.status))
                    return
                answer = json.loads(await read_bounded(response, LIST_BYTES))
                models = [name for entry in answer["data"] if (name := str(entry["id"])).isprintable()]
        except TimeoutError:
            self._silent += 1
            if self._silent >= SILENT_PROBES or not self.state.available:
                self._away(f"it does not answer within {self._timeout_s:g} s")
            return
        except (AnswerTooLarge, ValueError, KeyError, TypeError, RecursionError):
            self._away("what answers there is no OpenAI-compatible server")
            return
        except (aiohttp.ClientError, OSError):
            self._away("it cannot be connected to")
            return
        self._answered(models)

    def _answered(self, models: list[str]) -> None:
        self._silent = 0
        if time.monotonic() < self._refused_until:
            return  # that it lists its models is no news
        if not models:
            self._away("it serves no model")
        elif self._wanted is not None and self._wanted not in models:
            self._away(f"it does not serve {self._wanted}, but {', '.join(models[:5])}")
        else:
            self.model = self._wanted or models[0]
            if not self.state.available:
                log.info("inference server %s is available (%s)", self._url, self.model)
            self._set(VlmServerState(available=True))

    def _away(self, reason: str) -> None:
        if self.state.available or self.state.reason != reason:
            log.warning("inference server %s is away: %s", self._url, reason)
        self._set(VlmServerState(available=False, reason=reason))

    def _set(self, state: VlmServerState) -> None:
        lost = self.state.available and not state.available
        self.state = state
        self.first.set()
        if lost:
            self._lost.set()
            self._on_away()


def refusal(status: int) -> str:
    match status:
        case 401 | 403:
            return f"it refuses the key (status {status})"
        case 503:
            return "it is still loading (status 503)"
        case _:
            return f"it answers with status {status}"
