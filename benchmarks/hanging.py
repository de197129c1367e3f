"""The delay of a healthy receiver's callbacks beside a hundred receivers that never answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

from benchmarks.load import Order, send
from benchmarks.processes import HOST
from benchmarks.receiver import Receiver
from benchmarks.services import Service, running
from benchmarks.speed import deliver_at, new_run

HANGING_COUNT = 100
INVOICES_EACH = 20
HEALTHY_PER_SECOND = 50
STALLED_SECONDS = 40
"""A few callback deadlines, so that a slow healthy receiver is measured and not given up."""


def measure_healthy(
    service: Service, receiver: Receiver, folder: Path, seconds: float, *, is_beside_hanging: bool
) -> float:
    """The p99 in ms from the answered 202 to the arrival at *receiver*."""
    count = int(HEALTHY_PER_SECOND * seconds)
    with running(service, folder) as target, _hanging_urls() as urls:
        if is_beside_hanging:
            send(Order(target.url, new_run(), HANGING_COUNT * INVOICES_EACH, urls), folder)
            time.sleep(1)
        load, arrived = deliver_at(
            target, receiver, HEALTHY_PER_SECOND, count, stalled_seconds=STALLED_SECONDS
        )
    delays = [arrived[name] - at for name, at in load.answered.items()]
    return quantiles(delays, n=100, method="inclusive")[98] * 1000


@contextmanager
def _hanging_urls() -> Iterator[tuple[str, ...]]:
    """Receivers of as many origins: the kernel takes their connections, and nobody answers."""
    listening = [socket.create_server((HOST, 0), backlog=1024) for _ in range(HANGING_COUNT)]
    try:
        yield tuple(f"http://{HOST}:{one.getsockname()[1]}" for one in listening)
    finally:
        for one in listening:
            one.close()
