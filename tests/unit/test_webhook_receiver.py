"""examples/webhook_receiver.py: it takes what the service signs, and nothing else."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest
from standardwebhooks import Webhook

from examples.webhook_receiver import TOLERANCE_S, is_genuine, signing_key
from serve_app.jobs.webhooks import signature
from serve_app.jobs.webhooks import signing_key as key_of_the_service
from tests.support.documentation import ROOT

SECRET = "whsec_" + base64.b64encode(b"a secret of 24 characters").decode()
BODY = json.dumps({"type": "job.ended", "job": {"id": "job-1", "state": "done"}}).encode()
NOW = 1_800_000_000


def headers(*, at: int = NOW, body: bytes = BODY, secret: str = SECRET) -> dict[str, str]:
    """As Standard Webhooks' own library signs it."""
    made = Webhook(secret).sign("job-1", datetime.fromtimestamp(at, UTC), body.decode())
    return {"webhook-id": "job-1", "webhook-timestamp": str(at), "webhook-signature": made}


@pytest.mark.parametrize("late", [-TOLERANCE_S, 0, TOLERANCE_S])
def test_a_signed_body_is_genuine_within_five_minutes(late: int) -> None:
    assert TOLERANCE_S == 300
    assert is_genuine(headers(), BODY, signing_key(SECRET), now=NOW + late)


@pytest.mark.parametrize("late", [-TOLERANCE_S - 1, TOLERANCE_S + 1])
def test_a_recording_is_not_genuine_although_its_signature_is(late: int) -> None:
    assert not is_genuine(headers(), BODY, signing_key(SECRET), now=NOW + late)


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-id": "job-2"},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-signature": "v1,"},
        {"webhook-signature": ""},
        headers(secret="whsec_" + base64.b64encode(b"another secret of others").decode()),
        headers(body=b"{}"),
    ],
)
def test_a_changed_header_is_not_genuine(changed: dict[str, str]) -> None:
    assert not is_genuine({**headers(), **changed}, BODY, signing_key(SECRET), now=NOW)


def test_one_of_several_signatures_is_enough() -> None:
    several = {**headers(), "webhook-signature": f"v1,AAAA {headers()['webhook-signature']}"}
    assert is_genuine(several, BODY, signing_key(SECRET), now=NOW)


@pytest.mark.parametrize("secret", [SECRET, "a plain text"])
def test_what_the_service_signs_is_genuine(secret: str) -> None:
    made = signature(key_of_the_service(secret), "job-1", str(NOW), BODY)
    signed = {"webhook-id": "job-1", "webhook-timestamp": str(NOW), "webhook-signature": made}
    assert is_genuine(signed, BODY, signing_key(secret), now=NOW)


@pytest.fixture
def receiver() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [sys.executable, "examples/webhook_receiver.py", "0"],
        cwd=ROOT,
        env={**os.environ, "OCR_WEBHOOK_SECRET": SECRET},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().removeprefix("listening on ").strip()
    yield f"http://{address}/", process
    process.terminate()
    process.communicate(timeout=10)


def test_the_receiver_takes_a_webhook_once_and_refuses_what_is_forged(
    receiver: tuple[str, subprocess.Popen[str]],
) -> None:
    url, process = receiver
    signed = headers(at=int(time.time()))
    assert httpx.post(url, content=b"{}", headers=signed).status_code == 401
    assert httpx.post(url, content=BODY).status_code == 401
    assert httpx.post(url, content=BODY, headers=signed).status_code == 204
    assert httpx.post(url, content=BODY, headers=signed).status_code == 204, "sent again: its answer was lost"
    process.terminate()
    printed, _ = process.communicate(timeout=10)
    assert printed.splitlines() == ["job job-1: done"]
