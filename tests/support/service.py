"""A running service for tests: deploy an application into the test run's Ray and talk to it over HTTP."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from ray import serve

from serve_app.app import build
from serve_app.settings import Settings

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak plain HTTP: httpx otherwise reads all certificates for each, in 50 ms of CPU time."""

KEY = "test-key-of-alice"
KEYS = f"alice={KEY},second-key"


@dataclass(frozen=True)
class Service:
    """One deployed application: `url` has no trailing slash, `name` is its name in Serve."""

    name: str
    url: str

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60, verify=NO_TLS, **options
        )

    def async_client(self, **options: Any) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=90, limits=limits, verify=NO_TLS, **options
        )

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas."""
        title = f"ray::ServeReplica:{self.name}:{deployment}"
        found = []
        for process in psutil.process_iter(["cmdline"]):
            cmdline = process.info["cmdline"] or []
            # Ray writes what a replica is doing behind its title: "title.method".
            if cmdline and cmdline[0].strip().partition(".")[0] == title:
                found.append(process)
        return found

    def logs(self, deployment: str) -> list[str]:
        """What each replica of a deployment has logged so far, those that have ended too."""
        folder = Path(os.environ["RAY_TMPDIR"]) / "ray" / "session_latest" / "logs" / "serve"
        files = list(folder.glob(f"replica_{self.name}_{deployment}_*.log"))
        assert files
        return [file.read_text() for file in files]

    def wait_until_engines_are_ready(self, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        with self.client() as client:
            while time.monotonic() < deadline:
                health = client.get("/health")
                assert health.status_code == 200, health.text
                states = {engine["state"] for engine in health.json()["engines"].values()}
                if states == {"initialized"}:
                    return
                time.sleep(0.1)
        raise AssertionError(f"engines of {self.name} are not ready after {timeout_s:g} s: {states}")


def standard_settings(output: Path) -> dict[str, Any]:
    """The service as users run it: Tesseract, folder store; with the dummy engine beside it."""
    return {
        "engines": [{"name": "tesseract", "replicas": 1}, {"name": "dummy", "replicas": 1, "text": "Привет"}],
        "store": {"kind": "folder", "path": str(output), "keep_source": True},
        "limits": {"body_mb": 12},
        "allowed_private_networks": ["127.0.0.2/32"],
    }


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def deploy(
    settings: dict[str, Any], *, name: str, port: int, secrets: dict[str, str] | None = None, wait: bool = True
) -> Service:
    """Deploy an application, or a new version of it, as `serve run` does. Its route prefix is its name.

    Waits until every deployment has its replicas, unless `wait` is off: some may never have.
    """
    with environment(OCR_API_KEYS=KEYS, **(secrets or {})):
        application = build(Settings.model_validate(settings))
        target = serve.RunTarget(application, name=name, route_prefix=f"/{name}")
        serve.run_many([target], wait_for_applications_running=wait)
    return Service(name, f"http://127.0.0.1:{port}/{name}")
