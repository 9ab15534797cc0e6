"""Probes the inference server in the background, and logs one line for each change of its state."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from serve_app.recognition.engines.engine import VlmServerState
from serve_app.recognition.engines.paddleocr_vl.vlm_response import ResponseTooLarge, read_bounded
from serve_app.runtime.plain_url import plain_url

log = logging.getLogger("ray.serve.vlm_server")

# A busy server may miss one probe. A server that refuses the connection is away at once.
SILENT_PROBES = 2
MAX_LIST_BYTES = 1_000_000
TWO_SECRETS = "its `url` has a user, and OCR_VLM_API_KEY is set: only one can be sent, so remove one"


@dataclass(frozen=True)
class VlmTiming:
    """Pauses of the client of an inference server, in seconds."""

    probe_s: float = 5.0
    """Between probes of an available server."""

    probe_away_s: float = 1.0
    """Between probes of a server that is away: short, so work resumes soon after it is back."""

    refused_s: float = 30.0
    """How long a server counts as away that lists its models but refuses blocks."""

    first_retry_s: float = 0.4
    """Before a block is sent again for the first time; each further pause is twice as long."""

    longest_retry_s: float = 1.0


DEFAULT_TIMING = VlmTiming()


class ServerProbe:
    """Requests `GET {url}/models` for ever. Lives in one event loop; `state` may be read from any thread."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None,
        timeout_s: float,
        on_away: Callable[[], None],
        timing: VlmTiming = DEFAULT_TIMING,
    ) -> None:
        """`model`: the name that the server must list; None takes the first one it lists."""
        self._url = url
        self._required_model = model
        self._timeout_s = timeout_s
        self._on_away = on_away
        self._timing = timing
        self._silent = 0
        self._refused_until = 0.0
        self._probing: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self.model = model or ""
        self.state = VlmServerState(available=False, reason="it has not been probed yet")
        self.probed = threading.Event()
        self._lost = asyncio.Event()

    async def run(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        while True:
            try:
                await self.probe_now()
            except Exception:  # no response may end the probing
                log.exception("inference server %s could not be probed", plain_url(self._url))
                self._away("it could not be probed; the log has the details")
            self._lost.clear()
            with contextlib.suppress(TimeoutError):  # a server that is lost meanwhile is probed at once
                steady = self.state.available and not self._silent
                await asyncio.wait_for(self._lost.wait(), self._timing.probe_s if steady else self._timing.probe_away_s)

    async def probe_now(self) -> None:
        """Probe now. Concurrent callers share one probe."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())
        await asyncio.shield(self._probing)

    def report_refusal(self, reason: str) -> None:
        """Report that the server responds, but refuses blocks."""
        self._refused_until = time.monotonic() + self._timing.refused_s
        self._away(reason)

    async def _probe(self) -> None:
        assert self._session is not None
        if "Authorization" in self._session.headers and urlsplit(self._url).username is not None:
            self._away(TWO_SECRETS)
            return
        try:
            async with self._session.get(
                f"{self._url}/models", allow_redirects=False, timeout=aiohttp.ClientTimeout(total=self._timeout_s)
            ) as response:
                if response.status != 200:
                    self._away(refusal(response.status))
                    return
                listing = json.loads(await read_bounded(response, MAX_LIST_BYTES))
                models = [name for entry in listing["data"] if (name := str(entry["id"])).isprintable()]
        except TimeoutError:
            self._silent += 1
            if self._silent >= SILENT_PROBES or not self.state.available:
                self._away(f"it does not respond within {self._timeout_s:g} s")
            return
        except (ResponseTooLarge, ValueError, KeyError, TypeError, RecursionError):
            self._away("it is not an OpenAI-compatible server")
            return
        except (aiohttp.ClientError, OSError):
            self._away("it cannot be connected to")
            return
        self._set_models(models)

    def _set_models(self, models: list[str]) -> None:
        self._silent = 0
        if time.monotonic() < self._refused_until:
            return  # it lists its models and still refuses blocks
        if not models:
            self._away("it serves no model")
        elif self._required_model is not None and self._required_model not in models:
            self._away(f"it does not serve {self._required_model}, but {', '.join(models[:5])}")
        else:
            self.model = self._required_model or models[0]
            if not self.state.available:
                log.info("inference server %s is available (%s)", plain_url(self._url), self.model)
            self._set(VlmServerState(available=True))

    def _away(self, reason: str) -> None:
        if self.state.available or self.state.reason != reason:
            log.warning("inference server %s is away: %s", plain_url(self._url), reason)
        self._set(VlmServerState(available=False, reason=reason))

    def _set(self, state: VlmServerState) -> None:
        lost = self.state.available and not state.available
        self.state = state
        self.probed.set()
        if lost:
            self._lost.set()
            self._on_away()


def refusal(status: int) -> str:
    """Return why a server that responds with this status is away."""
    match status:
        case 401 | 403:
            return f"it refuses the key (status {status})"
        case 503:
            return "it is still loading (status 503)"
        case _:
            return f"it responds with status {status}"
