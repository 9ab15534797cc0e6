"""Rows 14 to 20 of the threat model, against real servers on loopback.

127.0.0.2 plays the public internet (the one allowed network) and 127.0.0.1 the private one.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import ssl
import threading
import time
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serve_app.errors import InvalidUrl, SchemeNotAllowed, ServiceError, TooLarge, UrlFetchFailed, UrlForbidden
from serve_app.fetching.address_guard import AddressGuard
from serve_app.fetching.url_fetcher import MAX_REDIRECTS, MAX_URL_BYTES, Fetcher, parse_url
from serve_app.metrics.catalogue import FETCHES
from tests.support.metrics import grows

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"
MAX_BYTES = 100_000
DOCUMENT = b"%PDF-1.7 " + bytes(range(256)) * 100

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
StartApp = Callable[..., Awaitable[TestServer]]
StartRaw = Callable[..., Awaitable[int]]
MakeFetcher = Callable[..., Fetcher]


class Names:
    """DNS for the tests: each lookup of a name takes its next answer, the last one stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self._answers = {name.replace("_", "."): lists for name, lists in answers.items()}
        self.lookups: list[str] = []

    def __call__(self, host: bytes, port: int, **_: Any) -> list[tuple[Any, ...]]:
        name = host.decode("ascii")
        self.lookups.append(name)
        if name not in self._answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answers = self._answers[name]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]


@pytest.fixture(autouse=True)
def stay_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a broken guard these tests would connect to what they name: let them fail here instead."""
    connect = BaseSelectorEventLoop.sock_connect

    async def checked(loop: BaseSelectorEventLoop, sock: socket.socket, address: Any) -> None:
        ip = ip_address(address[0])
        mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
        if not (mapped or ip).is_loopback and not ip.is_unspecified:
            raise AssertionError(f"a test was about to connect to {ip}")
        await connect(loop, sock, address)

    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", checked)


@pytest_asyncio.fixture
async def make_fetcher() -> AsyncIterator[MakeFetcher]:
    fetchers: list[Fetcher] = []

    def make(**options: Any) -> Fetcher:
        defaults: dict[str, Any] = {"max_bytes": MAX_BYTES, "deadline_s": 5.0, "allowed_networks": [f"{PUBLIC}/32"]}
        fetchers.append(Fetcher(**(defaults | options)))
        return fetchers[-1]

    yield make
    for fetcher in fetchers:
        await fetcher.close()


@pytest_asyncio.fixture
async def start_app() -> AsyncIterator[StartApp]:
    """Starts an aiohttp server that gives every path to one handler."""
    servers: list[TestServer] = []

    async def start(
        handler: Handler, *, host: str = PUBLIC, port: int = 0, tls: ssl.SSLContext | None = None
    ) -> TestServer:
        app = web.Application()
        app.router.add_route("*", r"/{path:[\s\S]*}", handler)
        server = TestServer(app, host=host, port=port)
        await server.start_server(ssl=tls)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.close()


@pytest_asyncio.fixture
async def start_raw() -> AsyncIterator[StartRaw]:
    """Starts a server that sends given bytes to whoever asks, then closes; returns its port."""
    servers: list[asyncio.Server] = []

    async def start(answer: bytes, *, host: str = PUBLIC) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        servers.append(await asyncio.start_server(serve, host, 0))
        return int(servers[-1].sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()


class Canary:
    """A private server that nobody may reach. Counts connections, not only requests."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
        writer.close()


@pytest_asyncio.fixture
async def canary() -> AsyncIterator[Canary]:
    bird = Canary()
    # On loopback of both kinds, which is where connections to 0.0.0.0 and :: end too.
    servers = [await asyncio.start_server(bird.serve, PRIVATE, 0)]
    bird.port = servers[0].sockets[0].getsockname()[1]
    if socket.has_ipv6:
        try:
            servers.append(await asyncio.start_server(bird.serve, "::1", bird.port))
        except OSError:
            logging.getLogger(__name__).info("no IPv6 loopback here")
    yield bird
    for server in servers:
        server.close()
        await server.wait_closed()


async def serve_document(_: web.Request) -> web.Response:
    return web.Response(body=DOCUMENT)


def assert_says_nothing(error: ServiceError) -> None:
    """No address, no name of a library, nothing that tells one failure from another."""
    assert error.message == UrlFetchFailed.default_message


# What works


