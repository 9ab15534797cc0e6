from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qsl, unquote

import boto3.session
import httpx
import pytest
from mypy_boto3_s3 import S3Client
from pydantic import SecretStr

from serve_app.cli.doctor.finding import Finding
from serve_app.cli.doctor.store import check_store
from serve_app.settings import FolderStoreSettings, S3StoreSettings, Secrets, StoreSettings
from serve_app.storage import FolderStore, Store, StoreUnavailable, open_store
from serve_app.storage.folder import MARKER
from serve_app.storage.s3 import Patience, S3Store
from tests.support.compose import COMPOSE, compose_project, variables_of
from tests.support.swift import free_port
from tests.support.swift_fixture import SwiftServer

MARKDOWN = "text/markdown; charset=utf-8"
REPOSITORY = Path(__file__).parents[2]
IMPATIENT = Patience(connect_s=0.2, read_s=0.2, attempts=2)
NO_SECRETS = Secrets()


@pytest.fixture(autouse=True)
def no_keys_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests may have AWS credentials; boto3 would find them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def s3_settings(server: SwiftServer, **changes: object) -> S3StoreSettings:
    values = {"bucket": server.bucket, "endpoint_url": server.endpoint_url, "region": server.region}
    return S3StoreSettings.model_validate({**values, "prefix": uuid.uuid4().hex, "addressing_style": "path", **changes})


def s3_secrets(access_key: str, secret_key: str) -> Secrets:
    return Secrets(api_keys=None, s3_access_key_id=SecretStr(access_key), s3_secret_access_key=SecretStr(secret_key))


def keys_of(server: SwiftServer) -> Secrets:
    return s3_secrets(server.access_key, server.secret_key)


@asynccontextmanager
async def opened(settings: StoreSettings, secrets: Secrets = NO_SECRETS) -> AsyncIterator[Store]:
    store = open_store(settings, secrets)
    try:
        yield store
    finally:
        await store.close()


# Both stores


@dataclass(frozen=True)
class Place:
    """A store's settings, for tests that open it themselves."""

    settings: StoreSettings
    secrets: Secrets


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place(FolderStoreSettings(path=str(tmp_path / "results"), prefix="some/prefix"), NO_SECRETS)
    server: SwiftServer = request.getfixturevalue("swift")
    return Place(s3_settings(server), keys_of(server))


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    async with opened(place.settings, place.secrets) as store:
        yield store


@pytest.mark.parametrize(
    "data", [b"", "Съешь ещё этих мягких булок".encode(), bytes(range(256)) * 8000], ids=["empty", "russian", "2 MB"]
)
async def test_what_is_put_comes_back_byte_for_byte(store: Store, data: bytes) -> None:
    for key in ("a.json", "2024/05/документ № 1 + «ё»?%20#.md", "a/b/c/d/e/f.txt", "dots..in/..name"):
        await store.put(key, data, MARKDOWN)
        assert await store.get(key) == data, key


async def test_a_link_to_a_file_of_the_folder_is_good_for_this_file_and_for_its_time(tmp_path: Path) -> None:
    settings = FolderStoreSettings(path=str(tmp_path / "results"), prefix="отдел/1")
    async with opened(settings) as store, opened(settings) as another:
        assert isinstance(store, FolderStore) and isinstance(another, FolderStore)
        for key in ("a/one.jpg", "a/two.jpg"):
            await store.put(key, key.encode(), "image/jpeg")
        path, _, query = store.link("a/one.jpg", 60).partition("?")
        asked = {"full_key": unquote(path.removeprefix("files/")), **dict(parse_qsl(query))}
        with another.open_link(**asked) as file:
            assert file.read() == b"a/one.jpg"
        assert stat.S_IMODE((tmp_path / "results/.link-key").stat().st_mode) == 0o600
        later = str(int(asked["expires"]) + 1)
        for changed in (
            {"full_key": "отдел/1/a/two.jpg"},
            {"full_key": "отдел/1/a/../a/one.jpg"},
            {"expires": later},
            {"expires": ""},
            {"expires": "\udcff"},
            {"signature": ""},
            {"signature": "ё"},
        ):
            with pytest.raises(PermissionError):
                store.open_link(**(asked | changed))
        query = store.link("a/one.jpg", -1).partition("?")[2]
        with pytest.raises(TimeoutError):
            store.open_link("отдел/1/a/one.jpg", **dict(parse_qsl(query)))
        (tmp_path / "results/отдел/1/a/one.jpg").unlink()
        with pytest.raises(KeyError):
            store.open_link(**asked)


