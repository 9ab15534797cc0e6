"""What a test counts on the metrics of this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.metrics.instruments import Instrument

PATIENCE_S = 10


@contextmanager
def grows(metric: Instrument, by: float = 1, **labels: str) -> Iterator[None]:
    """Expect a counter, or the number of observations of a histogram, to grow by so much.

    A service in a thread counts a request when its response has left already.
    """
    before = metric.value(**labels)
    yield
    deadline = time.monotonic() + PATIENCE_S
    while metric.value(**labels) - before < by and time.monotonic() < deadline:
        time.sleep(0.01)
    assert metric.value(**labels) - before == by, f"{metric.name} {labels}"