async def test_a_document_arrives_unchanged(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    server = await start_app(serve_document)
    assert await make_fetcher().fetch(str(server.make_url("/a.pdf"))) == DOCUMENT


async def test_a_document_of_exactly_the_limit_is_accepted(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    server = await start_app(serve_document)
    assert await make_fetcher(max_bytes=len(DOCUMENT)).fetch(str(server.make_url("/"))) == DOCUMENT


async def test_a_cyrillic_url_works(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        if request.path == "/старый":
            # As servers really send it: raw UTF-8 in the header.
            return web.Response(status=302, headers={"Location": "/скан №1.pdf".replace(" ", "_")})
        return web.Response(body=DOCUMENT)

    server = await start_app(handler)
    names = Names(**{"xn--e1afmkfd_xn--p1ai": [[PUBLIC]]})
    fetcher = make_fetcher(getaddrinfo=names)
    url = f"http://Пример.рф:{server.port}/документы/скан.pdf?имя=счёт"
    assert await fetcher.fetch(url) == DOCUMENT
    assert seen[0].path == "/документы/скан.pdf"
    assert seen[0].query["имя"] == "счёт"
    assert seen[0].host == f"xn--e1afmkfd.xn--p1ai:{server.port}"
    assert await fetcher.fetch(f"http://пример.рф:{server.port}/старый") == DOCUMENT
    assert seen[-1].path == "/скан_№1.pdf"


async def test_a_signed_url_is_sent_as_written(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.raw_path)
        return web.Response(body=DOCUMENT)

    server = await start_app(handler)
    path = "/a%2Fb/%7Ec/%d0%B0/../d.pdf?sig=a%2Bb%2f%3D+c&empty=&X-Amz-Credential=k%2F2026"
    await make_fetcher().fetch(f"http://{PUBLIC}:{server.port}{path}#page=2")
    assert paths == [path]


async def test_redirects_up_to_the_limit_are_followed(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    async def handler(request: web.Request) -> web.Response:
        left = int(request.match_info["path"])
        if left == 0:
            return web.Response(body=DOCUMENT)
        status = (301, 302, 303, 307, 308)[left % 5]
        return web.Response(status=status, headers={"Location": f"{left - 1}"})

    server = await start_app(handler)
    assert await make_fetcher().fetch(str(server.make_url(f"/{MAX_REDIRECTS}"))) == DOCUMENT


async def test_fetches_share_neither_cookies_nor_connections(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    peers: set[tuple[str, int]] = set()
    cookies: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        cookies.append(request.headers.get("Cookie"))
        headers = {"Set-Cookie": "session=secret", "Location": "/end"}
        return web.Response(status=200 if request.path == "/end" else 302, headers=headers, body=DOCUMENT)

    server = await start_app(handler)
    names = Names(public_example=[[PUBLIC]])
    fetcher = make_fetcher(getaddrinfo=names)
    for _ in range(2):
        await fetcher.fetch(f"http://public.example:{server.port}/start")
    assert cookies == [None] * 4
    assert len(peers) == 4
    assert len(names.lookups) == 4


async def test_a_proxy_of_the_environment_is_not_used(
    start_app: StartApp, make_fetcher: MakeFetcher, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{PRIVATE}:{canary.port}")
    server = await start_app(serve_document)
    assert await make_fetcher().fetch(str(server.make_url("/"))) == DOCUMENT
    assert canary.connections == 0


# Row 14


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "gopher://127.0.0.1:6379/_INFO",
        "ftp://ftp.example/a.pdf",
        "data:image/png;base64,AAAA",
        "unix:///var/run/docker.sock",
        "jar:http://example.com!/",
        "javascript:alert(1)",
        "httpx://example.com/",
    ],
)
async def test_row_14_other_schemes_are_refused(make_fetcher: MakeFetcher, url: str) -> None:
    with pytest.raises(SchemeNotAllowed):
        await make_fetcher().fetch(url)


@pytest.mark.parametrize("url", ["HTTP://169.254.169.254/latest/meta-data/", "hTTpS://169.254.169.254/"])
async def test_row_14_a_mixed_case_scheme_does_not_hide_the_metadata_address(
    make_fetcher: MakeFetcher, url: str
) -> None:
    with pytest.raises(UrlForbidden):
        await make_fetcher().fetch(url)


# Row 15


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "0",
        "0.0.0.0",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "0x7f000001",
        "0x7f.1",
        "0X7F.0.0.0x1",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::127.0.0.1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[fc00::1]",
        "[fd00::1]",
        "[fe80::1]",
        "[fe80::1%25lo]",
        "[fec0::1]",
        "[ff02::1]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[5f00::1]",
        "10.0.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_row_15_private_addresses_are_not_reached(
    make_fetcher: MakeFetcher, canary: Canary, scheme: str, host: str
) -> None:
    with pytest.raises(UrlForbidden) as raised:
        await make_fetcher().fetch(f"{scheme}://{host}:{canary.port}/")
    assert raised.value.message == UrlForbidden.default_message
    assert canary.connections == 0


# Row 16


@pytest.mark.parametrize(
    "addresses",
    [
        pytest.param([PRIVATE], id="private"),
        pytest.param(["::1"], id="private IPv6"),
        pytest.param([PUBLIC, PRIVATE], id="public, then private"),
        pytest.param([PRIVATE, PUBLIC], id="private, then public"),
        pytest.param([PUBLIC, "::ffff:127.0.0.1"], id="public, then mapped"),
        pytest.param(["169.254.169.254"], id="metadata"),
    ],
)
async def test_row_16_names_of_private_addresses_are_not_reached(
    start_app: StartApp, make_fetcher: MakeFetcher, canary: Canary, addresses: list[str]
) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=DOCUMENT)

    await start_app(handler, port=canary.port)
    with pytest.raises(UrlForbidden):
        await make_fetcher(getaddrinfo=Names(rebind_example=[addresses])).fetch(f"http://rebind.example:{canary.port}/")
    assert canary.connections == 0
    assert asked == []


async def test_row_16_a_dns_answer_that_changes_is_not_connected_to(
    start_app: StartApp, make_fetcher: MakeFetcher, canary: Canary
) -> None:
    await start_app(serve_document, port=canary.port)
    names = Names(rebind_example=[[PUBLIC], [PRIVATE]])
    fetcher = make_fetcher(getaddrinfo=names)
    url = f"http://rebind.example:{canary.port}/"
    # What was checked is what is connected to: there is no second lookup that could answer otherwise.
    assert await fetcher.fetch(url) == DOCUMENT
    assert names.lookups == ["rebind.example"]
    # And the next fetch is checked anew, whatever the first one found.
    with grows(FETCHES, outcome="failed", reason="url_forbidden"), pytest.raises(UrlForbidden):
        await fetcher.fetch(url)
    assert canary.connections == 0


async def test_row_16_each_hop_is_resolved_and_checked_anew(
    start_app: StartApp, make_fetcher: MakeFetcher, canary: Canary
) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/again"})

    await start_app(handler, port=canary.port)
    names = Names(rebind_example=[[PUBLIC], [PRIVATE]])
    with pytest.raises(UrlForbidden):
        await make_fetcher(getaddrinfo=names).fetch(f"http://rebind.example:{canary.port}/")
    assert names.lookups == ["rebind.example"] * 2
    assert canary.connections == 0


@pytest.mark.parametrize("addresses", [[PRIVATE], [PRIVATE, "127.0.0.3"], [PRIVATE, "::1"], [PRIVATE, PUBLIC]])
async def test_row_16_an_address_that_passed_the_lookup_is_checked_at_the_socket(
    start_app: StartApp,
    make_fetcher: MakeFetcher,
    canary: Canary,
    monkeypatch: pytest.MonkeyPatch,
    addresses: list[str],
) -> None:
    """The gate at the socket alone, for one address and for several that race."""
    await start_app(serve_document, port=canary.port)
    judge, judged = AddressGuard.allows, set[str]()

    def lenient_at_the_lookup(guard: AddressGuard, address: str) -> bool:
        first_time = address not in judged
        judged.add(address)
        return first_time or judge(guard, address)

    monkeypatch.setattr(AddressGuard, "allows", lenient_at_the_lookup)
    names = Names(rebind_example=[addresses])
    with pytest.raises(UrlForbidden):
        await make_fetcher(getaddrinfo=names).fetch(f"http://rebind.example:{canary.port}/")
    assert canary.connections == 0


# Row 17


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_row_17_redirects_to_private_addresses_are_not_followed(
    start_app: StartApp, make_fetcher: MakeFetcher, canary: Canary, status: int
) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": f"http://{PRIVATE}:{canary.port}/secret"})

    server = await start_app(handler)
    with pytest.raises(UrlForbidden):
        await make_fetcher().fetch(str(server.make_url("/")))
    assert canary.connections == 0


@pytest.mark.parametrize(
    "location", ["//127.1:{port}/", "//localhost:{port}/", "http://[::1]:{port}/", "//2130706433:{port}"]
)
async def test_row_17_private_redirects_in_other_forms_are_not_followed(
    start_app: StartApp, make_fetcher: MakeFetcher, canary: Canary, location: str
) -> None:
    async def handler(request: web.Request) -> web.Response:
        target = location.format(port=canary.port) if request.path == "/last" else "/last"
        return web.Response(status=302, headers={"Location": target})

    server = await start_app(handler)
    with pytest.raises(UrlForbidden):
        await make_fetcher().fetch(str(server.make_url("/first")))
    assert canary.connections == 0


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://ok\\@127.0.0.1/",
        "http://user:word@127.0.0.2/",
        "http://127.0.0.2:0/",
        "/a b",
        "/a\tb",
        "http://[::1",
        "/" + "a" * 8192,
    ],
)
async def test_row_17_a_redirect_is_checked_like_the_first_url(
    start_app: StartApp, make_fetcher: MakeFetcher, location: str
) -> None:
    requests = 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        return web.Response(status=302, headers={"Location": location})

    server = await start_app(handler)
    with pytest.raises(UrlFetchFailed) as raised:
        await make_fetcher().fetch(str(server.make_url("/")))
    assert_says_nothing(raised.value)
    assert requests == 1


