"""
One service, started afresh and measured once: deliveries, their delay, and accepting alone.

Deliveries are of as many invoices for every service: some get slower the more of them wait. How
many fill the time of everything else, a warm-up says, on any machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import quantiles

from benchmarks.load import Load, Order, send
from benchmarks.machine import OTHER_CORES, SERVICE_CORES, busy_seconds, cpu_seconds
from benchmarks.receiver import Receiver
from benchmarks.services import Running, Service, running
from benchmarks.stores import Store

WARM_UP_COUNT = 30
WARM_UP_SHARES = (0, 0.3)
"""Of the measured time; the second warm-up says better than the first how many invoices fill it."""

INVOICES_MAX = 50_000
SPAN_SECONDS_MIN = 0.01
"""The clocks of the receivers count milliseconds; a shorter span would be a guess."""

QUIET_SECONDS = 0.2
QUIET_SHARE = 0.05
NEVER_QUIET_SECONDS = 30

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Speed:
    """
    One run of one service. Delays are from the answered 202 to the arrival at the receiver.

    *server_cpu_ms_per_delivery* is what a database server used beside the service.

    *others_share* is how much of the service's core went to anybody else while it delivered: with
    more than a little of that, the rates are too low and only the processor time can be trusted.
    *other_core_share* is how busy the other core was meanwhile; near 1, that bounds the rates.
    """

    accepted_per_second: float
    delivered_per_second: float
    cpu_ms_per_delivery: float
    server_cpu_ms_per_delivery: float
    delay_p50_ms: float
    delay_p95_ms: float
    delay_p99_ms: float
    others_share: float
    other_core_share: float


@dataclass(frozen=True, slots=True)
class Delivered:
    """One batch of deliveries: how many per second, at what cost, and in what company."""

    per_second: float
    cpu_ms_each: float
    server_cpu_ms_each: float
    others_share: float
    other_core_share: float


@dataclass(frozen=True, slots=True)
class Target:
    """A service that runs, what it stores in, and whom it calls back."""

    service: Running
    store: Store
    receiver: Receiver


@dataclass(frozen=True, slots=True)
class _Clocks:
    """What the clocks showed at one moment, in seconds."""

    now: float
    service: float
    server: float
    service_cores: float
    other_cores: float


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured: *count* invoices delivered, all else over about *seconds*."""

    count: int
    seconds: float


def measure_speed(
    service: Service, store: Store, receiver: Receiver, folder: Path, extent: Extent
) -> Speed:
    """Start *service* on a new database and take each of its figures."""
    seconds = extent.seconds
    with store.empty(folder) as url, running(service, folder, url) as started:
        target = Target(started, store, receiver)
        _warm_up(target, seconds)
        delivered = _deliver(target, extent.count)
        half = delivered.per_second / 2
        load, arrived = deliver_at(started, receiver, half, _count(half, seconds))
        accepted = _accept(started, _count(_accept(started, WARM_UP_COUNT), seconds))
    delays = [arrived[name] - answered_at for name, answered_at in load.answered.items()]
    cuts = quantiles(delays, n=100, method="inclusive")
    return Speed(
        accepted_per_second=accepted,
        delivered_per_second=delivered.per_second,
        cpu_ms_per_delivery=delivered.cpu_ms_each,
        server_cpu_ms_per_delivery=delivered.server_cpu_ms_each,
        delay_p50_ms=cuts[49] * 1000,
        delay_p95_ms=cuts[94] * 1000,
        delay_p99_ms=cuts[98] * 1000,
        others_share=delivered.others_share,
        other_core_share=delivered.other_core_share,
    )


def measure_deliveries(target: Target, seconds: float) -> Delivered:
    """Warm *target* up, then send what it delivers in about *seconds*, as fast as it accepts."""
    return _deliver(target, _count(_warm_up(target, seconds), seconds))


def _warm_up(target: Target, seconds: float) -> float:
    """How many *target* delivers per second once it is warm, as far as that is known then."""
    rate = 0.0
    for share in WARM_UP_SHARES:
        rate = max(rate, _deliver(target, _count(rate, seconds * share)).per_second)
    return rate


def new_run() -> str:
    """A prefix that no other run's invoices have."""
    return f"run{next(_numbers)}"


def _deliver(target: Target, count: int) -> Delivered:
    """
    Send *count* invoices as fast as they are accepted, and wait until all are delivered.

    The time is from first accepted to last delivered, less what the service waits by design.
    """
    run, service = new_run(), target.service
    before = _clocks(target)
    load = send(Order(service.url, run, count, (target.receiver.url,)), service.folder)
    arrived = target.receiver.wait_for(run, count)
    arrived_at = _clocks(target)
    wait_until_quiet(service.pid)
    after = _clocks(target)
    span = max(arrived.values()) - load.first_at - service.delay_seconds
    elapsed = arrived_at.now - before.now
    of_others = arrived_at.service_cores - before.service_cores
    of_others -= arrived_at.service - before.service
    return Delivered(
        per_second=count / max(span, SPAN_SECONDS_MIN),
        cpu_ms_each=(after.service - before.service) / count * 1000,
        server_cpu_ms_each=(after.server - before.server) / count * 1000,
        others_share=max(0.0, of_others / elapsed),
        other_core_share=(arrived_at.other_cores - before.other_cores) / elapsed,
    )


def _clocks(target: Target) -> _Clocks:
    return _Clocks(
        now=time.monotonic(),
        service=cpu_seconds(target.service.pid),
        server=target.store.cpu_seconds(),
        service_cores=busy_seconds(SERVICE_CORES),
        other_cores=busy_seconds(OTHER_CORES),
    )


def deliver_at(
    target: Running, receiver: Receiver, rate: float, count: int, *, stalled_seconds: float = 20
) -> tuple[Load, dict[str, float]]:
    """Send *count* invoices at *rate* per second; the answers, and when each arrived."""
    run = new_run()
    load = send(Order(target.url, run, count, (receiver.url,), rate), target.folder)
    return load, receiver.wait_for(run, count, stalled_seconds=stalled_seconds)


def _accept(target: Running, count: int) -> float:
    load = send(Order(target.url, new_run(), count), target.folder)
    return (count - 1) / max(load.last_at - load.first_at, 1e-6)


def _count(rate: float, seconds: float) -> int:
    return max(WARM_UP_COUNT, min(INVOICES_MAX, int(rate * seconds)))


def wait_until_quiet(pid: int) -> None:
    """Return once *pid* has all but stopped computing: what it was given is done."""
    give_up_at = time.monotonic() + NEVER_QUIET_SECONDS
    while time.monotonic() < give_up_at:
        before = cpu_seconds(pid)
        time.sleep(QUIET_SECONDS)
        if cpu_seconds(pid) - before <= QUIET_SECONDS * QUIET_SHARE:
            return
