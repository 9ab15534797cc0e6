"""The spool on the disk: what is durable, whose it is, how much it holds."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from serve_app.metrics.catalogue import SPOOL_BYTES, SPOOL_LIMIT_BYTES, SPOOL_RESULTS
from serve_app.settings import FolderStoreSettings
from serve_app.storage import spool as spool_module
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.sender import SpoolSender
from serve_app.storage.spool import LOCK, ResultSpool, SpoolFull, StoredObject, Waiting, objects_in

TEXT = "text/plain"
MB = 10**6


async def spooled(spool: ResultSpool, **objects: bytes) -> str:
    """Put a result into the spool; return the name of its file."""
    before = spool.files()
    result = spool.begin("id")
    for key, data in objects.items():
        await result.put(key, data, TEXT)
    result.commit()
    (path,) = set(spool.files()) - set(before)
    return path.name


async def nothing_is_gone(name: str) -> bool:
    return False


def names_in(spool: ResultSpool) -> list[str]:
    return [path.name for path in spool.files()]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> ResultSpool:
    return ResultSpool(folder, MB)


async def test_the_folder_is_synced_once_a_result_has_its_name(
    spool: ResultSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = list[set[str]]()

    def noting_sync(folder: Path) -> None:
        synced.append({path.name for path in folder.iterdir()})

    monkeypatch.setattr(spool_module, "sync_folder", noting_sync)
    name = await spooled(spool, key=b"value")
    assert name in synced[-1]


async def test_a_result_comes_out_as_it_was_put_in_and_the_oldest_first(spool: ResultSpool) -> None:
    result = spool.begin("id")
    await result.put("documents/отчёт.json", "Съешь ещё".encode(), "application/json")
    file = io.BytesIO(b"skipped" + bytes(range(256)))
    file.seek(7)
    await result.put("b\n", file, TEXT)
    await result.put("empty", b"", TEXT)
    result.commit()
    await spooled(spool, later=b"x")
    first, second = spool.files()
    assert list(objects_in(first)) == [
        StoredObject("documents/отчёт.json", "application/json", "Съешь ещё".encode()),
        StoredObject("b\n", TEXT, bytes(range(256))),
        StoredObject("empty", TEXT, b""),
    ]
    assert [each.key for each in objects_in(second)] == ["later"]
    spool.remove(first)
    assert spool.files() == [second] and spool.waiting.results == 1


async def test_nothing_is_written_before_the_first_result(spool: ResultSpool, folder: Path) -> None:
    spool.look_around()
    assert spool.waiting == Waiting() and files_in(folder) == []


async def test_a_result_that_is_not_whole_does_not_wait_and_leaves_nothing(spool: ResultSpool, folder: Path) -> None:
    result = spool.begin("id")
    await result.put("a", b"x" * 1000, TEXT)
    assert spool.files() == []
    result.abandon()
    assert spool.waiting == Waiting() and [path.name for path in files_in(folder)] == [LOCK]


async def test_a_result_is_on_the_disk_before_it_counts(spool: ResultSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    result = spool.begin("id")
    await result.put("a", b"x", TEXT)

    def fail(descriptor: int) -> None:
        raise OSError("the disk is broken")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="broken"):
        result.commit()
    assert spool.files() == []


async def test_all_processes_share_the_bound(folder: Path) -> None:
    one, other = ResultSpool(folder, 10_000), ResultSpool(folder, 10_000)
    await spooled(one, a=b"x" * 6000)
    other.look_around()
    assert other.waiting == one.waiting and one.waiting.bytes > 6000
    result = other.begin("id")
    with pytest.raises(SpoolFull):
        await result.put("b", b"x" * 4000, TEXT)
    result.abandon()
    await spooled(other, c=b"x" * 3000)
    one.look_around()
    assert one.waiting.results == 2
    one.remove(one.files()[0])
    other.look_around()
    await spooled(other, b=b"x" * 4000)


async def test_results_that_are_being_written_count_in_the_bound(folder: Path) -> None:
    spool = ResultSpool(folder, 10_000)
    first, second = spool.begin("first"), spool.begin("second")
    await first.put("a", b"x" * 6000, TEXT)
    with pytest.raises(SpoolFull):
        await second.put("b", b"x" * 6000, TEXT)
    first.abandon()
    await second.put("b", b"x" * 6000, TEXT)
    second.commit()
    assert spool.waiting.results == 1


async def test_what_a_dead_process_has_left_is_taken_over_once_and_in_order(folder: Path) -> None:
    dead, alive, next_one = (ResultSpool(folder, MB) for _ in range(3))
    names = [await spooled(dead, a=b"1"), await spooled(alive, b=b"2"), await spooled(dead, c=b"3")]
    unfinished = dead.begin("id")
    await unfinished.put("d", b"4", TEXT)
    alive.look_around()
    assert names_in(alive) == [names[1]] and alive.waiting.results == 3, "it is alive"
    dead.close()  # the kernel ends the lock of a killed process in the same way
    alive.look_around()
    next_one.look_around()
    assert names_in(alive) == names and names_in(next_one) == []
    assert [data.data for path in alive.files() for data in objects_in(path)] == [b"1", b"2", b"3"]
    assert len({path.parent for path in files_in(folder)}) == 1, "nothing else of it is left"


async def test_a_subfolder_that_is_being_made_is_left_alone(spool: ResultSpool, folder: Path) -> None:
    being_made, left_behind = folder / "1-a", folder / "2-b"
    for each in (being_made, left_behind):
        each.mkdir(parents=True)
    long_ago = being_made.stat().st_mtime - 2 * spool_module.NEW_S
    os.utime(left_behind, (long_ago, long_ago))
    spool.look_around()
    assert being_made.exists() and not left_behind.exists()


async def test_a_damaged_file_is_kept_and_out_of_the_way(spool: ResultSpool, folder: Path) -> None:
    name = await spooled(spool, a=b"x" * 100)
    (file,) = (path for path in files_in(folder) if path.name == name)
    os.truncate(file, 50)
    with pytest.raises(ValueError):
        list(objects_in(file))
    spool.set_aside(file)
    assert spool.files() == []
    spool.close()
    ResultSpool(folder, MB).look_around()
    assert [path.suffix for path in files_in(folder) if path.name != LOCK] == [".damaged"]


async def test_a_result_is_found_by_the_beginning_of_its_name_whoever_has_it(folder: Path) -> None:
    one, other = ResultSpool(folder, MB), ResultSpool(folder, MB)
    for spool, name in ((one, "job-1.000001"), (other, "job-1.000002"), (other, "job-2.000001")):
        result = spool.begin(name)
        await result.put(name, b"x", TEXT)
        result.commit()
    assert sorted(one.find("job-1.")) == ["job-1.000001", "job-1.000002"]
    assert [each.key for each in objects_in(one.find("job-1.000002")["job-1.000002"])] == ["job-1.000002"]
    one.drop("job-1.")
    assert other.find("job") == {"job-2.000001": other.files()[-1]}
    assert not other.remove(other.files()[0]), "it is gone"
    assert other.waiting.results == 1


async def test_a_result_that_is_dropped_while_it_is_being_sent_is_not_in_the_store(
    spool: ResultSpool, tmp_path: Path
) -> None:
    """Its document has been deleted, and nobody else would delete what comes later."""

    class Dropping(FolderStore):
        async def put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
            await super().put(key, data, content_type)
            spool.drop("id")

    store = Dropping(FolderStoreSettings(path=str(tmp_path / "store")))
    await spooled(spool, page=b"1")
    await SpoolSender(spool, store, StoreMonitor(store), nothing_is_gone).send()
    with pytest.raises(KeyError):
        await store.get("page")
    await store.close()


async def test_its_metrics_say_how_much_waits_on_the_node_and_how_much_may(folder: Path, spool: ResultSpool) -> None:
    await spooled(spool, page=b"1" * 1000)
    other = ResultSpool(folder, MB)
    other.look_around()
    await spooled(other, page=b"2" * 1000)
    other.measure()
    files = [path.stat().st_size for path in files_in(folder) if path.name != LOCK]
    assert (SPOOL_RESULTS.value(), SPOOL_BYTES.value(), SPOOL_LIMIT_BYTES.value()) == (2, sum(files), MB)
    other.remove(other.files()[0])
    spool.remove(spool.files()[0])
    other.look_around()
    other.measure()
    assert (SPOOL_RESULTS.value(), SPOOL_BYTES.value()) == (0, 0)
