"""
One service, started afresh and measured once: steady loads, a burst, and accepting alone.

The burst has as many invoices for every service: some get slower the more of them wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.bursts import WARM_UP_COUNT, Delivered, Target, accept, count_in, deliver, warm_up
from benchmarks.receiver import Receiver
from benchmarks.services import Service, running
from benchmarks.steady import Feed, Steady, measure_steady
from benchmarks.stores import NO_STORE, Store


@dataclass(frozen=True, slots=True)
class Speed:
    """
    One run of one service.

    *low* is a load that leaves much time between two invoices, where that was measured; *half* is
    that at half of what the service delivered per second in the burst.
    """

    accepted_per_second: float
    burst: Delivered
    half: Steady
    low: Steady | None


@dataclass(frozen=True, slots=True)
class Extent:
    """
    How much is measured: *count* invoices in a burst, and all else over about *seconds*.

    *low_rate* is that of a steady load besides half of what the service delivers.
    """

    count: int
    seconds: float
    low_rate: int | None = None


def measure_speed(
    service: Service, store: Store, receiver: Receiver, folder: Path, extent: Extent
) -> Speed:
    """Start *service* on a new database and take each of its figures."""
    seconds = extent.seconds
    with store.empty(folder) as url, running(service, folder, url) as started:
        target = Target(started, store, receiver)
        feed = Feed(started.url, has_events=service.store != NO_STORE)
        warm_up(target, seconds)
        low = None
        if extent.low_rate is not None:
            count = count_in(extent.low_rate, seconds)
            low = measure_steady(target, feed, extent.low_rate, count)
        burst = deliver(target, extent.count)
        rate = burst.per_second / 2
        half = measure_steady(target, feed, rate, count_in(rate, seconds))
        accepted = accept(started, count_in(accept(started, WARM_UP_COUNT), seconds))
    return Speed(accepted, burst, half, low)
