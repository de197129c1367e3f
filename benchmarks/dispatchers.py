"""
The same backlog of due deliveries, drained by one dispatcher and by two on one database.

The receiver takes its time to answer, so a dispatcher waits for its slots and not for its core,
which the two share: what is compared is how they divide the work.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from benchmarks.bursts import new_run
from benchmarks.errors import BenchmarkError
from benchmarks.folders import temporary_folder
from benchmarks.machine import OTHER_CORES, SERVICE_CORES, busy_seconds
from benchmarks.part import Figures, Setting
from benchmarks.receiver import Receiver, receiving
from benchmarks.rows import Rows, fill
from benchmarks.services import DISPATCHER, running

ANSWER_SECONDS = 0.05
SLOTS = 16
"""What one dispatcher has for one origin by default: here the one receiver's."""

START_SECONDS = 6
"""How long two dispatchers may take to start; the backlog falls due when it is over."""


@dataclass(frozen=True, slots=True)
class _Drained:
    """How long a backlog took from the instant when it fell due, and how busy the cores were."""

    seconds: float
    core_share: float
    other_core_share: float
    repeated_count: int


def dispatchers(at: Setting) -> Figures:
    """How long one and two dispatchers take, and how much faster two are."""
    count = int(at.seconds * SLOTS / ANSWER_SECONDS)
    order = (2, 1) if at.is_reversed else (1, 2)
    found = {number: _measure(at, number, count) for number in order}
    one, two = found[1], found[2]
    yield f"s to drain {count:,} for one origin, one dispatcher", one.seconds
    yield f"s to drain {count:,} for one origin, two dispatchers", two.seconds
    yield "times as fast with two dispatchers as with one", one.seconds / two.seconds
    yield "callbacks sent twice by two dispatchers", two.repeated_count
    yield "% of their core that two dispatchers used", two.core_share * 100
    yield "% of the other core in use meanwhile", two.other_core_share * 100


def _measure(at: Setting, number: int, count: int) -> _Drained:
    """*number* dispatchers that have *count* deliveries to make, all from the same instant on."""
    with temporary_folder() as folder, ExitStack() as stack:
        receiver = stack.enter_context(receiving(folder, delay_seconds=ANSWER_SECONDS))
        url = stack.enter_context(at.store.empty(folder))
        run, due_at = new_run(), datetime.now(UTC) + timedelta(seconds=START_SECONDS)
        fill(url, Rows(run, count, receiver.url, due_at=due_at))
        for _ in range(number):
            stack.enter_context(running(DISPATCHER, folder, url))
        return _drain(receiver, run, count, due_at.timestamp())


def _drain(receiver: Receiver, run: str, count: int, due_at: float) -> _Drained:
    if time.time() > due_at:
        raise BenchmarkError(f"the dispatchers took more than {START_SECONDS} s to start")
    time.sleep(due_at - time.time())
    began_at, before, other_before = time.monotonic(), *_busy_seconds()
    arrived = receiver.wait_for(run, count)
    elapsed, after, other_after = time.monotonic() - began_at, *_busy_seconds()
    return _Drained(
        seconds=max(arrived.values()) - due_at,
        core_share=(after - before) / elapsed,
        other_core_share=(other_after - other_before) / elapsed,
        repeated_count=receiver.arrivals.read_text().count(f"/invoices/{run}-") - count,
    )


def _busy_seconds() -> tuple[float, float]:
    return busy_seconds(SERVICE_CORES), busy_seconds(OTHER_CORES)
