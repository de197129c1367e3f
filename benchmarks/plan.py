"""How much is measured: everything, or a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from benchmarks.dispatchers import dispatchers
from benchmarks.greedy import greedy
from benchmarks.hanging import hanging
from benchmarks.held import held
from benchmarks.history import history
from benchmarks.memory import memory
from benchmarks.part import Part
from benchmarks.services import (
    BARE_FLOOR,
    DEFAULT_DELAY,
    FLOOR,
    OURS,
    POST,
    SHARED_CLIENT,
    Service,
)
from benchmarks.speed import Extent
from benchmarks.stores import POSTGRES

SPEED = "speed"
COSTS = "costs"

FURTHER: Mapping[str, Part] = MappingProxyType(
    {
        "memory": memory,
        "history": history,
        "hanging": hanging,
        "greedy": greedy,
        "held": held,
        "dispatchers": dispatchers,
    }
)
"""The parts that measure the service alone, by their names."""

PARTS = (SPEED, COSTS, *FURTHER)

_ONLY_ON = {"held": POSTGRES, "dispatchers": POSTGRES}

LOW_RATE = 100
"""Invoices a second of a load at which each of them is alone."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A service whose speed is measured to this *extent*, in so many *rounds*."""

    service: Service
    extent: Extent
    rounds: int


@dataclass(frozen=True, slots=True)
class Plan:
    """
    *parts*, and how much of each.

    For the costs, each service has so many *starts*. The *further* rounds and seconds are those of
    all other parts but speed.
    """

    parts: tuple[str, ...]
    speeds: tuple[Measured, ...]
    starts: int
    further_rounds: int
    further_seconds: float
    pending_counts: tuple[int, ...]
    history_counts: tuple[int, int]

    def with_rounds(self, rounds: int) -> Plan:
        """The same in so many rounds of everything."""
        speeds = tuple(replace(one, rounds=rounds) for one in self.speeds)
        return replace(self, speeds=speeds, starts=rounds, further_rounds=rounds)

    def with_count(self, count: int) -> Plan:
        """The same with so many invoices in every burst."""
        speeds = tuple(replace(one, extent=replace(one.extent, count=count)) for one in self.speeds)
        return replace(self, speeds=speeds)


def _speeds(extent: Extent, rival_extent: Extent, rounds: int) -> tuple[Measured, ...]:
    """
    Our service, what it is compared with, and, in one round, what one would write instead.

    That one gets slower with each invoice that waits: as many as we deliver would take minutes.
    The default delay has one round too: it only shows that a burst is accepted before delivery.
    """
    alone = replace(extent, low_rate=None)
    return (
        Measured(FLOOR, alone, rounds),
        *(Measured(one, extent, rounds) for one in (BARE_FLOOR, *OURS)),
        *(Measured(one, alone, 1) for one in DEFAULT_DELAY),
        Measured(SHARED_CLIENT, rival_extent, 1),
        Measured(POST, replace(rival_extent, count=rival_extent.count // 2), 1),
    )


FULL = Plan(
    parts=PARTS,
    speeds=_speeds(
        Extent(count=3_000, seconds=3, low_rate=LOW_RATE), Extent(count=1_000, seconds=3), rounds=3
    ),
    starts=3,
    further_rounds=1,
    further_seconds=10,
    pending_counts=(0, 100_000),
    history_counts=(1_000, 1_000_000),
)
QUICK = Plan(
    parts=(SPEED,),
    speeds=_speeds(
        Extent(count=500, seconds=1, low_rate=LOW_RATE), Extent(count=500, seconds=0.5), rounds=1
    ),
    starts=1,
    further_rounds=1,
    further_seconds=3,
    pending_counts=(0, 10_000, 100_000),
    history_counts=(1_000, 100_000),
)


def is_measured(part: str, service: Service) -> bool:
    """Whether *part* makes sense for *service*: one process uses a file of SQLite."""
    return _ONLY_ON.get(part, service.store) == service.store