async def test_row_17_a_redirect_loop_ends(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    requests = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        return web.Response(status=302, headers={"Location": "/b" if request.path == "/a" else "/a"})

    server = await start_app(handler)
    with pytest.raises(UrlFetchFailed, match="redirects more than 5 times"):
        await make_fetcher().fetch(str(server.make_url("/a")))
    assert requests == MAX_REDIRECTS + 1


async def test_row_17_a_redirect_without_a_location_fails(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=302, body=DOCUMENT)

    server = await start_app(handler)
    with pytest.raises(UrlFetchFailed):
        await make_fetcher().fetch(str(server.make_url("/")))


# Row 18


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://ok\\@evil/", id="backslash"),
        pytest.param("http:\\\\127.0.0.2\\", id="backslashes for slashes"),
        pytest.param("http://127.0.0.2/a\\b", id="backslash in path"),
        pytest.param("http://user:word@127.0.0.2/", id="userinfo"),
        pytest.param("http://user@127.0.0.2/", id="user"),
        pytest.param("http://@127.0.0.2/", id="empty user"),
        pytest.param("http://127.0.0.2@127.0.0.1/", id="host as user"),
        pytest.param("http://127.0.0.2/\r\nX-Injected: 1", id="CR LF"),
        pytest.param("http://127.0.0.2\r\n/", id="CR LF in host"),
        pytest.param("http://127.0.0.2/\n", id="newline at the end"),
        pytest.param(" http://127.0.0.2/", id="space before"),
        pytest.param("http://127.0.0.2/a b", id="space"),
        pytest.param("ht\ttp://127.0.0.2/", id="tab in scheme"),
        pytest.param("http://127.0.0.2/\x00", id="NUL"),
        pytest.param("http://127.0.0.2/\x7f", id="DEL"),
        pytest.param("http://127.0.0.2/\x85", id="C1 control"),
        pytest.param("http://127.0.0.2/\u2028", id="line separator"),
        pytest.param("http://127.0.0.2/\ud800", id="lone surrogate"),
        pytest.param("http://", id="no host"),
        pytest.param("http:///a.pdf", id="empty host"),
        pytest.param("http:127.0.0.2/", id="no slashes"),
        pytest.param("http://:80/", id="port alone"),
        pytest.param("//127.0.0.2/", id="no scheme"),
        pytest.param("a.pdf", id="a file name"),
        pytest.param("", id="empty"),
        pytest.param("http://127.0.0.2:0/", id="port 0"),
        pytest.param("http://127.0.0.2:65536/", id="port too large"),
        pytest.param("http://127.0.0.2:/", id="empty port"),
        pytest.param("http://127.0.0.2:80a/", id="port with a letter"),
        pytest.param("http://127.0.0.2:+80/", id="port with a sign"),
        pytest.param("http://127.0.0.2:８０/", id="port in wide digits"),
        pytest.param("http://127.0.0.2:80:80/", id="two ports"),
        pytest.param("http://127%2e0.0.1/", id="percent-encoded host"),
        pytest.param("http://256.1.1.1/", id="IPv4 out of range"),
        pytest.param("http://1.2.3.4.5/", id="IPv4 of five parts"),
        pytest.param("http://[::1/", id="open bracket"),
        pytest.param("http://[::1]evil/", id="text after bracket"),
        pytest.param("http://[127.0.0.2]/", id="IPv4 in brackets"),
        pytest.param("http://[evil.example]/", id="name in brackets"),
        pytest.param("http://e\u200bvil.example/", id="invisible character in host"),
        pytest.param("http://127.0.0.2\uff0fevil/", id="character that becomes a slash"),
        pytest.param("http://" + "ж" * 70 + ".рф/", id="label too long"),
        pytest.param("http://127.0.0.2/" + "a" * MAX_URL_BYTES, id="over 8 KB"),
        pytest.param("http://127.0.0.2/" + "я" * (MAX_URL_BYTES // 2), id="over 8 KB in bytes"),
    ],
)
async def test_row_18_ambiguous_urls_are_refused(make_fetcher: MakeFetcher, url: str) -> None:
    names = Names()
    with pytest.raises(InvalidUrl) as raised:
        await make_fetcher(getaddrinfo=names).fetch(url)
    assert names.lookups == []
    assert "127" not in raised.value.message


async def test_row_18_an_encoded_newline_becomes_no_header(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(body=DOCUMENT)

    server = await start_app(handler)
    await make_fetcher().fetch(f"http://{PUBLIC}:{server.port}/a%0d%0aX-Injected:%201?b=%0d%0ac")
    assert seen[0].raw_path == "/a%0d%0aX-Injected:%201?b=%0d%0ac"
    assert "X-Injected" not in seen[0].headers


def test_row_18_a_url_of_exactly_8_kb_is_accepted() -> None:
    start = "http://example.com/"
    assert str(parse_url(start + "a" * (MAX_URL_BYTES - len(start)))).startswith(start)


# Row 19


async def test_row_19_an_announced_length_over_the_limit_is_refused_unread(
    start_raw: StartRaw, make_fetcher: MakeFetcher
) -> None:
    port = await start_raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BYTES + 1))
    with pytest.raises(TooLarge, match=r"0\.1 MB"):
        await make_fetcher().fetch(f"http://{PUBLIC}:{port}/")


