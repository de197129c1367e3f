"""
What an invoice costs in processor time, of services that take turns.

The machine becomes up to 1.6 times slower for minutes, and a steady load is costly where caches are
cold. So all services run at the same time, on the core of the service, and get each load for a
second, one after the other: what a ratio compares was measured within some seconds. And one process
of a service costs up to a fifth more than another one of it, so that all are started several times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType

from benchmarks.bursts import Delivered, Target, count_in, deliver, warm_up
from benchmarks.folders import temporary_folder
from benchmarks.receiver import Receiver
from benchmarks.services import BARE_FLOOR, OURS, Service, running
from benchmarks.stores import POSTGRES, Store

LOADS: Mapping[str, int | None] = MappingProxyType(
    {"100/s": 100, "350/s": 350, "600/s": 600, "burst": None}
)
"""Invoices a second, or as many as are accepted; the names are those of columns."""

TURNS = 3
"""How often each service gets each load after a start."""

TURN_SECONDS = 1
BURST_COUNT = 1_000

(_POSTGRES,) = (one for one in OURS if one.store == POSTGRES)
TWO_WORKERS = replace(
    _POSTGRES,
    name=f"{_POSTGRES.name}, two workers",
    arguments=(*_POSTGRES.arguments, "--workers", "2"),
)
START_SECONDS = 4
"""How long the second worker may take to start after the first one listens."""

TAKING_TURNS = (BARE_FLOOR, *OURS, TWO_WORKERS)

COMPARED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **{one.name: (BARE_FLOOR.name, "times the bare floor's") for one in OURS},
        TWO_WORKERS.name: (_POSTGRES.name, "times one worker's"),
    }
)
"""By the name of a service that of another one, and how its multiple is called."""


@contextmanager
def waiting(service: Service, store: Store, receiver: Receiver) -> Iterator[Target]:
    """*service* on a new database, which waits for its turns."""
    with (
        temporary_folder() as folder,
        store.empty(folder) as url,
        running(service, folder, url) as started,
    ):
        yield Target(started, store, receiver)


def take_turns(targets: Mapping[str, Target]) -> Iterator[tuple[str, dict[str, list[Delivered]]]]:
    """What each of *targets* delivers in its turns: each load, as soon as it is known."""
    for target in targets.values():
        warm_up(target, TURN_SECONDS)
    for name, rate in LOADS.items():
        count = BURST_COUNT if rate is None else count_in(rate, TURN_SECONDS)
        runs: dict[str, list[Delivered]] = {one: [] for one in targets}
        for _ in range(TURNS):
            for one, target in targets.items():
                runs[one].append(deliver(target, count, rate))
        yield name, runs
