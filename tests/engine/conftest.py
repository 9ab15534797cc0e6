"""What tests of the engines share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serve_app.recognition.engines.tesseract import TesseractEngine
from serve_app.settings import TesseractSettings
from tests.support.vlm_server import VlmServer


@pytest.fixture(scope="session")
def engine() -> Iterator[TesseractEngine]:
    """Tesseract as it is set by default. Modules about another engine have their own fixture of this name."""
    engine = TesseractEngine(TesseractSettings(), page_s=60)
    engine.load()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def shared_server() -> Iterator[VlmServer]:
    with VlmServer() as server:
        yield server


@pytest.fixture
def server(shared_server: VlmServer) -> Iterator[VlmServer]:
    """A server that behaves, until a test says otherwise."""
    yield shared_server
    shared_server.control(**dict.fromkeys(("tokens", "token_ms", "text", "fail_every", "status"), None))
    shared_server.control(**dict.fromkeys(("hang", "hang_models", "loading"), None))