@pytest.mark.parametrize("framing", ["chunked", "until close"])
async def test_row_19_an_endless_stream_is_read_up_to_the_limit(
    start_app: StartApp, make_fetcher: MakeFetcher, framing: str
) -> None:
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        if framing == "chunked":
            response.enable_chunked_encoding()
        else:
            response.force_close()
        await response.prepare(request)
        while True:
            await response.write(b"a" * 16384)
            sent += 16384

    server = await start_app(handler)
    with pytest.raises(TooLarge):
        await make_fetcher().fetch(str(server.make_url("/")))
    # The rest lies in buffers of the kernel and of the two ends, which are bounded.
    assert sent < MAX_BYTES + 16_000_000


async def test_row_19_a_body_shorter_than_announced_fails(start_raw: StartRaw, make_fetcher: MakeFetcher) -> None:
    port = await start_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n%PDF-1.7")
    with pytest.raises(UrlFetchFailed) as raised:
        await make_fetcher().fetch(f"http://{PUBLIC}:{port}/")
    assert_says_nothing(raised.value)


async def test_row_19_a_body_longer_than_announced_does_not_pass_the_limit(
    start_raw: StartRaw, make_fetcher: MakeFetcher
) -> None:
    port = await start_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%PDF-1.7" + b"a" * MAX_BYTES * 2)
    with pytest.raises(UrlFetchFailed) as raised:
        await make_fetcher().fetch(f"http://{PUBLIC}:{port}/")
    assert_says_nothing(raised.value)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%PDF-\r\n", id="no last chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n%PDF-\r\n0\r\n\r\n", id="chunk size"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n%PDF-", id="negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n%PDF-1", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n%PDF-", id="length of 2^76"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", id="huge header"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 10_000 + b"\r\n", id="many headers"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="not HTTP"),
        pytest.param(b"", id="nothing at all"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="upgrade"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, id="only interim answers"),
    ],
)
async def test_row_19_a_response_that_breaks_http_is_a_failed_fetch(
    start_raw: StartRaw, make_fetcher: MakeFetcher, answer: bytes
) -> None:
    port = await start_raw(answer)
    with pytest.raises(UrlFetchFailed) as raised:
        await make_fetcher(deadline_s=2).fetch(f"http://{PUBLIC}:{port}/")
    assert_says_nothing(raised.value)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "identity, gzip"])