async def test_a_link_writes_nothing_while_another_folder_is_in_the_stores_place(tmp_path: Path) -> None:
    results = tmp_path / "results"
    async with opened(FolderStoreSettings(path=str(results))) as store:
        assert isinstance(store, FolderStore)
        await store.put("one.jpg", b"JPEG", "image/jpeg")
        results.rename(tmp_path / "away")
        for _ in range(2):  # missing, then empty, as a mount point is
            with pytest.raises(StoreUnavailable):
                store.open_link("one.jpg", "1", "signature")
            assert not results.exists() or not list(results.iterdir())
            results.mkdir(exist_ok=True)
        results.rmdir()
        (tmp_path / "away").rename(results)
        query = store.link("one.jpg", 60).partition("?")[2]
        with store.open_link("one.jpg", **dict(parse_qsl(query))) as file:
            assert file.read() == b"JPEG"


async def test_a_link_to_an_object_needs_no_key_and_has_the_address_that_clients_see(swift: SwiftServer) -> None:
    settings = s3_settings(swift)
    async with opened(settings, keys_of(swift)) as store:
        await store.put("a/счёт 1.jpg", b"JPEG", "image/jpeg")
        link = store.link("a/счёт 1.jpg", 60)
        assert link.startswith(f"{swift.endpoint_url}/{swift.bucket}/")
        async with httpx.AsyncClient() as client:
            answer = await client.get(link)
            assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"JPEG", "image/jpeg")
            assert (await client.get(link.replace("a/", "b/"))).status_code == 403
    public = settings.model_copy(update={"public_endpoint_url": "https://files.example.com"})
    async with opened(public, keys_of(swift)) as store:
        assert store.link("a/b.jpg", 60).startswith(
            f"https://files.example.com/{swift.bucket}/{settings.prefix}/a/b.jpg?"
        )


async def test_second_put_replaces_the_first(store: Store) -> None:
    await store.put("a/result.json", b"first, and longer", "application/json")
    await store.put("a/result.json", b"second", "application/json")
    assert await store.get("a/result.json") == b"second"


async def test_missing_key_is_not_an_outage(store: Store) -> None:
    await store.put("a/result.json", b"{}", "application/json")
    for key in ("b", "a", "a/other", "a/result.json/below"):
        with pytest.raises(KeyError):
            await store.get(key)


async def test_store_that_was_never_written_answers_missing(store: Store) -> None:
    with pytest.raises(KeyError):
        await store.get("anything")


async def test_what_is_put_can_be_opened_listed_and_deleted(store: Store) -> None:
    keys = ["a/1.json", "a/b/2 ё.json", "a/b/c/3.json", "ab/4.json"]
    for key in keys:
        await store.put(key, key.encode() * 300_000, "application/json")
    with await store.open("a/b/2 ё.json") as file:
        assert file.read() == "a/b/2 ё.json".encode() * 300_000
    assert await store.keys_below("a") == keys[:3] and await store.keys_below("a/b") == keys[1:3]
    assert await store.keys_below("c") == await store.keys_below("a/1.json") == []
    for key in ("a/b/c/3.json", "a/b/2 ё.json", "a/b", "a/b/c/3.json", "x/y"):
        await store.delete(key)
    assert await store.keys_below("a") == keys[:1] and await store.keys_below("ab") == keys[3:]
    for missing in ("a/b/c/3.json", "a"):
        with pytest.raises(KeyError):
            await store.open(missing)
    await store.put("a/b/c/3.json", b"again", "application/json")
    assert await store.get("a/b/c/3.json") == b"again"


