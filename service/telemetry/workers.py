"""
Metrics of several worker processes on one port: prometheus_client's multiprocess mode.

A scrape reaches one of the workers, and none can choose which. So each worker keeps its values in
files of a shared folder, and exposes the sums over all workers.
"""

import struct
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from service.telemetry.busiest import forget_figures

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that names the folder; prometheus_client reads it itself."""

READS_MAX = 5
"""A file that a starting worker is creating is unreadable for some microseconds."""


class WorkersCollector(Collector):
    """
    Collects the metrics of all workers; those that this process declares from now on are its own.

    They are kept by *worker_number*: a worker continues the counters of the one before it.
    """

    def __init__(self, registry: CollectorRegistry, worker_number: int) -> None:
        # Files are named by the number and not by the process id: a restarted worker continues the
        # counts, and restarts add no files. `ValueClass` is the only name of prometheus_client that
        # we replace; the tests of workers fail if a release no longer reads it.
        values.ValueClass = values.MultiProcessValue(lambda: worker_number)
        self._files = MultiProcessCollector(None)
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Every metric, or none: a counter that is missing once looks like a restart."""
        for _ in range(READS_MAX):
            try:
                return list(self._files.collect())
            except (OSError, RuntimeError, ValueError, struct.error):
                continue
        return []


def forget_worker(number: int, folder: str) -> None:
    """Remove the gauges of a worker that has ended; its counters and histograms stay."""
    mark_process_dead(number, folder)
    forget_figures(number, Path(folder))