async def test_row_19_a_compressed_bomb_is_refused(
    start_app: StartApp, make_fetcher: MakeFetcher, encoding: str
) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.headers["Accept-Encoding"])
        return web.Response(body=gzip.compress(b"\x00" * 10_000_000), headers={"Content-Encoding": encoding})

    server = await start_app(handler)
    with pytest.raises(UrlFetchFailed):
        await make_fetcher().fetch(str(server.make_url("/")))
    assert asked == ["identity"]


async def test_row_19_identity_encoding_is_accepted(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=DOCUMENT, headers={"Content-Encoding": "identity"})

    server = await start_app(handler)
    assert await make_fetcher().fetch(str(server.make_url("/"))) == DOCUMENT


@pytest.mark.parametrize("part", ["body", "headers", "silence"])
async def test_row_19_a_trickle_ends_at_the_deadline(make_fetcher: MakeFetcher, part: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if part != "silence":
            writer.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if part == "body" else b""))
        try:
            while True:
                if part != "silence":
                    writer.write(b"a" if part == "body" else b"X: a\r\n")
                    await writer.drain()
                await asyncio.sleep(0.03)
                if reader.at_eof():
                    break
        except ConnectionError:
            return
        finally:
            closed.set()
            writer.close()

    closed = asyncio.Event()
    async with await asyncio.start_server(serve, PUBLIC, 0) as server:
        port = server.sockets[0].getsockname()[1]
        started = time.monotonic()
        with pytest.raises(UrlFetchFailed, match=r"within 0\.3 seconds"):
            await make_fetcher(deadline_s=0.3).fetch(f"http://{PUBLIC}:{port}/")
        assert 0.25 < time.monotonic() - started < 1.5
        async with asyncio.timeout(2):  # and the connection is given up
            await closed.wait()


