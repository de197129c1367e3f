"""
Invoices that are sent as fast as they are accepted: how many are delivered, at what cost.

How many fill a time, a warm-up says, on any machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count

from benchmarks.load import Load, Order, send
from benchmarks.machine import OTHER_CORES, SERVICE_CORES, busy_seconds, cpu_seconds
from benchmarks.receiver import Receiver
from benchmarks.services import Running
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
class Delivered:
    """
    One batch of deliveries: how many per second, at what cost, and in what company.

    *server_cpu_ms_each* is what a database server used beside the service.

    *others_share* is how much of the service's core went to anybody else while it delivered: with
    more than a little of that, the rates are too low and only the processor time can be trusted.
    *other_core_share* is how busy the other core was meanwhile; near 1, that bounds the rates.
    """

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


def measure_deliveries(target: Target, seconds: float) -> Delivered:
    """Warm *target* up, then send what it delivers in about *seconds*, as fast as it accepts."""
    return deliver(target, count_in(warm_up(target, seconds), seconds))


def warm_up(target: Target, seconds: float) -> float:
    """How many *target* delivers per second once it is warm, as far as that is known then."""
    rate = 0.0
    for share in WARM_UP_SHARES:
        rate = max(rate, deliver(target, count_in(rate, seconds * share)).per_second)
    return rate


def new_run() -> str:
    """A prefix that no other run's invoices have."""
    return f"run{next(_numbers)}"


def deliver(target: Target, count: int, rate: float | None = None) -> Delivered:
    """
    Send *count* invoices, as fast as they are accepted, and wait until all are delivered.

    With *rate*, so many are sent per second. The time is from first accepted to last delivered,
    less what the service waits by design.
    """
    run, service = new_run(), target.service
    before = _clocks(target)
    load = send(Order(service.url, run, count, (target.receiver.url,), rate), service.folder)
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


def accept(target: Running, count: int) -> float:
    """How many invoices without a callback *target* accepts per second, by *count* of them."""
    load = send(Order(target.url, new_run(), count), target.folder)
    return (count - 1) / max(load.last_at - load.first_at, 1e-6)


def count_in(rate: float, seconds: float) -> int:
    """How many invoices *rate* per second are in about *seconds*."""
    return max(WARM_UP_COUNT, min(INVOICES_MAX, int(rate * seconds)))


def wait_until_quiet(pid: int) -> None:
    """Return once *pid* has all but stopped computing: what it was given is done."""
    give_up_at = time.monotonic() + NEVER_QUIET_SECONDS
    while time.monotonic() < give_up_at:
        before = cpu_seconds(pid)
        time.sleep(QUIET_SECONDS)
        if cpu_seconds(pid) - before <= QUIET_SECONDS * QUIET_SHARE:
            return
