"""How much is measured: everything, or a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks.dispatchers import dispatchers
from benchmarks.greedy import greedy
from benchmarks.hanging import hanging
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

FURTHER: Mapping[str, Part] = MappingProxyType(
    {
        "memory": memory,
        "history": history,
        "hanging": hanging,
        "greedy": greedy,
        "dispatchers": dispatchers,
    }
)
"""The parts that measure the service alone, by their names."""

PARTS = (SPEED, *FURTHER)

_ONLY_ON = {"dispatchers": POSTGRES}


@dataclass(frozen=True, slots=True)
class Plan:
    """
    *parts* in so many rounds, and how much of each service in each.

    Speed has rounds of its own; the *further* ones are those of all other parts.
    """

    parts: tuple[str, ...]
    rounds: int
    extent: Extent
    further_rounds: int
    further_seconds: float
    services: tuple[Service, ...]
    pending_counts: tuple[int, ...]
    history_counts: tuple[int, int]


FULL = Plan(
    parts=PARTS,
    rounds=5,
    extent=Extent(count=3_000, seconds=3),
    further_rounds=3,
    further_seconds=10,
    services=(FLOOR, BARE_FLOOR, *OURS, *DEFAULT_DELAY, SHARED_CLIENT, POST),
    pending_counts=(0, 10_000, 100_000),
    history_counts=(1_000, 1_000_000),
)
QUICK = Plan(
    parts=(SPEED,),
    rounds=2,
    extent=Extent(count=500, seconds=0.5),
    further_rounds=1,
    further_seconds=3,
    services=(FLOOR, BARE_FLOOR, *OURS, SHARED_CLIENT, POST),
    pending_counts=(0, 10_000, 100_000),
    history_counts=(1_000, 100_000),
)


def is_measured(part: str, service: Service) -> bool:
    """Whether *part* makes sense for *service*: SQLite's file has one dispatcher."""
    return _ONLY_ON.get(part, service.store) == service.store