async def test_prefix_keeps_two_services_apart_in_one_store(place: Place) -> None:
    other = place.settings.model_copy(update={"prefix": "other/prefix/"})
    async with opened(place.settings, place.secrets) as one, opened(other, place.secrets) as two:
        await one.put("a.txt", b"one", "text/plain")
        await two.put("a.txt", b"two", "text/plain")
        assert (await one.get("a.txt"), await two.get("a.txt")) == (b"one", b"two")
        assert two.full_key("a.txt") == "other/prefix/a.txt"
        assert two.uri("a.txt").endswith("/other/prefix/a.txt")
    whole = place.settings.model_copy(update={"prefix": ""})
    async with opened(whole, place.secrets) as root:
        assert await root.get("other/prefix/a.txt") == b"two"
        assert root.full_key("a.txt") == "a.txt"


async def test_ten_puts_at_once_do_not_mix(store: Store) -> None:
    bodies = {f"same/folder/{number}.bin": os.urandom(100_000) for number in range(10)}
    await asyncio.gather(*(store.put(key, data, "application/octet-stream") for key, data in bodies.items()))
    read = await asyncio.gather(*(store.get(key) for key in bodies))
    assert read == list(bodies.values())


async def test_racing_puts_of_one_key_leave_one_of_them_whole(store: Store) -> None:
    bodies = [bytes([number]) * 300_000 for number in range(6)]
    await asyncio.gather(*(store.put("raced", data, "application/octet-stream") for data in bodies))
    assert await store.get("raced") in bodies


async def test_cancelled_put_leaves_the_old_value_or_the_new_one(place: Place) -> None:
    old, new = b"old", os.urandom(4_000_000)
    async with opened(place.settings, place.secrets) as store:
        await store.put("a", old, "application/octet-stream")
        for pause_s in (0, 0.001, 0.01):
            put = asyncio.create_task(store.put("a", new, "application/octet-stream"))
            await asyncio.sleep(pause_s)
            put.cancel()
            await asyncio.wait([put])  # after the longer pauses it may have been done already
            assert pause_s > 0 or put.cancelled()
            assert await store.get("a") in (old, new)
        await store.put("b", b"still works", "text/plain")
    async with opened(place.settings, place.secrets) as store:
        assert await store.get("a") in (old, new)
        assert await store.get("b") == b"still works"


async def test_key_that_could_leave_the_store_is_refused(store: Store) -> None:
    leaving = ["/etc/passwd", "..", "../a", "a/../../b", "a/..", "a\0b"]
    ambiguous = ["", "a//b", "./a", "a/", "я" * 128, "a/" * 600 + "a", "\udcff"]
    for key in leaving + ambiguous:
        outcomes = await asyncio.gather(store.put(key, b"x", "text/plain"), store.get(key), return_exceptions=True)
        assert all(isinstance(outcome, ValueError) for outcome in outcomes), (key, outcomes)
        with pytest.raises(ValueError):
            store.uri(key)


@pytest.mark.parametrize("prefix", ["..", "a/../b", "a//b", "a\0"])
async def test_prefix_that_could_leave_the_store_stops_the_start(place: Place, prefix: str) -> None:
    with pytest.raises(ValueError):
        open_store(place.settings.model_copy(update={"prefix": prefix}), place.secrets)


async def test_closing_twice_is_harmless_and_finishes_what_began(place: Place) -> None:
    store = open_store(place.settings, place.secrets)
    data = os.urandom(1_000_000)
    put = asyncio.create_task(store.put("late", data, "application/octet-stream"))
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    await put
    async with opened(place.settings, place.secrets) as again:
        assert await again.get("late") == data


# The folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
async def folder_store(folder: Path) -> AsyncIterator[Store]:
    async with opened(FolderStoreSettings(path=str(folder))) as store:
        yield store


def files_in(folder: Path) -> dict[str, bytes]:
    """But for the mark by which the store knows its folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


async def test_a_result_is_on_the_disk_before_it_counts(folder_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it gets its name, and the names of its folders after."""
    synced, fsync, replace = list[str](), os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noting_replace(source: str, target: str) -> None:
        synced.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    await folder_store.put("2026/11/22/a/result.json", b"{}", "application/json")
    renamed = synced.index("rename")
    assert "file" in synced[:renamed]
    assert synced[renamed:].count("folder") >= 2


async def test_relative_folder_stays_where_the_service_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with opened(FolderStoreSettings(path="relative/results")) as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        await store.put("а/б.txt", b"x", "text/plain")
        assert store.uri("а/б.txt") == (tmp_path / "relative/results/а/б.txt").as_uri()
        assert files_in(tmp_path) == {"relative/results/а/б.txt": b"x"}


