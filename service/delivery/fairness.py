"""
Decides which receiver gets the next slot, and how many deliveries are leased for each.

Keeps invariants 7 and 10. A receiver is an account's callback URL. What it answers concerns it
alone: neighbours on its host, and other accounts, are called as if it did not exist.

* Slots and leases are divided among accounts, then among receivers (see `shares`).
* A receiver that is new, or that has just failed, gets one attempt at a time: a probe (see
  `health`). All probes together take half of the slots at most.
* An origin has a limited number of connections, divided in the same way. While no connection to it
  can be made, it gets one attempt at a time, whoever its receivers are.
* Only a few deliveries for each slot are leased before they get a slot, and no probes: while one
  that waits for a slot is leased, no newer one can go before it.

This module only counts. The dispatcher calls it, waits, and makes the attempts.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from service.delivery.health import REFUSALS_MAX, Cooldowns, Health
from service.delivery.shares import ALONE, Division, Taken
from service.domain.delivery import Attempt, Delivery, OriginState, ReceiverState, account_of
from service.domain.outcomes import AttemptOutcome
from service.values import value

LEASE_AHEAD = 8
"""Leases for each slot: a slot that becomes free gets a leased delivery, without a commit."""

KNOWN_MAX = 10_000
"""Receivers that are remembered; above this, some without a lease are forgotten."""

BURST_SECONDS = 1.0
"""For how long an account that was idle may send at any rate."""

NOTE_INTERVAL = timedelta(hours=1)
"""How often it is stored that a receiver goes on answering."""


@value()
class Slot:
    """A delivery that may be attempted now; a probe finds out whether its receiver answers."""

    delivery: Delivery
    is_probe: bool
    is_probe_of_origin: bool = False


@dataclass(slots=True, eq=False, weakref_slot=True)
class Origin:
    """The connections to one scheme, host and port, and the receivers that wait for one."""

    name: str
    connections: Division
    accounts: dict[str, "Seat"] = field(default_factory=dict)
    health: Health = field(default_factory=Health)
    in_flight_count: int = 0
    probe_lease_count: int = 0
    waiting_count: int = 0
    waiting: dict[bool, "Turns"] = field(default_factory=lambda: {True: Turns(), False: Turns()})
    """Receivers that wait for a connection: those that are probed, and the others."""


@dataclass(slots=True, eq=False)
class Account:
    """What one account has of the slots and of the leases."""

    slots: Taken = field(default_factory=Taken)
    leases: Taken = field(default_factory=Taken)
    sends_at: float = 0.0
    """When it would begin the next attempt if it had kept to its rate."""


@dataclass(slots=True, eq=False)
class Seat:
    """What one account has at one origin: connections, and leases of probes."""

    connections: Taken = field(default_factory=Taken)
    probe_lease_count: int = 0


@dataclass(slots=True, eq=False)
class Receiver:
    """The state of one receiver: its waiting deliveries, its leases, and whether it answers."""

    name: str
    account_id: str
    account: Account
    origin: Origin
    seat: Seat
    health: Health = field(default_factory=Health)
    waiting: deque[Delivery] = field(default_factory=deque)
    in_flight_count: int = 0
    held_count: int = 0
    """Leases that are taken or reserved, including those of attempts in flight."""
    is_queued: bool = False
    noted_at: datetime | None = None
    """When it was stored last that the receiver answers."""

    @property
    def is_probed(self) -> bool:
        """Whether its next attempt is a probe."""
        return not self.health.is_open

    @property
    def goes_first(self) -> bool:
        """Whether it goes before the others of its account: asked for by hand, or never failed."""
        is_asked = bool(self.waiting) and self.waiting[0].is_asked
        return is_asked or not (self.health.is_open or self.health.is_failing)


class Turns:
    """
    Receivers that wait: the accounts take turns, and so do the receivers of an account.

    Of an account, those go first that `goes_first`, the newest of them before the others.
    """

    __slots__ = ("accounts",)

    def __init__(self) -> None:
        self.accounts: dict[str, tuple[deque[Receiver], deque[Receiver]]] = {}
        """Those that wait, the next one first; asked for each delivery, so without a call."""

    def add(self, receiver: Receiver, *, is_next: bool = False) -> None:
        """Let *receiver* wait, behind or before the others like it."""
        queues = self.accounts.setdefault(receiver.account_id, (deque(), deque()))
        if receiver.goes_first:
            queues[0].appendleft(receiver)
        elif is_next:
            queues[1].appendleft(receiver)
        else:
            queues[1].append(receiver)

    def take(self) -> Receiver:
        """Remove and return the first receiver; its account goes behind the others."""
        account_id = next(iter(self.accounts))
        first, others = queues = self.accounts.pop(account_id)
        receiver = (first or others).popleft()
        if first or others:
            self.accounts[account_id] = queues
        return receiver


class Receivers:
    """
    Divides *concurrency* slots, of which one origin gets *origin_concurrency* at most.

    An account begins *account_rate* attempts a second at most; 0 is no bound.
    """

    def __init__(self, concurrency: int, origin_concurrency: int, account_rate: int = 0) -> None:
        self._interval_seconds = 1 / account_rate if account_rate else 0.0
        self.paced_seconds: float | None = None
        """How long an account has to wait that exceeds its rate; None if there is none."""
        self.paced = set[str]()
        """The accounts that have to wait, if there are any."""
        self._origin_concurrency = origin_concurrency
        self._origin_probes = max(1, origin_concurrency // 2)
        self.cooldowns = Cooldowns()
        self.held_count = 0
        """Leases that are taken or reserved."""
        self._known: dict[str, Receiver] = {}
        self._origins = WeakValueDictionary[str, Origin]()
        self._accounts: dict[str, Account] = {}
        self._busy: dict[str, Receiver] = {}
        self._turns = {True: Turns(), False: Turns()}
        self._are_probes_first = False
        probes = max(1, concurrency // 2)
        account_probes = max(1, probes // 4)
        self._slots = Division(concurrency, probes, account_probes)
        self._leases = Division(concurrency * LEASE_AHEAD, probes, account_probes)

    # Leases

    @property
    def capacity(self) -> int:
        """How many more leases may be taken."""
        return self._leases.free

    def capacity_of(self, name: str, origin: str = "") -> int:
        """How many more leases one receiver may have; of one at an *origin*, if that is known."""
        receiver = self._known.get(name)
        if receiver is None or not receiver.health.is_open:
            return self._capacity_of_probe(name, origin, receiver)
        held_count = receiver.held_count
        shared = self._leases.capacity_of(receiver.account.leases, held_count, is_probed=False)
        return max(0, min(self._limit_of(receiver) - held_count, shared))

    def _capacity_of_probe(self, name: str, origin: str, receiver: Receiver | None) -> int:
        held_count = receiver.held_count if receiver else 0
        account_id = account_of(name)
        leases = (self._accounts.get(account_id) or Account()).leases
        shared = self._leases.capacity_of(leases, held_count, is_probed=True)
        if held_count or self.is_full(name, receiver.origin.name if receiver else origin):
            return 0
        return max(0, min(1, shared))

    def has_all_its_leases(self, name: str) -> bool:
        """Whether a receiver has as many leases as it may have, apart from the others."""
        receiver = self._known.get(name)
        return receiver is not None and receiver.held_count >= self._limit_of(receiver)

    def is_new(self, name: str) -> bool:
        """Whether nothing is known of a receiver yet: it has neither answered nor failed."""
        receiver = self._known.get(name)
        return receiver is None or receiver.goes_first

    def is_full(self, name: str, origin: str) -> bool:
        """Whether *origin* has no connection for another probe of the account of a receiver."""
        known = self._origins.get(origin)
        if known is None:
            return False
        seat = known.accounts.get(account_of(name))
        own_count = seat.probe_lease_count if seat else 0
        is_alone = own_count == known.probe_lease_count
        free = self._origin_probes - known.probe_lease_count
        return own_count >= free * (ALONE if is_alone else 1)

    def wants_more(self, name: str) -> bool:
        """Whether a receiver has at most half of the leases that it may have, and may have more."""
        receiver = self._known.get(name)
        if receiver and receiver.held_count * 2 > self._limit_of(receiver):
            return False
        return self.capacity_of(name) > 0

    def reserve(self, name: str, origin: str, count: int = 1) -> None:
        """Count leases before they are taken."""
        receiver = self._known.get(name) or self._add(name, origin)
        if count and not receiver.held_count:
            self._join(receiver)
        self._hold(receiver, count)

    def give_up(self, name: str, count: int = 1) -> None:
        """Stop counting leases."""
        receiver = self._known[name]
        self._hold(receiver, -count)
        if count and not receiver.held_count:
            self._leave(receiver)

    def _hold(self, receiver: Receiver, count: int) -> None:
        is_probed = not receiver.health.is_open
        self._leases.take(receiver.account.leases, count, is_probed=is_probed)
        if is_probed:
            receiver.seat.probe_lease_count += count
            receiver.origin.probe_lease_count += count
        receiver.held_count += count
        self.held_count += count

    def remember(self, answered: Iterable[ReceiverState]) -> None:
        """Know receivers that have answered lately."""
        for one in answered:
            if one.receiver not in self._known:
                receiver = self._add(one.receiver, one.origin)
                receiver.health.is_open, receiver.noted_at = True, one.answered_at

    # Cooldowns

    def is_cooling_down(self, delivery: Delivery, now: datetime) -> bool:
        """Whether *delivery* may not be attempted at *now*; what was asked for by hand may."""
        return not delivery.is_asked and self.are_cooling_down(
            delivery.receiver, delivery.origin, now
        )

    def are_cooling_down(self, name: str, origin: str, now: datetime) -> bool:
        """Whether a receiver or its origin gets no attempts at *now*."""
        if self.cooldowns.is_empty:
            return False
        active = self.cooldowns.is_active
        return active(name, now) or active(origin, now)

    # Slots

    @property
    def has_waiting(self) -> bool:
        """Whether a receiver waits for a slot."""
        return bool(self._turns[True].accounts or self._turns[False].accounts)

    def count_in_flight(self, account_id: str) -> int:
        """How many attempts of an account are in flight."""
        account = self._accounts.get(account_id)
        return account.slots.count if account else 0

    def count_by_account(self) -> dict[str, tuple[int, int]]:
        """Of each account with a lease: how many attempts are in flight, and how many wait."""
        return {
            one.account_id: (
                one.account.slots.count,
                one.account.leases.count - one.account.slots.count,
            )
            for one in self._busy.values()
        }

    def is_queued(self, name: str, delivery_id: str) -> bool:
        """Whether a delivery to a receiver is leased here, and waits for a slot."""
        receiver = self._known.get(name)
        return receiver is not None and any(one.id == delivery_id for one in receiver.waiting)

    def wait(self, delivery: Delivery) -> None:
        """Queue a delivery, whose lease is counted, for a slot."""
        receiver = self._known[delivery.receiver]
        if delivery.is_asked:
            receiver.waiting.appendleft(delivery)
        else:
            receiver.waiting.append(delivery)
        self._queue_up(receiver)

    def take_slots(self, now_seconds: float = 0.0) -> Iterator[Slot]:
        """Take a slot for each delivery that may be attempted at *now_seconds* of any clock."""
        self.paced_seconds = None
        first = self._are_probes_first = not self._are_probes_first
        # The first ones again, as some of the others may have become one of them.
        for is_probed in (first, not first, first):
            turns, passed_count = self._turns[is_probed], 0
            while passed_count < len(turns.accounts) and self._slots.free > 0:
                receiver = turns.take()
                receiver.is_queued = False
                if receiver.health.is_open is is_probed:
                    self._queue_up(receiver)
                elif not self._may_begin(receiver):
                    self._call_waiting(receiver.origin)
                elif not self._gets_connection(receiver, is_probed=is_probed):
                    receiver.is_queued = True
                    receiver.origin.waiting[is_probed].add(receiver)
                    receiver.origin.waiting_count += 1
                elif not self._slots.permits(
                    receiver.account.slots, receiver.in_flight_count, is_probed=is_probed
                ) or (self._interval_seconds and self._exceeds_rate(receiver, now_seconds)):
                    receiver.is_queued = True
                    turns.add(receiver)
                    passed_count += 1
                else:
                    passed_count = 0
                    yield self._begin(receiver, is_probed=is_probed)

    def _exceeds_rate(self, receiver: Receiver, now_seconds: float) -> bool:
        """Whether an account has to wait; otherwise the attempt that it begins is counted."""
        account = receiver.account
        wait_seconds = account.sends_at - now_seconds - BURST_SECONDS
        if wait_seconds > 0:
            if self.paced_seconds is None:
                self.paced = set()
            self.paced.add(receiver.account_id)
            known_seconds = self.paced_seconds
            self.paced_seconds = min(known_seconds or wait_seconds, wait_seconds)
            return True
        account.sends_at = max(account.sends_at, now_seconds) + self._interval_seconds
        return False

    def end(self, slot: Slot, attempt: Attempt) -> tuple[ReceiverState | None, OriginState | None]:
        """
        Give back the slot and lease of *attempt*, and learn from it.

        Returns:
            What has to be stored about the receiver and about its origin.
        """
        receiver = self._known[slot.delivery.receiver]
        origin_state = self._learn_of_origin(slot, receiver.origin, attempt)
        receiver_state = self._learn(slot, receiver, attempt) if attempt.is_connected else None
        self.skip(slot)
        self.give_up(receiver.name)
        return receiver_state, origin_state

    def skip(self, slot: Slot) -> None:
        """Give back a slot without an attempt; its lease is still counted."""
        receiver = self._known[slot.delivery.receiver]
        origin = receiver.origin
        receiver.in_flight_count -= 1
        origin.in_flight_count -= 1
        is_probed = not receiver.health.is_open
        self._slots.take(receiver.account.slots, -1, is_probed=is_probed)
        origin.connections.take(receiver.seat.connections, -1, is_probed=is_probed)
        if receiver.waiting:
            self._queue_up(receiver)
        if origin.waiting_count:
            self._call_waiting(origin)

    def take_back(self, name: str, *, has_asked: bool = False) -> list[Delivery]:
        """Remove the deliveries of one receiver that wait for a slot; with *has_asked*, all."""
        receiver = self._known.get(name)
        if receiver is None:
            return []
        if has_asked:
            taken, receiver.waiting = [*receiver.waiting], deque()
            return taken
        kept = deque(one for one in receiver.waiting if one.is_asked)
        taken, receiver.waiting = [one for one in receiver.waiting if not one.is_asked], kept
        return taken

    def take_back_all(self) -> list[Delivery]:
        """Remove all deliveries that wait for a slot; their leases are still counted."""
        taken = list[Delivery]()
        for receiver in self._busy.values():
            taken += receiver.waiting
            receiver.waiting = deque()
        return taken

    def _begin(self, receiver: Receiver, *, is_probed: bool) -> Slot:
        origin = receiver.origin
        receiver.in_flight_count += 1
        origin.in_flight_count += 1
        self._slots.take(receiver.account.slots, is_probed=is_probed)
        origin.connections.take(receiver.seat.connections, is_probed=is_probed)
        slot = Slot(receiver.waiting.popleft(), is_probed, not origin.health.is_open)
        if receiver.waiting:
            self._queue_up(receiver)
        return slot

    def _queue_up(self, receiver: Receiver) -> None:
        if not receiver.is_queued and self._may_begin(receiver):
            receiver.is_queued = True
            self._turns[not receiver.health.is_open].add(receiver)

    def _call_waiting(self, origin: Origin) -> None:
        """Let those receivers of *origin* that wait for a connection take their turn."""
        for is_probed, turns in origin.waiting.items():
            called = list[Receiver]()
            while turns.accounts and len(called) < max(1, origin.connections.free):
                called.append(turns.take())
            origin.waiting_count -= len(called)
            for receiver in reversed(called):
                self._turns[is_probed].add(receiver, is_next=True)

    def _may_begin(self, receiver: Receiver) -> bool:
        if not receiver.waiting:
            return False
        limit = self._origin_concurrency if receiver.health.is_open else 1
        return receiver.in_flight_count < limit or receiver.waiting[0].is_asked

    def _gets_connection(self, receiver: Receiver, *, is_probed: bool) -> bool:
        origin = receiver.origin
        is_limited = origin.health.is_failing and not receiver.waiting[0].is_asked
        if is_limited and origin.in_flight_count:
            return False
        return origin.connections.permits(
            receiver.seat.connections, receiver.in_flight_count, is_probed=is_probed
        )

    # What attempts show

    def _learn_of_origin(self, slot: Slot, origin: Origin, attempt: Attempt) -> OriginState | None:
        now, health = attempt.ended_at, origin.health
        if attempt.is_connected:
            was_failing = health.is_failing
            health.succeeded()
            return OriginState(origin.name, now) if was_failing else None
        is_cooling_down = self.cooldowns.is_active(origin.name, now)
        until = health.failed(now, is_probe=slot.is_probe_of_origin and not is_cooling_down)
        if until is None:
            return None
        self.cooldowns.begin(origin.name, now, until)
        return OriginState(origin.name, until)

    def _learn(self, slot: Slot, receiver: Receiver, attempt: Attempt) -> ReceiverState | None:
        now, health = attempt.ended_at, receiver.health
        was_open = health.is_open
        until = None
        if _is_answering(health, attempt):
            health.succeeded()
        else:
            # Several failures of one moment begin one cooldown.
            is_cooling_down = self.cooldowns.is_active(receiver.name, now)
            until = health.failed(now, is_probe=slot.is_probe and not is_cooling_down)
        if health.is_open is not was_open:
            self._change(receiver)
        if until or attempt.held_until:
            ends = [at for at in (until, attempt.held_until) if at]
            self.cooldowns.begin(receiver.name, now, max(ends))
        elif health.is_open and receiver.noted_at and now - receiver.noted_at < NOTE_INTERVAL:
            return None
        receiver.noted_at = now if health.is_open else None
        return ReceiverState(
            receiver=receiver.name,
            origin=receiver.origin.name,
            answered_at=now if health.is_open else None,
            failing_since=None if health.is_open else now,
            cooldown_until=until,
            held_until=attempt.held_until,
        )

    def _change(self, receiver: Receiver) -> None:
        """Count what *receiver* has as probes from now on, or no longer."""
        sign = 1 if receiver.is_probed else -1
        held_count, in_flight_count = sign * receiver.held_count, sign * receiver.in_flight_count
        self._leases.change(receiver.account.leases, held_count)
        receiver.seat.probe_lease_count += held_count
        receiver.origin.probe_lease_count += held_count
        self._slots.change(receiver.account.slots, in_flight_count)
        receiver.origin.connections.change(receiver.seat.connections, in_flight_count)

    # What is known

    def _limit_of(self, receiver: Receiver) -> int:
        """How many leases *receiver* may have, apart from the others."""
        return 1 if receiver.is_probed else self._origin_concurrency * LEASE_AHEAD

    def _join(self, receiver: Receiver) -> None:
        self._busy[receiver.name] = receiver
        self._leases.join(receiver.account.leases)
        self._slots.join(receiver.account.slots)
        receiver.origin.connections.join(receiver.seat.connections)

    def _leave(self, receiver: Receiver) -> None:
        del self._busy[receiver.name]
        self._leases.leave(receiver.account.leases)
        self._slots.leave(receiver.account.slots)
        receiver.origin.connections.leave(receiver.seat.connections)

    def _add(self, name: str, origin: str) -> Receiver:
        if len(self._known) > KNOWN_MAX:
            self._forget_some()
        account_id, at = account_of(name), self._origin(origin)
        account = self._accounts.get(account_id)
        if account is None:
            account = self._accounts[account_id] = Account()
        seat = at.accounts.get(account_id)
        if seat is None:
            seat = at.accounts[account_id] = Seat()
        receiver = self._known[name] = Receiver(name, account_id, account, at, seat)
        return receiver

    def _origin(self, name: str) -> Origin:
        origin = self._origins.get(name)
        if origin is None:
            probes = self._origin_probes
            connections = Division(self._origin_concurrency, probes, probes)
            origin = self._origins[name] = Origin(name, connections)
        return origin

    def _forget_some(self) -> None:
        """Forget some that have no lease: first those that do not answer, the oldest first."""
        idle = [one for one in self._known.values() if not one.held_count]
        idle.sort(key=lambda one: one.health.is_open)
        for one in idle[: KNOWN_MAX // 10]:
            del self._known[one.name]


def _is_answering(health: Health, attempt: Attempt) -> bool:
    """Whether the receiver takes callbacks; one that refuses everything does not."""
    if attempt.outcome is AttemptOutcome.DELIVERED:
        health.refusal_count = 0
    else:
        health.refusal_count += 1
    return attempt.is_receiver_available and health.refusal_count < REFUSALS_MAX
