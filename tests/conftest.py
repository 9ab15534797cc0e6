"""Fixtures of the whole run: one Ray, one S3 server; tests deploy applications into it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.ray_environment import RAY_ENVIRONMENT, WITHOUT_PANDAS
from tests.support.samples import SAMPLES
from tests.support.service import Service, deploy
from tests.support.swift_fixture import SwiftServer, swift
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
        "test_vlm_server_shared",
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
    environment = {"HOME": folder, "RAY_TMPDIR": folder, **RAY_ENVIRONMENT, **WITHOUT_PANDAS}
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
    # Ray's processes have it; clients of the tests may need pandas.
    restore(before, "PYTHONPATH")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield port
    ray.shutdown()
    restore(before, *before)
    shutil.rmtree(folder, ignore_errors=True)


def restore(before: Mapping[str, str | None], *names: str) -> None:
    """Give variables of the environment their former values."""
    for name in names:
        if (value := before[name]) is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


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
def deploy_service(
    serve_port: int, swift: SwiftServer, store_prefix: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Service]:
    """Deploys what `service` is, or a new version of it with another `text` of the dummy engine.

    It is the service as users run it, two replicas of all but the rasterizer, and S3. The dummy engine beside Tesseract
    reads one page after another, each in 0.15 s: work is always in flight, and the cores have time for what starts.
    """
    store, keys = swift.store_settings(store_prefix)
    folder = tmp_path_factory.mktemp("service")
    name = f"ocr-{uuid.uuid4().hex[:6]}"  # tests find its processes by it, among those of all services of this machine

    def deploy_one(text: str = "Привет") -> Service:
        dummy = {"name": "dummy", "replicas": 2, "page_s": 0.15, "max_batch": 1, "text": text}
        settings = {
            "engines": [{"name": "tesseract", "replicas": 2}, dummy],
            "ingress_replicas": 2,
            "jobs": {"replicas": 2, "in_flight": 4},
            "store": {**store, "keep_source": True},
            "temp_dir": str(folder / "temp"),
            "spool_dir": str(folder / "spool"),
            "limits": {"body_mb": 12, "stall_s": 1},
            "log_level": "debug",  # a line for each page of a job
            "allowed_private_networks": ["127.0.0.2/32"],
        }
        return deploy(settings, name=name, port=serve_port, secrets=keys)

    return deploy_one


@pytest.fixture(scope="session")
def store_prefix() -> str:
    """Below which `service` keeps everything in S3."""
    return uuid.uuid4().hex


@pytest.fixture(scope="session")
def service(deploy_service: Callable[..., Service]) -> Service:
    """One for all tests that can share it, also for those that kill parts of it: each part costs three CPU seconds."""
    service = deploy_service()
    service.wait_until_engines_are_ready()
    return service


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
