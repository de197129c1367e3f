"""
Shares slots and leases fairly among the origins that have deliveries due.

Keeps invariant 7. Slots and leases are counted for each origin:

* An origin has a limited number of attempts in flight. While other origins have leases, it takes
  another slot only if more slots are free than it already has, so that new origins find free slots.
* An origin that is new, or that has just failed, gets one attempt at a time: a probe. After each
  failed probe the cooldown is longer. The other deliveries of the origin are not attempted
  meanwhile, so they do not use up their retry schedule. The first answer opens the origin again.
* Only a few deliveries for each slot are leased before they get a slot.

This module only counts. The dispatcher calls it, waits, and makes the attempts.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.domain.delivery import Delivery
from service.values import value

LEASE_AHEAD = 8
"""Leases for each slot: a slot that becomes free gets a leased delivery, without a commit."""

COOLDOWN_FIRST = timedelta(milliseconds=100)
COOLDOWN_MAX = timedelta(seconds=10)
"""The first cooldown and the longest one; each failed probe doubles the cooldown."""

KNOWN_MAX = 10_000
"""Origins that are remembered; above this, the oldest one without a lease is forgotten."""


@value()
class Slot:
    """A delivery that may be attempted now; a probe finds out whether its origin answers."""

    delivery: Delivery
    is_probe: bool


@dataclass(frozen=True, slots=True)
class Cooldown:
    """The period in which an origin gets no attempts, after a failed probe or by Retry-After."""

    since: datetime
    until: datetime

    def is_active(self, now: datetime) -> bool:
        """Whether *now* is in the period. It ends too if the clock is set back before its start."""
        return self.since <= now < self.until


@dataclass(slots=True, eq=False)
class Origin:
    """The state of one origin: its waiting deliveries, its leases, and whether it answers."""

    name: str
    waiting: deque[Delivery] = field(default_factory=deque)
    in_flight_count: int = 0
    held_count: int = 0
    """Leases that are taken or reserved, including those of attempts in flight."""
    is_open: bool = False
    """Whether it has answered lately; otherwise it is probed."""
    failed_probe_count: int = 0
    is_queued: bool = False


class Origins:
    """Divides *concurrency* slots, of which one origin gets *origin_concurrency* at most."""

    def __init__(self, concurrency: int, origin_concurrency: int) -> None:
        self._origin_concurrency = origin_concurrency
        self._free_slots = concurrency
        self._lease_limit = concurrency * LEASE_AHEAD
        self.held_count = 0
        """Leases that are taken or reserved."""
        self._known: dict[str, Origin] = {}
        self._busy: dict[str, Origin] = {}
        self._failing: dict[str, Origin] = {}
        self._cooldowns: dict[str, Cooldown] = {}
        self._queue: deque[Origin] = deque()

    # Leases

    @property
    def capacity(self) -> int:
        """How many more leases may be taken."""
        return self._lease_limit - self.held_count

    @property
    def capacity_of_new(self) -> int:
        """How many more leases an origin may have that is not in `capacities`."""
        return LEASE_AHEAD

    def capacity_of(self, name: str) -> int:
        """How many more leases one origin may have."""
        origin = self._known.get(name)
        limit = LEASE_AHEAD if origin is None else self._limit_of(origin) - origin.held_count
        return max(0, min(limit, self._lease_limit - self.held_count))

    def wants_more(self, name: str) -> bool:
        """Whether an origin has at most half of the leases that it may have."""
        origin = self._known.get(name)
        return origin is None or origin.held_count * 2 <= self._limit_of(origin)

    def capacities(self) -> dict[str, int]:
        """The capacity of each origin that has leases, or whose last probe failed."""
        return {name: self.capacity_of(name) for name in (*self._busy, *self._failing)}

    def reserve(self, name: str) -> None:
        """Count a lease before it is taken, or when it is taken."""
        origin = self._known.get(name) or self._add(name)
        origin.held_count += 1
        self.held_count += 1
        self._busy[name] = origin

    def give_up(self, name: str) -> None:
        """Stop counting a lease."""
        origin = self._known[name]
        origin.held_count -= 1
        self.held_count -= 1
        if not origin.held_count:
            del self._busy[name]

    # Cooldowns

    def cooling_down(self, now: datetime) -> frozenset[str]:
        """The origins that get no attempts at *now*."""
        return frozenset(name for name, one in self._cooldowns.items() if one.is_active(now))

    def ends_of_cooldowns(self, since: datetime) -> dict[str, datetime]:
        """The end of each cooldown that was not over at *since*, later cooldowns included."""
        self._cooldowns = {name: one for name, one in self._cooldowns.items() if one.until > since}
        return {name: one.until for name, one in self._cooldowns.items()}

    def is_cooling_down(self, name: str, now: datetime) -> bool:
        """Whether an origin gets no attempts at *now*."""
        cooldown = self._cooldowns.get(name)
        return cooldown is not None and cooldown.is_active(now)

    def cool_down(self, name: str, now: datetime, until: datetime) -> None:
        """Give an origin no attempts from *now* to *until*."""
        if not self.is_cooling_down(name, until):
            self._cooldowns[name] = Cooldown(now, until)

    # Slots

    @property
    def has_waiting(self) -> bool:
        """Whether an origin waits for a slot that it may have."""
        return bool(self._queue)

    def wait(self, delivery: Delivery) -> None:
        """Queue a delivery, whose lease is counted, for a slot."""
        origin = self._known[delivery.origin]
        origin.waiting.append(delivery)
        self._queue_up(origin)

    def take_slots(self) -> Iterator[Slot]:
        """Take a slot for each delivery that may be attempted now; the origins take turns."""
        passed_count = 0
        while self._free_slots and passed_count < len(self._queue):
            origin = self._queue.popleft()
            # Beside others, an origin takes a slot only if more slots are free than it has.
            is_alone = len(self._busy) == 1
            if not is_alone and origin.in_flight_count >= max(self._free_slots, 1):
                self._queue.append(origin)
                passed_count += 1
                continue
            passed_count, origin.is_queued = 0, False
            if origin.waiting and origin.in_flight_count < self._slots_of(origin):
                origin.in_flight_count += 1
                self._free_slots -= 1
                slot = Slot(origin.waiting.popleft(), is_probe=not origin.is_open)
                self._queue_up(origin)
                yield slot

    def end(self, slot: Slot, now: datetime, *, is_answering: bool) -> None:
        """Give back the slot and lease of an attempt; open the origin, probe it or cool it down."""
        origin = self._known[slot.delivery.origin]
        if is_answering:
            origin.is_open, origin.failed_probe_count = True, 0
            self._failing.pop(origin.name, None)
        elif slot.is_probe:
            cooldown = min(COOLDOWN_FIRST * 2 ** min(origin.failed_probe_count, 10), COOLDOWN_MAX)
            origin.failed_probe_count += 1
            self._failing[origin.name] = origin
            self.cool_down(origin.name, now, now + cooldown)
        else:
            origin.is_open = False
        self.skip(slot)
        self.give_up(origin.name)

    def skip(self, slot: Slot) -> None:
        """Give back a slot without an attempt; its lease is still counted."""
        origin = self._known[slot.delivery.origin]
        origin.in_flight_count -= 1
        self._free_slots += 1
        self._queue_up(origin)

    def take_back(self, name: str) -> list[Delivery]:
        """Remove the deliveries of one origin that wait for a slot; their leases stay counted."""
        origin = self._known[name]
        waiting, origin.waiting = list(origin.waiting), deque()
        return waiting

    def take_back_all(self) -> list[Delivery]:
        """Remove all deliveries that wait for a slot; their leases are still counted."""
        return [one for name in self._busy for one in self.take_back(name)]

    def _queue_up(self, origin: Origin) -> None:
        if origin.is_queued or not origin.waiting:
            return
        if origin.in_flight_count < self._slots_of(origin):
            origin.is_queued = True
            self._queue.append(origin)

    def _limit_of(self, origin: Origin) -> int:
        if origin.failed_probe_count:
            return 1
        limit = self._slots_of(origin) * LEASE_AHEAD
        return limit if len(self._busy) <= 1 else min(limit, self._lease_limit - self.held_count)

    def _slots_of(self, origin: Origin) -> int:
        return self._origin_concurrency if origin.is_open else 1

    def _add(self, name: str) -> Origin:
        """Remember a new origin; above `KNOWN_MAX`, forget the oldest that has no lease."""
        origin = self._known[name] = Origin(name)
        if len(self._known) > KNOWN_MAX:
            idle = next((one for one in self._known.values() if not one.held_count), None)
            if idle and idle is not origin:
                del self._known[idle.name]
                self._failing.pop(idle.name, None)
        return origin
