"""
Who is attempted next: slots and leases, shared among the origins that want them.

This module keeps invariant 7. What a receiver costs is counted by its origin:

* An origin has at most so many attempts in flight. Beside others, it takes another slot only
  while more are free than it has already, so that something is left for one that comes new.
* An origin that nobody has heard of yet, or that has just failed, gets one attempt at a time: a
  probe. While probes go on failing they come ever less often, and what waits behind them keeps
  its attempts. The first answer opens the origin again.
* Deliveries that wait for a slot are leased only as far ahead as slots fall free.

All of it is counted here and nothing is waited for: the dispatcher asks, and is told at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.storage.deliveries import LeasedDelivery
from service.values import value

LEASE_AHEAD = 8
"""Leases held for each slot, so that a slot that falls free never waits for a commit."""

REST_FIRST = timedelta(milliseconds=100)
REST_MAX = timedelta(seconds=10)
"""How long an origin rests after its first failed probe and, doubled each time, at most."""

KNOWN_MAX = 10_000
"""Origins that are remembered with nothing in hand for them; the oldest are forgotten first."""


@value()
class Turn:
    """A delivery that has a slot; a probe says whether its origin is there at all."""

    delivery: LeasedDelivery
    is_probe: bool


@dataclass(frozen=True, slots=True)
class Rest:
    """The time for which an origin is left alone."""

    since: datetime
    until: datetime

    def goes_on(self, now: datetime) -> bool:
        """Whether it is not over. A clock that went back to before it does not prolong it."""
        return self.since <= now < self.until


@dataclass(slots=True, eq=False)
class Origin:
    """What is known of one receiver, and what is in hand for it."""

    name: str
    waiting: deque[LeasedDelivery] = field(default_factory=deque)
    in_flight_count: int = 0
    held_count: int = 0
    """Leases, taken or about to be; those of attempts in flight included."""
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
        """Leases, taken or about to be."""
        self._known: dict[str, Origin] = {}
        self._busy: dict[str, Origin] = {}
        self._failing: dict[str, Origin] = {}
        self._rests: dict[str, Rest] = {}
        self._queue: deque[Origin] = deque()

    # Leases

    @property
    def room(self) -> int:
        """How many more leases there is room for."""
        return self._lease_limit - self.held_count

    @property
    def room_of_new(self) -> int:
        """How many of them an origin may have that is not in `rooms`."""
        return LEASE_AHEAD

    def room_of(self, name: str) -> int:
        """How many more leases one origin may have."""
        origin = self._known.get(name)
        if origin is None:
            return min(LEASE_AHEAD, self.room)
        return max(0, min(self._limit_of(origin) - origin.held_count, self.room))

    def wants_more(self, name: str) -> bool:
        """Whether so much room has come free for an origin that another round is worth it."""
        origin = self._known.get(name)
        return origin is None or origin.held_count * 2 <= self._limit_of(origin)

    def rooms(self) -> dict[str, int]:
        """The room of each origin that something is in hand for, or whose last probe failed."""
        return {name: self.room_of(name) for name in (*self._busy, *self._failing)}

    def reserve(self, name: str) -> None:
        """Count a lease that is taken, or about to be."""
        origin = self._known.get(name) or self._meet(name)
        origin.held_count += 1
        self.held_count += 1
        self._busy[name] = origin

    def give_up(self, name: str) -> None:
        """Count a lease no more."""
        origin = self._known[name]
        origin.held_count -= 1
        self.held_count -= 1
        if not origin.held_count:
            del self._busy[name]

    # Rest

    def resting(self, now: datetime) -> frozenset[str]:
        """The origins that are to be left alone at the moment."""
        return frozenset(name for name, rest in self._rests.items() if rest.goes_on(now))

    def ends_of_rests(self, since: datetime) -> dict[str, datetime]:
        """When each rest ends that was not over at *since*; those that began later included."""
        self._rests = {name: rest for name, rest in self._rests.items() if rest.until > since}
        return {name: rest.until for name, rest in self._rests.items()}

    def is_resting(self, name: str, now: datetime) -> bool:
        """Whether an origin is to be left alone."""
        rest = self._rests.get(name)
        return rest is not None and rest.goes_on(now)

    def rest(self, name: str, now: datetime, until: datetime) -> None:
        """Leave an origin alone from now until then."""
        if not self.is_resting(name, until):
            self._rests[name] = Rest(now, until)

    # Slots

    def wait(self, delivery: LeasedDelivery) -> None:
        """Queue a delivery, whose lease is counted, for a slot."""
        origin = self._known[delivery.origin]
        origin.waiting.append(delivery)
        self._queue_up(origin)

    def begin(self) -> Iterator[Turn]:
        """Take a slot for each delivery that may be attempted now; the origins take turns."""
        passed_count = 0
        while self._free_slots and passed_count < len(self._queue):
            origin = self._queue.popleft()
            if self._has_enough(origin):
                self._queue.append(origin)
                passed_count += 1
                continue
            passed_count, origin.is_queued = 0, False
            if origin.waiting and origin.in_flight_count < self._width(origin):
                yield self._take_slot(origin)

    def end(self, turn: Turn, now: datetime, *, is_answering: bool) -> None:
        """Give back slot and lease of an attempt, and learn from how it went."""
        origin = self._known[turn.delivery.origin]
        if is_answering:
            origin.is_open, origin.failed_probe_count = True, 0
            self._failing.pop(origin.name, None)
        elif turn.is_probe:
            self._rest_after_probe(origin, now)
        else:
            origin.is_open = False
        self.skip(turn)
        self.give_up(origin.name)

    def skip(self, turn: Turn) -> None:
        """Give back the slot of a turn that was not used; its lease is counted still."""
        origin = self._known[turn.delivery.origin]
        origin.in_flight_count -= 1
        self._free_slots += 1
        self._queue_up(origin)

    def take_back(self, name: str) -> list[LeasedDelivery]:
        """What waits for one origin, which waits no more; its leases are counted still."""
        origin = self._known[name]
        waiting, origin.waiting = list(origin.waiting), deque()
        return waiting

    def take_back_all(self) -> list[LeasedDelivery]:
        """Everything that waits, which waits no more; its leases are counted still."""
        return [one for name in self._busy for one in self.take_back(name)]

    def _take_slot(self, origin: Origin) -> Turn:
        origin.in_flight_count += 1
        self._free_slots -= 1
        turn = Turn(origin.waiting.popleft(), is_probe=not origin.is_open)
        self._queue_up(origin)
        return turn

    def _has_enough(self, origin: Origin) -> bool:
        """Whether other origins, those to come included, need the next slot more."""
        is_alone = len(self._busy) == 1
        return not is_alone and origin.in_flight_count >= max(self._free_slots, 1)

    def _queue_up(self, origin: Origin) -> None:
        is_wanting = origin.waiting and origin.in_flight_count < self._width(origin)
        if is_wanting and not origin.is_queued:
            origin.is_queued = True
            self._queue.append(origin)

    def _limit_of(self, origin: Origin) -> int:
        if origin.failed_probe_count:
            return 1
        limit = self._width(origin) * LEASE_AHEAD
        return limit if len(self._busy) <= 1 else min(limit, self.room)

    def _width(self, origin: Origin) -> int:
        return self._origin_concurrency if origin.is_open else 1

    def _rest_after_probe(self, origin: Origin, now: datetime) -> None:
        rest = min(REST_FIRST * 2 ** min(origin.failed_probe_count, 10), REST_MAX)
        origin.failed_probe_count += 1
        self._failing[origin.name] = origin
        self.rest(origin.name, now, now + rest)

    def _meet(self, name: str) -> Origin:
        """Remember a new origin; one of which nothing is in hand is forgotten for it."""
        origin = self._known[name] = Origin(name)
        if len(self._known) > KNOWN_MAX:
            idle = next((one for one in self._known.values() if not one.held_count), None)
            if idle and idle is not origin:
                del self._known[idle.name]
                self._failing.pop(idle.name, None)
        return origin