async def test_crash_before_the_rename_shows_no_file(
    folder_store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await folder_store.put("a/old", b"old", "text/plain")

    def crash(source: Path, target: Path) -> None:
        assert source.parent == target.parent, "a rename between file systems is not atomic"
        assert source.read_bytes() == b"new"
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", crash)
    for key in ("a/old", "a/new"):
        with pytest.raises(StoreUnavailable):
            await folder_store.put(key, b"new", "text/plain")
    assert files_in(folder) == {"a/old": b"old"}


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=30)


def test_killed_in_the_middle_of_a_write_leaves_the_old_file(folder: Path) -> None:
    folder.mkdir()
    (folder / "a").write_bytes(b"old")
    script = f"""
import asyncio, os, signal
from serve_app.settings import FolderStoreSettings, Secrets
from serve_app.storage import open_store
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(open_store(FolderStoreSettings(path={str(folder)!r}), Secrets()).put("a", b"new", "text/plain"))
"""
    assert run_python(script).returncode == -signal.SIGKILL
    assert (folder / "a").read_bytes() == b"old"
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["a"]


def test_full_disk_is_unavailable_and_leaves_no_part(folder: Path) -> None:
    # A limit on the size of files stops a write midway, as a full disk does, and binds root too.
    script = f"""
import asyncio, resource
from serve_app.settings import FolderStoreSettings, Secrets
from serve_app.storage import StoreUnavailable, open_store

async def fails(awaitable):
    try:
        await awaitable
    except StoreUnavailable:
        return
    raise AssertionError("not refused")

async def main():
    store = open_store(FolderStoreSettings(path={str(folder)!r}), Secrets())
    await store.put("a/old", b"old", "text/plain")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    await fails(store.put("a/old", bytes(100_000), "text/plain"))
    await fails(store.put("a/new", bytes(100_000), "text/plain"))
    await store.put("a/small", b"small", "text/plain")
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    await fails(store.check())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.check()

asyncio.run(main())
"""
    ended = run_python(script)
    assert ended.returncode == 0, ended.stderr
    assert files_in(folder) == {"a/old": b"old", "a/small": b"small"}


async def test_failed_sync_is_not_reported_as_stored(
    folder_store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreUnavailable):
        await folder_store.put("a", b"x", "text/plain")
    assert files_in(folder) == {}