async def test_row_19_the_deadline_covers_all_redirects(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(0.15)
        return web.Response(status=302, headers={"Location": f"/{len(request.path)}{request.path[1:]}"})

    server = await start_app(handler)
    started = time.monotonic()
    with pytest.raises(UrlFetchFailed, match=r"within 0\.4 seconds"):
        await make_fetcher(deadline_s=0.4).fetch(str(server.make_url("/")))
    assert time.monotonic() - started < 1.5


async def test_row_19_the_deadline_covers_a_name_server_that_hangs(make_fetcher: MakeFetcher) -> None:
    answered = threading.Event()

    def hang(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        answered.wait(10)
        return []

    started = time.monotonic()
    try:
        with pytest.raises(UrlFetchFailed, match=r"within 0\.3 seconds"):
            await make_fetcher(deadline_s=0.3, getaddrinfo=hang).fetch("http://slow.example/")
        assert time.monotonic() - started < 1.5
    finally:
        answered.set()


async def test_row_19_a_cancelled_request_stops_fetching(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    reached, gone = asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.StreamResponse:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:  # the server cancels a handler whose client is gone
            gone.set()
        return web.Response()

    server = await start_app(handler)
    task = asyncio.create_task(make_fetcher().fetch(str(server.make_url("/"))))
    async with asyncio.timeout(3):
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone.wait()


# Row 20


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 403, 404, 500, 503])
async def test_row_20_the_status_of_the_server_is_not_shown(
    start_app: StartApp, make_fetcher: MakeFetcher, status: int
) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text="" if status in (204, 304) else "stack trace of 10.1.2.3")

    server = await start_app(handler)
    with pytest.raises(UrlFetchFailed) as raised:
        await make_fetcher().fetch(str(server.make_url("/")))
    assert_says_nothing(raised.value)


async def test_row_20_a_refused_connection_is_not_shown(make_fetcher: MakeFetcher) -> None:
    with socket.socket() as bound:  # bound and not listening: refuses
        bound.bind((PUBLIC, 0))
        with pytest.raises(UrlFetchFailed) as raised:
            await make_fetcher().fetch(f"http://{PUBLIC}:{bound.getsockname()[1]}/")
    assert_says_nothing(raised.value)


