"""Downloads a document from a URL, and posts webhooks. Neither the URL nor the server behind it can be trusted.

Addresses are checked twice: all addresses of a name when it is resolved, and each one again when its socket is created.
Names are not resolved again in between, so a name cannot change its address after the check. Each fetch has its own
session: no cookie, connection or DNS response outlives it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv6Address
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote, urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from serve_app.errors import InvalidUrl, SchemeNotAllowed, ServiceError, TooLarge, UrlFetchFailed, UrlForbidden
from serve_app.fetching.address_guard import AddressGuard
from serve_app.metrics.catalogue import FETCHES
from serve_app.runtime.mapped_file import MAPPED_BYTES, FileContent, map_file

MAX_URL_BYTES = 8192
MAX_REDIRECTS = 5
DNS_THREADS = 16  # a lookup that hangs occupies one until the system resolver gives up, beyond the fetch's deadline
HEADERS = {"User-Agent": "paddleocr-vl-serve", "Accept": "*/*", "Accept-Encoding": "identity"}

GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]  # as socket.getaddrinfo

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NETWORK_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)

# URL parsers disagree on these: some strip them, some read a backslash as a slash.
_AMBIGUOUS = re.compile(r"[\s\x00-\x20\x7f-\x9f\\]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=:)", re.IGNORECASE | re.ASCII)
# RFC 3986 without userinfo and percent-encoded hosts. The host is IDNA-encoded afterwards.
_HTTP_URL = re.compile(
    r"""https?://
    (?: \[ (?P<ipv6> [^]/?#@]+ ) \] | (?P<host> [^]\[/?#@:%]+ ) )
    (?: : (?P<port> [0-9]{1,5} ) )?
    (?P<path> /[^?#]* )?
    (?: \? (?P<query> [^#]* ) )?
    (?: \# .* )?""",
    re.IGNORECASE | re.VERBOSE,
)
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_AS_WRITTEN = ":/?[]@!$&'()*+,;=%"  # besides letters, digits and "-._~"

log = logging.getLogger("ray.serve.fetch")


def parse_url(text: str) -> URL:
    """Parse an absolute http or https URL; encode its host in ASCII, and an IPv4 address in its usual form.

    Path and query stay as written, except for characters that a URL may not contain: normalizing would break signed
    URLs. The fragment is dropped. Raises InvalidUrl and SchemeNotAllowed.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can contain
        raise InvalidUrl from None
    if size > MAX_URL_BYTES:
        raise InvalidUrl(f"The URL is longer than {MAX_URL_BYTES} bytes.")
    if _AMBIGUOUS.search(text):
        raise InvalidUrl("The URL contains whitespace, a control character or a backslash.")
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise InvalidUrl
    if scheme[0].lower() not in ("http", "https"):
        raise SchemeNotAllowed
    match = _HTTP_URL.fullmatch(text)
    if match is None:
        raise InvalidUrl
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port <= 65535:
        raise InvalidUrl
    try:
        host = str(IPv6Address(unquote(match["ipv6"]))) if match["ipv6"] else _ascii_host(match["host"])
        origin = URL.build(scheme=scheme[0].lower(), host=host, port=port)
    except (ValueError, OSError):  # neither an address nor a valid name
        raise InvalidUrl from None
    return URL.build(
        scheme=origin.scheme,
        authority=origin.raw_authority,
        path=quote(match["path"] or "/", safe=_AS_WRITTEN),
        query_string=quote(match["query"] or "", safe=_AS_WRITTEN),
        encoded=True,
    )


def _ascii_host(name: str) -> str:
    host = URL.build(scheme="http", host=name).raw_host or ""
    # As in browsers, a name that ends in a number is an IPv4 address in any of its forms (127.1, 0x7f000001).
    stem = host.rstrip(".")
    if _NUMERIC_LABEL.fullmatch(stem.rpartition(".")[2]):
        return socket.inet_ntoa(socket.inet_aton(stem))
    return host


@contextmanager
def _counted() -> Iterator[None]:
    """Count a fetch by how it ends."""
    try:
        yield
    except ServiceError as error:
        FETCHES.inc(outcome="failed", reason=error.code)
        raise
    FETCHES.inc(outcome="done", reason="")


class Fetcher:
    """Downloads documents of up to `max_bytes` bytes, each within `deadline_s` seconds in total.

    May connect to `allowed_networks` (CIDR) although they are not public; a malformed one raises ValueError.
    `getaddrinfo` is called in a thread.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        deadline_s: float,
        allowed_networks: Sequence[str] = (),
        getaddrinfo: GetAddrInfo = socket.getaddrinfo,
    ) -> None:
        self._max_bytes = max_bytes
        self._deadline_s = deadline_s
        self._guard = AddressGuard(allowed_networks)
        self._getaddrinfo = getaddrinfo
        self._tls = ssl.create_default_context()
        # Not asyncio's own threads, as lookups that hang must not block the rest of the process.
        self._dns_threads = ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="fetch-dns")

    async def close(self) -> None:
        """Cancel waiting lookups. No fetch may start after this."""
        self._dns_threads.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, url: str) -> FileContent:
        """Download a document, following up to MAX_REDIRECTS redirects. A large one is on disk.

        Raises InvalidUrl and SchemeNotAllowed for the URL itself, UrlForbidden if it or a redirect leads to a forbidden
        address, TooLarge, and UrlFetchFailed, whose message reveals nothing about the network.
        """
        with _counted():
            target = parse_url(url)
            try:
                async with asyncio.timeout(self._deadline_s):
                    return await self._follow(target)
            except TimeoutError:
                log.info("fetch from %s: took longer than %g s", target.raw_host, self._deadline_s)
                raise UrlFetchFailed(
                    f"The document could not be fetched from the URL within {self._deadline_s:g} seconds."
                ) from None

    async def check(self, url: str) -> None:
        """Raise UrlForbidden if the URL's name resolves to a forbidden address now, or another error of `fetch`."""
        target = parse_url(url)
        gate = _Gate(self._guard)
        resolver = _GatedResolver(gate, self._getaddrinfo, self._dns_threads)
        try:
            async with asyncio.timeout(self._deadline_s):
                await resolver.resolve(target.raw_host or "", target.port or 0)
        except (OSError, TimeoutError) as error:
            if gate.refused is not None:
                raise UrlForbidden from None
            raise _failure(target, _reason(error)) from None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Post a body and return the status of the response. Follows no redirects. Raises the errors of `fetch`."""
        target = parse_url(url)
        gate = _Gate(self._guard)
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._session(gate) as session,
                session.post(target, data=body, headers=headers, allow_redirects=False) as response,
            ):
                if gate.refused is None:
                    return response.status
        except TimeoutError:
            log.info("post to %s: took longer than %g s", target.raw_host, self._deadline_s)
            raise UrlFetchFailed from None
        except _NETWORK_ERRORS as error:
            if gate.refused is None:
                raise _failure(target, _reason(error)) from None
        log.info("post to %s: %s is a forbidden address", target.raw_host, gate.refused)
        raise UrlForbidden

    def _session(self, gate: _Gate) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=_GatedResolver(gate, self._getaddrinfo, self._dns_threads),
            socket_factory=gate.open_socket,
            use_dns_cache=False,
            force_close=True,
            ssl=self._tls,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # a proxy would connect to an unchecked address
            headers=HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the deadline covers all
            auto_decompress=False,
        )

    async def _follow(self, url: URL) -> FileContent:
        gate = _Gate(self._guard)
        async with self._session(gate) as session:
            for _ in range(MAX_REDIRECTS + 1):
                outcome = await self._hop(session, gate, url)
                if not isinstance(outcome, URL):
                    return outcome
                url = outcome
        log.info("fetch from %s: more than %d redirects", url.raw_host, MAX_REDIRECTS)
        raise UrlFetchFailed(f"The URL redirects more than {MAX_REDIRECTS} times.")

    async def _hop(self, session: aiohttp.ClientSession, gate: _Gate, url: URL) -> FileContent | URL:
        """Return the body of a response, or the URL that it redirects to."""
        try:
            async with session.get(url, allow_redirects=False) as response:
                if gate.refused is None:
                    if response.status in _REDIRECTS:
                        return _redirect_target(url, response)
                    return await self._body(url, response)
        except _NETWORK_ERRORS as error:
            if gate.refused is None:
                raise _failure(url, _reason(error)) from None
        log.info("fetch from %s: %s is a forbidden address", url.raw_host, gate.refused)
        raise UrlForbidden

    async def _body(self, url: URL, response: aiohttp.ClientResponse) -> FileContent:
        if response.status != 200:
            raise _failure(url, f"status {response.status}")
        # Decompressing could turn megabytes into gigabytes. The request allows only identity, so the server is at fault.
        if any(
            coding.strip().lower() not in ("", "identity") for coding in response.headers.getall("Content-Encoding", ())
        ):
            raise _failure(url, "content encoding")
        too_large = TooLarge(f"The document behind the URL is over the limit of {self._max_bytes / 1e6:g} MB.")
        if (response.content_length or 0) > self._max_bytes:
            raise too_large
        with cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=MAPPED_BYTES)) as body:
            async for chunk in response.content.iter_any():
                if body.tell() + len(chunk) > self._max_bytes:
                    raise too_large
                body.write(chunk)
            if body.tell() > MAPPED_BYTES:
                return map_file(body)
            body.seek(0)
            return body.read()


class _Gate:
    """The guard for one fetch, where sockets are created.

    It records a refusal itself because the exception gets lost: aiohttp wraps it, and aiohappyeyeballs merges those of
    several addresses into one, or tries the next address. It has to be an OSError: with any other type, racing two
    addresses ends in an IndexError.
    """

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self.refused: str | None = None  # the address

    def check(self, address: str) -> None:
        if not self._guard.allows(address):
            self.refused = address
            raise PermissionError("forbidden address")

    def open_socket(self, addr_info: aiohttp.AddrInfoType) -> socket.socket:
        """Open a socket for an address that is allowed. aiohttp calls this as its `socket_factory`, with the address to connect to."""
        family, kind, protocol, _, address = addr_info
        self.check(str(address[0]))
        return socket.socket(family, kind, protocol)


class _GatedResolver(AbstractResolver):
    """Resolves names; refuses one if any of its addresses is forbidden."""

    def __init__(self, gate: _Gate, getaddrinfo: GetAddrInfo, threads: ThreadPoolExecutor) -> None:
        self._gate = gate
        self._getaddrinfo = getaddrinfo
        self._threads = threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        # As bytes, because a str would pass through the idna codec again, which raises errors of its own.
        # No AI_ADDRCONFIG: the guard has to see every address of the name.
        lookup = partial(self._getaddrinfo, host.encode("ascii"), port, family=family, type=socket.SOCK_STREAM)
        answers = await asyncio.get_running_loop().run_in_executor(self._threads, lookup)
        if not answers:
            raise OSError("the name has no address")
        for _, _, _, _, address in answers:
            self._gate.check(address[0])
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=answer_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for answer_family, _, protocol, _, address in answers
        ]

    async def close(self) -> None:
        """Do nothing: the Fetcher owns the threads."""


def _redirect_target(url: URL, response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location")
    if location is None:
        raise _failure(url, "redirect without a location")
    # Checked before joining, as urljoin silently drops some of these characters.
    if _AMBIGUOUS.search(location):
        raise _failure(url, "redirect to an invalid URL")
    try:
        return parse_url(urljoin(str(url), location))
    except (InvalidUrl, SchemeNotAllowed, ValueError):
        # The client's URL was valid, so the server is at fault.
        raise _failure(url, "redirect to an invalid URL or scheme") from None


def _failure(url: URL, reason: str) -> UrlFetchFailed:
    """Log the reason with the URL's host alone. The client gets the same message for every reason."""
    log.info("fetch from %s: %s", url.raw_host, reason)
    return UrlFetchFailed()


def _reason(error: BaseException) -> str:
    # Not the text of an aiohttp error, which may quote the URL or the server's response.
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{type(error).__name__}: {error.os_error.strerror or type(error.os_error).__name__}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"{type(error).__name__}: {getattr(error.certificate_error, 'verify_message', '')}"
    return type(error).__name__