async def test_folder_on_a_file_system_that_cannot_sync_names_still_works(
    folder_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    await folder_store.put("a/b", b"x", "text/plain")
    assert await folder_store.get("a/b") == b"x"


async def test_folder_that_cannot_be_written_is_told_by_check(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    async with opened(FolderStoreSettings(path=str(tmp_path / "file" / "results"))) as store:
        with pytest.raises(StoreUnavailable):
            await store.check()
        with pytest.raises(StoreUnavailable):
            await store.put("a", b"x", "text/plain")


async def test_a_folder_that_is_gone_or_another_one_is_unavailable_and_not_made_anew(
    folder_store: Store, folder: Path
) -> None:
    await folder_store.put("a/b", b"x", "text/plain")
    for instead in ("nothing", "folder", "file"):
        with replaced(folder, instead):
            await assert_unavailable(folder_store)
            with pytest.raises(StoreUnavailable):
                await folder_store.keys_below("a")
            with pytest.raises(StoreUnavailable):
                await folder_store.delete("a/b")
        assert await folder_store.get("a/b") == b"x"


@contextmanager
def replaced(folder: Path, instead: str) -> Iterator[None]:
    """The folder is away; what stands in its place is not written to."""
    away = folder.with_name("away")
    folder.rename(away)
    if instead == "folder":
        folder.mkdir()
    elif instead == "file":
        folder.write_text("in the way")
    yield
    if instead == "folder":
        folder.rmdir()
    elif instead == "file":
        folder.unlink()
    away.rename(folder)


async def test_check_of_a_folder_leaves_nothing_in_it(folder_store: Store, folder: Path) -> None:
    await folder_store.check()
    assert files_in(folder.parent) == {}
    await folder_store.put("a", b"x", "text/plain")
    await folder_store.check()
    assert files_in(folder) == {"a": b"x"}


async def test_reader_never_sees_half_a_file(folder_store: Store) -> None:
    bodies = [bytes([number]) * 2_000_000 for number in range(5)]
    await folder_store.put("a", bodies[0], "application/octet-stream")
    writing = asyncio.gather(*(folder_store.put("a", data, "application/octet-stream") for data in bodies))
    reads = 0
    while not writing.done():
        assert await folder_store.get("a") in bodies
        reads += 1
    await writing
    assert reads > 0


async def test_result_may_be_read_by_other_users_as_the_umask_says(folder_store: Store, folder: Path) -> None:
    previous = os.umask(0o027)
    try:
        await folder_store.put("a", b"x", "text/plain")
    finally:
        os.umask(previous)
    assert (folder / "a").stat().st_mode & 0o777 == 0o640


def test_folder_does_not_pay_for_boto3(folder: Path) -> None:
    script = f"""
import sys
from serve_app.settings import FolderStoreSettings, Secrets
from serve_app.storage import open_store
open_store(FolderStoreSettings(path={str(folder)!r}), Secrets())
sys.exit("boto3" in sys.modules or "botocore" in sys.modules)
"""
    assert run_python(script).returncode == 0


# S3


@pytest.fixture
def client(swift: SwiftServer) -> Iterator[S3Client]:
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=swift.endpoint_url,
        region_name=swift.region,
        aws_access_key_id=swift.access_key,
        aws_secret_access_key=swift.secret_key,
    )
    yield client
    client.close()


async def assert_unavailable(store: Store) -> None:
    with pytest.raises(StoreUnavailable):
        await store.put("a", b"x", "text/plain")
    with pytest.raises(StoreUnavailable):
        await store.get("a")
    with pytest.raises(StoreUnavailable):
        await store.check()


async def test_object_has_its_content_type_and_lies_where_the_uri_says(swift: SwiftServer, client: S3Client) -> None:
    async with opened(s3_settings(swift, prefix="видно"), keys_of(swift)) as store:
        await store.put("отчёт.md", b"# x", MARKDOWN)
        assert store.uri("отчёт.md") == "s3://results/видно/отчёт.md"
    found = client.get_object(Bucket="results", Key="видно/отчёт.md")
    assert found["ContentType"] == MARKDOWN
    assert found["Body"].read() == b"# x"


async def test_check_of_a_bucket_leaves_nothing_in_it(swift: SwiftServer, client: S3Client) -> None:
    settings = s3_settings(swift)
    async with opened(settings, keys_of(swift)) as store:
        await store.check()
    assert client.list_objects_v2(Bucket=swift.bucket, Prefix=settings.prefix)["KeyCount"] == 0


async def test_wrong_secret_is_unavailable(swift: SwiftServer) -> None:
    async with opened(s3_settings(swift), s3_secrets(swift.access_key, "wrong")) as store:
        await assert_unavailable(store)


async def test_missing_bucket_is_unavailable_and_not_a_missing_key(swift: SwiftServer) -> None:
    async with opened(s3_settings(swift, bucket="no-such-bucket"), keys_of(swift)) as store:
        await assert_unavailable(store)


async def test_no_keys_anywhere_is_unavailable(swift: SwiftServer) -> None:
    async with opened(s3_settings(swift)) as store:
        await assert_unavailable(store)


async def test_keys_of_the_environment_are_found_without_ours(
    swift: SwiftServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", swift.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", swift.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", swift.endpoint_url)
    async with opened(s3_settings(swift, endpoint_url=None)) as store:
        await store.check()
        await store.put("a", b"x", "text/plain")
        assert await store.get("a") == b"x"


async def test_our_keys_win_over_the_environment(
    swift: SwiftServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of somebody else")
    async with opened(s3_settings(swift), keys_of(swift)) as store:
        await store.put("a", b"x", "text/plain")
        assert await store.get("a") == b"x"


async def test_encryption_that_the_store_lacks_is_not_dropped_in_silence(swift: SwiftServer) -> None:
    settings = s3_settings(swift)
    asked = settings.model_copy(update={"server_side_encryption": "AES256"})
    async with opened(asked, keys_of(swift)) as store, opened(settings, keys_of(swift)) as plain:
        with pytest.raises(StoreUnavailable):
            await store.put("a", b"x", "text/plain")
        with pytest.raises(KeyError):
            await plain.get("a")


async def test_closed_port_is_unavailable() -> None:
    settings = S3StoreSettings(bucket="results", endpoint_url=f"http://127.0.0.1:{free_port()}", region="us-east-1")
    store = S3Store(settings, s3_secrets("key", "secret"), patience=IMPATIENT)
    try:
        await asyncio.gather(*(assert_unavailable(store) for _ in range(3)))
    finally:
        await store.close()


async def test_store_that_hangs_gives_up_in_the_configured_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, nobody answers
        endpoint_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = S3StoreSettings(bucket="results", endpoint_url=endpoint_url, region="us-east-1")
        store = S3Store(settings, s3_secrets("key", "secret"), patience=IMPATIENT)
        try:
            begin = time.monotonic()
            calls = (store.put("a", b"x", "text/plain"), store.get("a"), store.check())
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            took_s = time.monotonic() - begin
        finally:
            await store.close()
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    # boto3 adds a second to each attempt of a put: it waits for "100 Continue" before it sends the body.
    assert 2 * IMPATIENT.read_s <= took_s < 2 * (IMPATIENT.read_s + 1) + 1


@asynccontextmanager
async def listening(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """An endpoint that answers each connection so."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def endpoint_that_breaks_off() -> AsyncIterator[str]:
    """It says how large an object is, and sends half of it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b"" if head.startswith(b"HEAD") else b"half."
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "a"\r\nConnection: close\r\n\r\n' + body)
        await writer.drain()
        writer.close()

    async with listening(answer) as endpoint_url:
        yield endpoint_url


async def test_a_download_that_breaks_off_is_an_outage_of_the_store() -> None:
    async with endpoint_that_breaks_off() as endpoint_url:
        settings = S3StoreSettings(bucket="results", endpoint_url=endpoint_url, region="us-east-1")
        store = S3Store(settings, s3_secrets("key", "secret"), patience=IMPATIENT)
        try:
            with pytest.raises(StoreUnavailable):
                await store.open("a")
            with pytest.raises(StoreUnavailable):
                await store.source("s3://other/a", max_bytes=100)
        finally:
            await store.close()


async def test_small_objects_do_not_wait_for_files(tmp_path: Path) -> None:
    may_go_on = threading.Event()

    class Slow(FolderStore):
        def _open(self, key: str) -> BinaryIO:
            if key == "x/a":
                may_go_on.wait(30)
            return super()._open(key)

    async with opened(FolderStoreSettings(path=str(tmp_path))) as usual:
        await usual.put("x/a", b"1", "text/plain")
    store = Slow(FolderStoreSettings(path=str(tmp_path)))
    try:
        opening = [asyncio.create_task(store.open("x/a")) for _ in range(20)]
        async with asyncio.timeout(5):
            await store.put("x/b", b"2", "text/plain")
            assert await store.get("x/b") == b"2" and await store.keys_below("x") == ["x/a", "x/b"]
        assert not any(each.done() for each in opening)
        may_go_on.set()
        for file in await asyncio.gather(*opening):
            file.close()
    finally:
        may_go_on.set()
        await store.close()


async def test_hanging_store_does_not_block_the_event_loop() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = S3StoreSettings(bucket="results", endpoint_url=endpoint_url, region="us-east-1", threads=1)
        store = S3Store(settings, s3_secrets("key", "secret"), patience=Patience(0.3, 0.3, attempts=1))
        checks = [asyncio.create_task(store.check()) for _ in range(2)]  # one runs, one queues
        longest_s = 0.0
        try:
            while not all(check.done() for check in checks):
                begin = time.monotonic()
                await asyncio.sleep(0.005)
                longest_s = max(longest_s, time.monotonic() - begin)
        finally:
            await store.close()
        assert [type(check.exception()) for check in checks] == [StoreUnavailable] * 2
    assert longest_s < 0.25


@pytest.mark.parametrize("endpoint_url", ["s3.example.com", "http://"])
async def test_endpoint_that_can_never_work_stops_the_start(endpoint_url: str) -> None:
    with pytest.raises(ValueError):
        open_store(S3StoreSettings(bucket="results", endpoint_url=endpoint_url), NO_SECRETS)


async def test_profile_that_does_not_exist_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(ValueError, match="no-such-profile"):
        open_store(S3StoreSettings(bucket="results"), NO_SECRETS)


@asynccontextmanager
async def recording_endpoint(heads: list[str]) -> AsyncIterator[str]:
    """An endpoint that takes every PUT and notes its head: what an older gateway would have to understand."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        heads.append(head)
        if "expect: 100-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async with listening(answer) as endpoint_url:
        yield endpoint_url


async def test_older_gateway_gets_no_checksum_header_unless_asked_for() -> None:
    heads: list[str] = []
    async with recording_endpoint(heads) as endpoint_url:
        settings = S3StoreSettings(bucket="results", endpoint_url=endpoint_url, region="us-east-1")
        asked = settings.model_copy(update={"checksums": "when_supported", "server_side_encryption": "AES256"})
        for each in (settings, asked):
            async with opened(each, s3_secrets("key", "secret")) as store:
                await store.put("a", b"x", "text/plain")
    plain, full = heads
    assert "checksum" not in plain and "trailer" not in plain and "server-side-encryption" not in plain
    assert "x-amz-checksum-" in full
    assert "x-amz-server-side-encryption: aes256" in full


def test_the_bucket_of_docker_compose_is_made_once_and_found_the_next_time(
    swift: SwiftServer,
    client: S3Client,
) -> None:
    variables = dict.fromkeys(variables_of(COMPOSE), "x")
    service = compose_project(variables, gpu=False)["services"]["bucket"]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        **service["environment"],
        "AWS_ENDPOINT_URL_S3": swift.endpoint_url,
        "AWS_ACCESS_KEY_ID": swift.access_key,
        "AWS_SECRET_ACCESS_KEY": swift.secret_key,
    }
    command = [sys.executable, *service["command"][1:]]
    for _ in range(2):
        subprocess.run(command, env=environment, check=True, timeout=60)
    client.head_bucket(Bucket="ocr")


# The command `doctor`


def examined(settings: S3StoreSettings, secrets: Secrets) -> list[Finding]:
    return list(check_store(settings, secrets))


def test_doctor_uses_an_s3_store_and_leaves_nothing_there(swift: SwiftServer) -> None:
    settings = s3_settings(swift)
    found = examined(settings, keys_of(swift))
    names = ["store write", "store list", "store read", "store delete", "store clock"]
    assert [(each.check, each.status) for each in found] == [(name, "ok") for name in names]
    assert swift.written(settings.prefix) == {}


def test_doctor_says_what_an_s3_store_refuses_and_no_key(swift: SwiftServer) -> None:
    wrong = examined(s3_settings(swift), s3_secrets(swift.access_key, "WRONG-KEY"))
    assert [(each.check, each.code) for each in wrong] == [("store write", "store_refuses"), ("store clock", None)]
    assert "correct OCR_S3_ACCESS_KEY_ID" in wrong[0].message and "WRONG-KEY" not in wrong[0].message
    missing = examined(s3_settings(swift, bucket="no-such-bucket"), keys_of(swift))
    assert missing[0].code == "store_refuses" and "does not exist" in missing[0].message
    with swift.full():
        full = examined(s3_settings(swift), keys_of(swift))
    assert full[0].code == "store_refuses" and full[0].status == "problem"
    nobody = examined(s3_settings(swift), NO_SECRETS)
    assert nobody[0].code == "store_refuses" and "there are no keys" in nobody[0].message


def test_doctor_says_that_the_clock_is_why_s3_refuses(swift: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: ahead.replace(tzinfo=None))
    write, clock = examined(s3_settings(swift), keys_of(swift))
    assert write.code == "store_refuses" and "the time of this machine" in write.message
    assert clock.check == "store clock"


def test_doctor_does_not_wait_for_an_s3_store_that_is_away(swift: SwiftServer) -> None:
    with swift.away():
        (hanging,) = examined(s3_settings(swift), keys_of(swift))
    assert hanging.code == "store_away" and "does not respond within 3 s" in hanging.message
    stopped = f"http://user:PASSWORD@127.0.0.1:{free_port()}"
    (gone,) = examined(s3_settings(swift, endpoint_url=stopped), keys_of(swift))
    assert gone.code == "store_away" and "cannot be connected to" in gone.message and "PASSWORD" not in gone.message
