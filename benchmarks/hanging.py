"""The delay of a healthy receiver's callbacks beside a hundred receivers that never answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles

from benchmarks.bursts import deliver_at, new_run
from benchmarks.folders import temporary_folder
from benchmarks.load import Order, send
from benchmarks.part import Figures, Setting
from benchmarks.processes import HOST
from benchmarks.services import running

HANGING_COUNT = 100
INVOICES_EACH = 20
HEALTHY_PER_SECOND = 50
WARM_UP_COUNT = 50
STALLED_SECONDS = 40
"""A few callback deadlines, so that a slow healthy receiver is measured and not given up."""


def hanging(at: Setting) -> Figures:
    """The delay of a healthy receiver alone, and beside those that hang."""
    name = f"p99 ms of a healthy receiver, {HEALTHY_PER_SECOND}/s"
    yield f"{name}, alone", _measure(at, is_beside_hanging=False)
    yield f"{name}, beside {HANGING_COUNT} that hang", _measure(at, is_beside_hanging=True)


def _measure(at: Setting, *, is_beside_hanging: bool) -> float:
    """The p99 in ms from the answered 202 to the arrival at the receiver."""
    count = int(HEALTHY_PER_SECOND * at.seconds)
    with (
        temporary_folder() as folder,
        at.store.empty(folder) as url,
        running(at.service, folder, url) as target,
        hanging_urls() as urls,
    ):
        deliver_at(target, at.receiver, HEALTHY_PER_SECOND, WARM_UP_COUNT)
        if is_beside_hanging:
            send(Order(target.url, new_run(), HANGING_COUNT * INVOICES_EACH, urls), folder)
            time.sleep(1)
        load, arrived = deliver_at(
            target, at.receiver, HEALTHY_PER_SECOND, count, stalled_seconds=STALLED_SECONDS
        )
    delays = [arrived[name] - answered_at for name, answered_at in load.answered.items()]
    return quantiles(delays, n=100, method="inclusive")[98] * 1000


@contextmanager
def hanging_urls() -> Iterator[tuple[str, ...]]:
    """Receivers of as many origins: the kernel takes their connections, and nobody answers."""
    listening = [socket.create_server((HOST, 0), backlog=1024) for _ in range(HANGING_COUNT)]
    try:
        yield tuple(f"http://{HOST}:{one.getsockname()[1]}" for one in listening)
    finally:
        for one in listening:
            one.close()
