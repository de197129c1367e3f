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
from benchmarks.workers import workers

SPEED = "speed"

FURTHER: Mapping[str, Part] = MappingProxyType(
    {
        "memory": memory,
        "history": history,
        "hanging": hanging,
        "greedy": greedy,
        "held": held,
        "workers": workers,
        "dispatchers": dispatchers,
    }
)
"""The parts that measure the service alone, by their names."""

PARTS = (SPEED, *FURTHER)

_ONLY_ON = {"held": POSTGRES, "workers": POSTGRES, "dispatchers": POSTGRES}


RATES = (100, 350, 600)
"""Invoices a second of the steady loads: as many for our service as for a bare application."""

STEADY = (BARE_FLOOR, *OURS)
"""What is measured at these rates too."""


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

    The *further* rounds and seconds are those of all parts but speed.
    """

    parts: tuple[str, ...]
    speeds: tuple[Measured, ...]
    further_rounds: int
    further_seconds: float
    pending_counts: tuple[int, ...]
    history_counts: tuple[int, int]

    def with_rounds(self, rounds: int) -> Plan:
        """The same in so many rounds of everything."""
        speeds = tuple(replace(one, rounds=rounds) for one in self.speeds)
        return replace(self, speeds=speeds, further_rounds=rounds)

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
    alone = replace(extent, rates=())
    return (
        Measured(FLOOR, alone, rounds),
        *(Measured(one, extent, rounds) for one in STEADY),
        *(Measured(one, alone, 1) for one in DEFAULT_DELAY),
        Measured(SHARED_CLIENT, rival_extent, 1),
        Measured(POST, replace(rival_extent, count=rival_extent.count // 2), 1),
    )


FULL = Plan(
    parts=PARTS,
    speeds=_speeds(
        Extent(count=3_000, seconds=3, rates=RATES), Extent(count=1_000, seconds=3), rounds=3
    ),
    further_rounds=1,
    further_seconds=10,
    pending_counts=(0, 100_000),
    history_counts=(1_000, 1_000_000),
)
QUICK = Plan(
    parts=(SPEED,),
    speeds=_speeds(
        Extent(count=500, seconds=1, rates=RATES[:1]), Extent(count=500, seconds=0.5), rounds=1
    ),
    further_rounds=1,
    further_seconds=3,
    pending_counts=(0, 10_000, 100_000),
    history_counts=(1_000, 100_000),
)


def is_measured(part: str, service: Service) -> bool:
    """Whether *part* makes sense for *service*: one process uses a file of SQLite."""
    return _ONLY_ON.get(part, service.store) == service.store
