"""Counters, gauges and histograms. Their values leave by Ray's endpoint for Prometheus, on each node.

A process without a Ray keeps them only here, where tests read them.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, ClassVar

EXPORTED_PREFIX = "ray_"
"""Ray puts it before every name."""

MOST_VALUES = 100
"""Values of a label that a process tells apart. So no client can fill Prometheus with series."""

OTHER = "other"
"""The value that stands for all further ones."""


class Instrument(ABC):
    """One metric of this process. Replicas add the labels `application`, `deployment` and `replica`.

    Its Ray metric is made by the first use, which has to be in a replica: Ray takes these labels from it. Any thread may
    use it.
    """

    kind: ClassVar[str]

    def __init__(self, name: str, meaning: str, *, unit: str, labels: tuple[str, ...] = ()) -> None:
        """`name` is without Ray's prefix. `unit` and `meaning` are for docs/metrics.md."""
        self.name = name
        self.meaning = meaning
        self.unit = unit
        self.labels = labels
        self._names = frozenset(labels)
        self._seen: dict[str, set[str]] = {label: set() for label in labels}
        self._values: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()
        self._ray_metric: Any = None

    def value(self, **labels: str) -> float:
        """Return what this process has counted or set; 0 if nothing. For a histogram, the number of observations."""
        return self._values.get(tuple(labels[name] for name in self.labels), 0.0)

    def _note(self, value: float, labels: dict[str, str], *, add: bool) -> dict[str, str]:
        """Keep a value, and return the labels under which it is exported. Raises ValueError for other labels than `labels`."""
        if labels.keys() != self._names:
            raise ValueError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")
        with self._lock:
            known = {name: self._bounded(name, labels[name]) for name in self.labels}
            key = tuple(known.values())
            self._values[key] = self._values.get(key, 0.0) + value if add else value
        return known

    def _bounded(self, label: str, value: str) -> str:
        seen = self._seen[label]
        if value in seen:
            return value
        if len(seen) >= MOST_VALUES:
            return OTHER
        seen.add(value)
        return value

    @property
    def _exported(self) -> Any:
        if self._ray_metric is None:
            # Imported here because the command line, which only prints the table, needs no Ray.
            from ray.serve import metrics

            with self._lock:
                self._ray_metric = self._ray_metric or self._made(metrics)
        return self._ray_metric

    @abstractmethod
    def _made(self, metrics: Any) -> Any:
        """Make the metric of `ray.serve.metrics`."""


class Counter(Instrument):
    """A number that only grows."""

    kind = "counter"

    def inc(self, amount: float = 1, **labels: str) -> None:
        """Add `amount`, which may be 0."""
        if amount > 0:
            self._exported.inc(amount, self._note(amount, labels, add=True))

    def _made(self, metrics: Any) -> Any:
        return metrics.Counter(self.name, self.meaning, self.labels)


class Gauge(Instrument):
    """A number that is measured again and again: Ray forgets it 20 s after it was set."""

    kind = "gauge"

    def set(self, value: float, **labels: str) -> None:
        self._exported.set(value, self._note(value, labels, add=False))

    def _made(self, metrics: Any) -> Any:
        return metrics.Gauge(self.name, self.meaning, self.labels)


class Histogram(Instrument):
    """How often a measured value was up to each of the `buckets`, which are in ascending order and above 0."""

    kind = "histogram"

    def __init__(
        self, name: str, meaning: str, *, unit: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> None:
        super().__init__(name, meaning, unit=unit, labels=labels)
        self.buckets = buckets

    def observe(self, value: float, **labels: str) -> None:
        self._exported.observe(value, self._note(1, labels, add=True))

    def _made(self, metrics: Any) -> Any:
        return metrics.Histogram(self.name, self.meaning, list(self.buckets), self.labels)
