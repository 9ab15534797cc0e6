"""The fixture `swift`: one real S3 server for all tests of a run."""

from __future__ import annotations

import functools
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3.session
import psutil
import pytest
from mypy_boto3_s3 import S3Client

from tests.support.swift import ACCESS_KEY, REGION, SECRET_KEY, START_S, free_port

REPOSITORY = Path(__file__).parents[2]
BUCKET = "results"


@dataclass(frozen=True)
class SwiftServer:
    """Where the server is and who may use it; `bucket` exists."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str
    bucket: str
    pid: int
    folder: Path

    @functools.cached_property
    def client(self) -> S3Client:
        """One for all, since boto3 takes 0.2 s of CPU time to make a client."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )

    def store_settings(self, prefix: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Settings of a store below the prefix, and the environment variables with its keys."""
        store = {"kind": "s3", "bucket": self.bucket, "region": self.region, "addressing_style": "path"}
        keys = {"OCR_S3_ACCESS_KEY_ID": self.access_key, "OCR_S3_SECRET_ACCESS_KEY": self.secret_key}
        return {**store, "endpoint_url": self.endpoint_url, "prefix": prefix}, keys

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def written(self, prefix: str) -> dict[str, datetime]:
        """When each object below a prefix was written."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{prefix}/")
        return {each["Key"]: each["LastModified"] for page in pages for each in page.get("Contents", [])}

    @contextmanager
    def full(self) -> Iterator[None]:
        """The bucket takes no more bytes."""
        self._limit_bytes("0")
        try:
            yield
        finally:
            self._limit_bytes("")

    def _limit_bytes(self, quota: str) -> None:
        """Set the quota in the database, as Swift's own API wants a memcached."""
        from swift.common.utils import Timestamp  # they take seconds to import
        from swift.container.backend import ContainerBroker

        quotas = {"X-Container-Meta-Quota-Bytes": (quota, Timestamp.now().internal)}
        for database in (self.folder / "node/d1/containers").rglob("*.db"):
            broker = ContainerBroker(str(database))
            if broker.get_info()["container"] == self.bucket:  # tests make other buckets, too
                broker.update_metadata(quotas)

    @contextmanager
    def away(self) -> Iterator[None]:
        """It takes connections, and answers nothing."""
        processes = psutil.Process(self.pid).children(recursive=True)
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    """A Swift with an empty bucket. It dies with the test run, even when that is killed."""
    with running_swift(tmp_path_factory.mktemp("swift")) as server:
        yield server


@contextmanager
def running_swift(folder: Path, port: int | None = None) -> Iterator[SwiftServer]:
    """Run a Swift with its data in `folder`, which may have been used before. It listens on a free port by default."""
    folder.mkdir(exist_ok=True)
    errors = folder / "launcher.log"
    options = ["--dir", str(folder), "--port", str(port or free_port()), "--parent", str(os.getpid())]
    with errors.open("wb") as stderr:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "tests.support.swift", *options],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    try:
        assert launcher.stdout is not None
        # The launcher gives up by itself after START_S; the rest is for its own start and end.
        ready, _, _ = select.select([launcher.stdout], [], [], START_S + 15)
        line = launcher.stdout.readline().decode() if ready else ""
        if not line.startswith("READY "):
            raise RuntimeError(f"no S3 server for the tests: {errors.read_text()[-3000:]}")
        server = SwiftServer(line.split()[1], ACCESS_KEY, SECRET_KEY, REGION, BUCKET, launcher.pid, folder)
        with closing(server.client):
            _make_bucket(server)
            yield server
    finally:
        launcher.terminate()
        try:
            launcher.wait(30)
        except subprocess.TimeoutExpired:
            launcher.kill()
            launcher.wait()
        if launcher.stdout is not None:
            launcher.stdout.close()


def _make_bucket(server: SwiftServer) -> None:
    if BUCKET not in [bucket["Name"] for bucket in server.client.list_buckets()["Buckets"]]:
        server.client.create_bucket(Bucket=server.bucket)