async def test_row_20_an_unknown_name_is_not_shown(make_fetcher: MakeFetcher) -> None:
    with pytest.raises(UrlFetchFailed) as raised:
        await make_fetcher(getaddrinfo=Names()).fetch("http://nowhere.example/")
    assert_says_nothing(raised.value)


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".example", "a" * 300])
async def test_row_20_a_name_that_dns_cannot_hold_is_a_failed_fetch(make_fetcher: MakeFetcher, host: str) -> None:
    # The system's own resolver, which refuses these before it asks anyone.
    with pytest.raises(UrlFetchFailed) as raised:
        await make_fetcher().fetch(f"http://{host}/")
    assert_says_nothing(raised.value)


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate for `name` or address, with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    alternative: x509.GeneralName = x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / f"{name}.pem"
    pem.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem


def server_tls(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_row_20_an_untrusted_certificate_is_refused(
    start_app: StartApp, make_fetcher: MakeFetcher, tmp_path: Path
) -> None:
    server = await start_app(serve_document, tls=server_tls(certificate(tmp_path, PUBLIC)))
    with pytest.raises(UrlFetchFailed) as raised:
        await make_fetcher().fetch(f"https://{PUBLIC}:{server.port}/")
    assert_says_nothing(raised.value)


async def test_row_20_a_certificate_of_another_name_is_refused(
    start_app: StartApp, make_fetcher: MakeFetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path, "good.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))  # OpenSSL's own way to name the trusted ones
    server = await start_app(serve_document, tls=server_tls(pem))
    names = Names(good_example=[[PUBLIC]], other_example=[[PUBLIC]])
    fetcher = make_fetcher(getaddrinfo=names)
    assert await fetcher.fetch(f"https://good.example:{server.port}/") == DOCUMENT
    with pytest.raises(UrlFetchFailed) as raised:
        await fetcher.fetch(f"https://other.example:{server.port}/")
    assert_says_nothing(raised.value)


async def test_row_20_tls_to_a_server_without_it_is_not_shown(start_app: StartApp, make_fetcher: MakeFetcher) -> None:
    server = await start_app(serve_document)
    with pytest.raises(UrlFetchFailed) as raised:
        await make_fetcher().fetch(f"https://{PUBLIC}:{server.port}/")
    assert_says_nothing(raised.value)


async def test_a_downgrade_from_https_is_checked_too(
    start_app: StartApp, make_fetcher: MakeFetcher, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path, PUBLIC)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    plain = await start_app(serve_document)

    async def handler(request: web.Request) -> web.Response:
        host = f"{PUBLIC}:{plain.port}" if request.path == "/public" else f"{PRIVATE}:{canary.port}"
        return web.Response(status=302, headers={"Location": f"http://{host}/"})

    secure = await start_app(handler, tls=server_tls(pem))
    fetcher = make_fetcher()
    assert await fetcher.fetch(f"https://{PUBLIC}:{secure.port}/public") == DOCUMENT
    with pytest.raises(UrlForbidden):
        await fetcher.fetch(f"https://{PUBLIC}:{secure.port}/private")
    assert canary.connections == 0


async def test_row_20_the_log_holds_no_more_of_the_url_than_its_host(
    start_app: StartApp, make_fetcher: MakeFetcher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ray.serve.fetch")

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/secret-loop":
            raise web.HTTPFound("/secret-loop?token=secret")
        if request.path == "/secret-userinfo":
            return web.Response(status=302, headers={"Location": "http://secret:secret@127.0.0.2/"})
        return web.Response(status=404)

    server = await start_app(handler)
    names = Names(public_example=[[PUBLIC]], private_example=[[PRIVATE]])
    fetcher = make_fetcher(getaddrinfo=names)
    port = server.port
    for host, path in (
        ("public.example", "/secret?token=secret"),
        ("public.example", "/secret-loop"),
        ("public.example", "/secret-userinfo"),
        ("unknown.example", "/secret?token=secret"),
        ("private.example", "/secret?token=secret"),
    ):
        caplog.clear()
        with pytest.raises((UrlFetchFailed, UrlForbidden)):
            await fetcher.fetch(f"http://{host}:{port}{path}")
        lines = [record.getMessage() for record in caplog.records if record.name == "ray.serve.fetch"]
        assert len(lines) == 1
        assert host in lines[0]
        assert "secret" not in caplog.text
    assert PRIVATE in caplog.text  # for the operator, who has to know what was refused
