"""When a replica is too large: what is compared with its limits, and which limits are not enforced."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterator

import psutil
import pytest

from serve_app.document import PageContent
from serve_app.errors import RecognitionFailed, ServiceError
from serve_app.recognition.engines.engine import Engine, PageTask
from serve_app.recognition.memory_limit import MB, MemoryLimit, MemoryLimitPassed, private_memory_mb
from serve_app.settings import DummySettings, EngineSettings, Limits, PaddleOcrVlSettings
from tests.support.recognizer import LocalRecognizer, initialized

GROWTH = 200 * 10**6
LOG = "ray.serve.recognizer"


class SizedEngine(Engine):
    """Holds so much of a GPU as the test says."""

    name = "sized"
    gpu_mb: float | None = None

    def load(self) -> None:
        self.version = "1"

    def read(self, analyzed: PageTask) -> PageContent | ServiceError:
        return RecognitionFailed()

    def close(self) -> None:
        pass

    def gpu_memory_mb(self) -> float | None:
        return self.gpu_mb


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Serve may have set the loggers of this process up already."""
    logger = logging.getLogger("ray.serve")
    before = logger.propagate
    logger.propagate = True
    yield
    logger.propagate = before


def loaded(settings: EngineSettings, engine: Engine | None = None) -> MemoryLimit:
    limit = MemoryLimit(settings, engine or SizedEngine())
    limit.drop_exceeded()
    return limit


def room_for(growth: float) -> DummySettings:
    return DummySettings(memory_mb=private_memory_mb(psutil.Process()) + growth / MB)


def test_growth_past_the_limit_raises_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    limit = loaded(room_for(GROWTH / 2))
    limit.check()
    kept = b"\xff" * GROWTH
    for _ in range(3):
        with pytest.raises(MemoryLimitPassed, match=r"memory_mb: \d+ MB in use, the limit is \d+"):
            limit.check()
    assert len(kept) == GROWTH
    (record,) = [record for record in caplog.records if record.name == LOG]
    assert "finishes its work and is replaced" in record.getMessage()


def test_growth_below_the_limit_is_nothing() -> None:
    limit = loaded(room_for(2 * GROWTH))
    kept = b"\xff" * GROWTH
    limit.check()
    assert len(kept) == GROWTH


def test_pages_of_the_object_store_are_not_growth(caplog: pytest.LogCaptureFixture) -> None:
    """They stay mapped after they are freed there."""
    limit = loaded(room_for(GROWTH / 2))
    resident = psutil.Process().memory_info().rss
    with mmap.mmap(-1, GROWTH) as shared:  # shared and anonymous, as the store is
        shared.write(b"\xff" * GROWTH)
        assert psutil.Process().memory_info().rss - resident > GROWTH / 2
        limit.check()
    assert not caplog.records


def test_no_limit_is_never_passed(caplog: pytest.LogCaptureFixture) -> None:
    loaded(DummySettings()).check()
    assert not caplog.records


def test_a_limit_below_what_the_loaded_engine_takes_is_logged_and_not_enforced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else every replica would be replaced by one that is replaced again."""
    limit = loaded(DummySettings(memory_mb=1))
    (record,) = [record for record in caplog.records if record.name == LOG]
    assert record.levelno == logging.ERROR and record.getMessage().startswith("memory_mb is 1, but the loaded engine")
    for _ in range(3):
        limit.check()


async def test_a_replica_with_such_a_limit_is_healthy(caplog: pytest.LogCaptureFixture) -> None:
    replica = await initialized(LocalRecognizer, DummySettings(memory_mb=1), Limits())
    for _ in range(3):
        replica.check_health()
    (record,) = [record for record in caplog.records if record.name == LOG and record.levelno >= logging.WARNING]
    assert "not enforced" in record.getMessage()


def test_growth_on_the_gpu_past_the_limit_raises() -> None:
    engine = SizedEngine()
    engine.gpu_mb = 1000
    limit = loaded(PaddleOcrVlSettings(gpu_memory_mb=2000, memory_mb=10**6), engine)
    limit.check()
    engine.gpu_mb = 2001
    with pytest.raises(MemoryLimitPassed, match="gpu_memory_mb: 2001 MB in use, the limit is 2000"):
        limit.check()


def test_one_limit_that_is_not_enforced_leaves_the_other_in_force() -> None:
    engine = SizedEngine()
    engine.gpu_mb = 3000
    limit = loaded(
        PaddleOcrVlSettings(gpu_memory_mb=2000, memory_mb=private_memory_mb(psutil.Process()) + GROWTH / 2 / MB), engine
    )
    limit.check()
    kept = b"\xff" * GROWTH
    with pytest.raises(MemoryLimitPassed, match=r"^memory_mb"):
        limit.check()
    assert len(kept) == GROWTH


def test_a_limit_of_the_gpu_is_not_enforced_where_its_use_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    loaded(PaddleOcrVlSettings(gpu_memory_mb=1), SizedEngine()).check()
    assert not caplog.records
