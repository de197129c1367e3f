"""
Counters, gauges and histograms as prometheus_client has them, and how they are shown.

Nothing here is global but what prometheus_client makes so: where several workers share a port, a
scrape reaches any one of them, and all keep their values in files of one folder, whose name it
takes from the environment.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    values,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

PREFIX = "invoices_"

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where workers keep their values, as prometheus_client wants it to be called."""

READING_TRIES = 5
"""A file of a worker that begins just now may not be readable for some microseconds."""


class Tally(Counter):
    """A counter without the checks of prometheus_client, which cost as much as the counting."""

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Count *amount* more, which is not negative."""
        self._value.inc(amount)


class Spread(Histogram):
    """A histogram without those checks, that does not look through its buckets one by one."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count *amount* in its bucket."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


class Tallies(dict[Any, Tally]):
    """The counters of one name by their labels: each is made once, and then only looked up."""

    def __init__(self, parent: Tally) -> None:
        super().__init__()
        self._parent = parent

    def __missing__(self, labels: Any) -> Tally:
        values_ = labels if isinstance(labels, tuple) else (labels,)
        tally = self[labels] = self._parent.labels(*values_)
        return tally


class Figures:
    """
    The figures of one process, or of all workers where it is one of several.

    The worker with *worker_number* goes on where the one that had that number before it ended.
    """

    def __init__(self, worker_number: int | None = None) -> None:
        self._registry = CollectorRegistry()
        self._folder = None if worker_number is None else os.environ[SHARED_FOLDER]
        if self._folder is None:
            # These tell of one process, and of several nobody would know which.
            ProcessCollector(registry=self._registry)
            GCCollector(registry=self._registry)
        else:
            # By number and not by process: what a worker has counted stays when it is killed, and
            # however often one is started again, there are no more files than workers.
            values.ValueClass = values.MultiProcessValue(lambda: worker_number)

    def tally(self, name: str, told: str) -> Tally:
        """Something that happens again and again."""
        return Tally(PREFIX + name, told, registry=self._registry)

    def tallies(
        self, name: str, told: str, labels: Iterable[str], known: Iterable[Any] = ()
    ) -> Tallies:
        """
        The same, told apart by *labels*.

        Those *known* are there from the start, with a 0: what first appears with a 1 is an
        increase to nobody.
        """
        tallies = Tallies(Tally(PREFIX + name, told, tuple(labels), registry=self._registry))
        for one in known:
            tallies[one].inc(0)
        return tallies

    def gauge(self, name: str, told: str) -> Gauge:
        """Something that is the case now; over workers it is added up."""
        return Gauge(PREFIX + name, told, registry=self._registry, multiprocess_mode="livesum")

    def spread(self, name: str, told: str, buckets: tuple[float, ...]) -> Spread:
        """How large something is, each time that it happens."""
        return Spread(PREFIX + name, told, registry=self._registry, buckets=buckets)

    def exposition(self, accept: str, measured: Iterable[Metric]) -> tuple[bytes, str]:
        """
        Every figure, and what was *measured*, in the format that *accept* prefers.

        Whoever asks for a version that is none gets the plainest.

        Returns:
            The text, and its content type.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it compares the version before it looks at it
            encode, content_type = choose_encoder("")
        return encode(_Shown([*measured, *self._counted()])), content_type

    def _counted(self) -> Iterable[Metric]:
        if self._folder is None:
            return self._registry.collect()
        for _ in range(READING_TRIES):
            try:
                # All of it or nothing: a counter that is missing for once looks like a restart.
                return list(MultiProcessCollector(None, self._folder).collect())
            except (OSError, RuntimeError, ValueError, struct.error):
                continue
        return ()


def forget_worker(number: int, folder: str) -> None:
    """Forget what was the case in a worker that has ended; what it has counted stays."""
    mark_process_dead(number, folder)


def measured(name: str, told: str, value: float, labels: Mapping[str, str] | None = None) -> Metric:
    """A gauge that is looked up when it is asked for, and the same whichever worker is asked."""
    labels = labels or {}
    gauge = GaugeMetricFamily(PREFIX + name, told, labels=tuple(labels))
    gauge.add_metric(tuple(labels.values()), value)
    return gauge


class _Shown(Collector):
    """Leaves out when each counter was made: a series more for each, which workers do not have."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Every metric, without the samples of its birth."""
        for metric in self._metrics:
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric
