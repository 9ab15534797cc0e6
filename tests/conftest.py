"""Fixtures of the whole run: one Ray, one S3 server; tests deploy applications into it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.ray_environment import RAY_ENVIRONMENT
from tests.support.samples import SAMPLES
from tests.support.service import Service, deploy, standard_settings
from tests.support.swift_fixture import swift
from tests.support.tiny_models_fixture import tiny_models

__all__ = ["swift", "tiny_models"]


GROUPS = {
    "paddle": (
        "test_paddlex_adapter",
        "test_tiny_paddleocr_vl",
        "test_paddleocr_vl_engine",
        "test_vlm_client",
        "test_outline_structure",
        "test_official_server",
        "test_paddleocr_vl",
        "test_vlm_server_away",
    ),
    "swift": ("test_store", "test_spool", "test_job_stores", "test_shared_jobs"),
}
"""Modules that one worker runs, which pays once: for the import of Paddle and the tiny models, or for an S3 server."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `--dist loadgroup`, a module's tests run in one worker, as its fixtures are for all of them.

    So do all tests that deploy into the Ray of the whole run. Tests of tests/unit have fixtures of their own, so they
    go to whichever worker is free. Tests with a Ray of their own come first: the one of the whole run is idle work.
    """

    def uses_the_ray(item: pytest.Item) -> bool:
        return "serve_port" in getattr(item, "fixturenames", ())

    for item in items:
        if item.path.parent.name == "unit":
            continue
        module = item.path.stem
        group = next((group for group, modules in GROUPS.items() if module in modules), module)
        item.add_marker(pytest.mark.xdist_group("ray" if uses_the_ray(item) else group))
    items.sort(key=uses_the_ray)


def pytest_collection_finish(session: pytest.Session) -> None:
    """See that pytest-xdist keeps the groups together: otherwise each worker pays for Paddle, models and S3 servers."""
    if session.config.getoption("loadgroup", False):
        for item in session.items:
            groups = item.iter_markers("xdist_group")
            assert all(item.nodeid.endswith(f"@{group.args[0]}") for group in groups), item.nodeid


@pytest.fixture(scope="session")
def serve_port() -> Iterator[int]:
    """A local Ray with Serve listening on the port; its files and its token are in a temporary folder."""
    import ray
    from ray import serve

    folder = tempfile.mkdtemp(prefix="ocr-", dir="/tmp")  # short: Ray's sockets lie below it
    environment = {"HOME": folder, "RAY_TMPDIR": folder, **RAY_ENVIRONMENT}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    ray.init(
        address="local",
        namespace="serve",
        num_cpus=16,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _node_ip_address="127.0.0.1",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield port
    ray.shutdown()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def short_tmp_path_factory() -> Iterator[Callable[[], Path]]:
    """Makes temporary folders with short paths: Ray's sockets lie below them, and a socket's path is short."""
    folders = []

    def make() -> Path:
        folders.append(Path(tempfile.mkdtemp(prefix="ocr-", dir="/tmp")))
        return folders[-1]

    yield make
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def short_tmp_path(short_tmp_path_factory: Callable[[], Path]) -> Path:
    return short_tmp_path_factory()


@pytest.fixture(scope="session")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="session")
def service(serve_port: int, output_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service as users run it: Tesseract, folder store; with the dummy engine beside it."""
    settings = {**standard_settings(output_dir), "temp_dir": str(tmp_path_factory.mktemp("temp"))}
    service = deploy(settings, name="ocr", port=serve_port)
    service.wait_until_engines_are_ready()
    yield service


@pytest.fixture(scope="session")
def slow(serve_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Reads one page after another, each in a tenth of a second; waits a second for the rest of an upload."""
    with deleted_afterwards(serve_port, tmp_path_factory.mktemp("slow")) as deploy_one:
        engine = {"name": "dummy", "replicas": 1, "page_s": 0.1, "max_batch": 1}
        service = deploy_one({"engines": [engine], "limits": {"stall_s": 1}})
        service.wait_until_engines_are_ready()
        yield service


@pytest.fixture
def deployed(serve_port: int, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Deploy an application for one test; it is deleted afterwards."""
    with deleted_afterwards(serve_port, tmp_path) as deploy_one:
        yield deploy_one


@pytest.fixture(scope="module")
def deployed_for_module(serve_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Deploy an application for the tests of a module: each costs the start of three processes or more."""
    with deleted_afterwards(serve_port, tmp_path_factory.mktemp("module")) as deploy_one:
        yield deploy_one


@contextmanager
def deleted_afterwards(port: int, folder: Path) -> Iterator[Callable[..., Service]]:
    from ray import serve

    names = []

    def deploy_one(settings: dict[str, Any], *, name: str | None = None, **options: Any) -> Service:
        name = name or f"app-{uuid.uuid4().hex[:6]}"
        if name not in names:
            names.append(name)
        defaults = {
            "store": {"kind": "folder", "path": str(folder / "output")},
            "temp_dir": str(folder / "temp"),
            "spool_dir": str(folder / "spool"),
        }
        return deploy({**defaults, **settings}, name=name, port=port, **options)

    yield deploy_one
    for name in names:
        serve.delete(name, _blocking=False)


@pytest.fixture(scope="session")
def russian_page() -> bytes:
    return (SAMPLES / "page-ru.png").read_bytes()


@pytest.fixture(scope="session")
def russian_text() -> str:
    return (SAMPLES / "page-ru.txt").read_text()


@pytest.fixture(scope="session")
def english_page() -> bytes:
    return (SAMPLES / "page-en.png").read_bytes()


@pytest.fixture(scope="session")
def english_text() -> str:
    return (SAMPLES / "page-en.txt").read_text()
