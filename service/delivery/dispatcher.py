"""
The loop that leases due deliveries and keeps a TaskGroup of attempts, until it is drained.

It keeps invariant 7: what a receiver costs is counted by its origin. Deliveries of one origin
take at most its share of the slots, a few more wait for them leased, and everything else of
that origin stays in the database, where it is in nobody's way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.clock import Clock
from service.delivery.attempt import Attempt, Performer, log_fields, settlement_of
from service.errors import StorageUnavailable
from service.rounds import POLL, keep_rounds
from service.storage.deliveries import DueDeliveries, LeasedDelivery, LeaseRound
from service.storage.settlements import Settlement
from service.storage.store import Store

log = logging.getLogger("invoices.delivery")

LEASE_MARGIN = timedelta(seconds=10)
"""What a lease outlasts an attempt's deadline by: waiting for a slot before, settling behind."""

SETTLE_MARGIN = timedelta(seconds=5)
"""The part of the margin that is left for settling: an attempt begins no later than that."""

LEASE_AHEAD = 8
"""Leases held for each slot, so that a slot that falls free never waits for a commit."""

BATCH = 256
"""Deliveries leased in one round; the next one follows at once if there are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is attempted at the same time, and how long one attempt may take."""

    concurrency: int
    origin_concurrency: int
    timeout: timedelta


@dataclass(slots=True)
class Sweep:
    """
    One look at every origin that has something waiting, in as many rounds as that takes.

    *left_origins* are those of which the database may hold more that is due, those for which
    there was no room since the sweep began included.
    """

    after: str = ""
    left_origins: set[str] = field(default_factory=set)
    next_due_at: datetime | None = None

    def add(self, due: DueDeliveries) -> None:
        """Take in what one round has found."""
        self.after = due.after or ""
        self.left_origins |= due.left_origins
        chances = [at for at in (self.next_due_at, due.next_due_at) if at]
        self.next_due_at = min(chances, default=None)


class Dispatcher:
    """Attempts every delivery that is due; any number of processes may each run one."""

    def __init__(
        self,
        store: Store,
        performer: Performer,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._store = store
        self._performer = performer
        self._limits = limits
        self._clock = clock
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._origin_slots: dict[str, asyncio.Semaphore] = {}
        self._room = limits.concurrency * LEASE_AHEAD
        self._origin_room = limits.origin_concurrency * LEASE_AHEAD
        self._attempts: asyncio.TaskGroup
        self.held_count = 0
        self._held_counts: Counter[str] = Counter()
        self._backlogged: set[str] = set()
        self._sweep = Sweep()
        self._held_until: dict[str, datetime] = {}
        self._is_full = False
        self._told_to_drain = asyncio.Event()
        self.is_draining = False

    async def run(self) -> None:
        """Dispatch until `drain` is called, then finish the attempts in flight."""
        async with asyncio.TaskGroup() as attempts:
            self._attempts = attempts
            with self._store.to_dispatcher.connected(self):
                await keep_rounds(self, self._store.deliveries_due, self._clock)

    def drain(self) -> None:
        """Lease nothing more, give back what has not begun; `run` returns once all has ended."""
        self.is_draining = True
        self._told_to_drain.set()
        self._store.deliveries_due.set()

    def reserve(self, origin: str) -> datetime | None:
        """Room for a delivery that is about to be written, unless older ones wait for it."""
        if self.is_draining:
            return None
        if origin in self._backlogged or not self._has_room_for(origin):
            self._backlogged.add(origin)
            self._sweep.left_origins.add(origin)
            return None
        self._held_counts[origin] += 1
        self.held_count += 1
        return self._clock.now() + self._limits.timeout + LEASE_MARGIN

    def cancel(self, origin: str) -> None:
        """Give back the room of a delivery that was not written."""
        self._give_room(origin)

    def start(self, row: LeasedDelivery) -> None:
        """Attempt a delivery that was written with a lease."""
        self._attempts.create_task(self._attempt(row))

    async def run_round(self) -> datetime:
        """
        Lease what is due and there is room for; start an attempt for each.

        Returns:
            When the next round is due unless a signal comes first.
        """
        now, room = self._clock.now(), self._room - self.held_count
        self._is_full = room <= 0
        if self._is_full:
            return now + POLL
        round_ = self._lease_round(now, room)
        due = await self._store.lease_deliveries(round_)
        for delivery in due.deliveries:
            self._held_counts[delivery.origin] += 1
            self.held_count += 1
            self.start(delivery)
        self._sweep.add(due)
        return now if due.after is not None else self._end_sweep(round_)

    def _end_sweep(self, round_: LeaseRound) -> datetime:
        """All origins were looked at: remember whose deliveries wait in the database."""
        sweep, self._sweep = self._sweep, Sweep()
        self._backlogged = sweep.left_origins
        if any(self._has_room_for(origin) for origin in self._backlogged - round_.held_origins):
            return round_.now
        return min(sweep.next_due_at or round_.now + POLL, round_.now + POLL)

    def _lease_round(self, now: datetime, room: int) -> LeaseRound:
        return LeaseRound(
            now=now,
            until=now + self._limits.timeout + LEASE_MARGIN,
            limit=min(room, BATCH),
            origin_limit=self._origin_room,
            leased_counts=dict(self._held_counts),
            held_origins=frozenset(
                origin for origin, until in self._held_until.items() if until > now
            ),
            after=self._sweep.after,
        )

    def _has_room_for(self, origin: str) -> bool:
        return self.held_count < self._room and self._held_counts[origin] < self._origin_room

    async def _attempt(self, delivery: LeasedDelivery) -> None:
        """One delivery's attempt; whatever goes wrong with it, its lease brings it back."""
        try:
            settlement = await self._attempted(delivery)
            if settlement:
                is_settled = await self._settle(delivery, settlement)
                name = "attempt.settled" if is_settled else "attempt.outlived_lease"
                log.info(name, extra={"fields": log_fields(delivery, settlement)})
        except StorageUnavailable as error:
            log.warning("storage.unavailable", extra={"fields": {"detail": str(error)}})

    async def _settle(self, delivery: LeasedDelivery, settlement: Settlement) -> bool:
        """Settle, again and again while the database is away: an answer is not made twice."""
        while True:
            try:
                return await self._store.settle(settlement)
            except StorageUnavailable:
                again_at = self._clock.now() + POLL
                if self.is_draining or again_at >= delivery.leased_until:
                    raise
                await self._clock.wait(self._told_to_drain, again_at)

    async def _attempted(self, delivery: LeasedDelivery) -> Settlement | None:
        """What an attempt came to; None if it was too late to begin it."""
        try:
            attempt = await self._in_slot(delivery)
            return settlement_of(attempt) if attempt else None
        except StorageUnavailable:
            raise
        except Exception:  # one bad attempt must not stop the group
            log.exception("attempt.failed", extra={"fields": {"delivery_id": delivery.id}})
            return self._performer.failed(delivery)

    async def _in_slot(self, delivery: LeasedDelivery) -> Attempt | None:
        """Wait for a slot of the origin and one of all, then perform; None if it is too late."""
        origin = delivery.origin
        slots = self._origin_slots.setdefault(
            origin, asyncio.Semaphore(self._limits.origin_concurrency)
        )
        try:
            async with slots, self._slots:
                if self._may_begin(delivery):
                    attempt = await self._performer.perform(delivery)
                    self._remember_hold(attempt)
                    return attempt
            await self._store.release(delivery)
            return None
        finally:
            self._give_room(origin)

    def _may_begin(self, delivery: LeasedDelivery) -> bool:
        """Whether an attempt would end before its lease does, at an origin that may be called."""
        now = self._clock.now()
        has_time = now + self._limits.timeout + SETTLE_MARGIN < delivery.leased_until
        return has_time and not self._is_held(delivery.origin, now) and not self.is_draining

    def _is_held(self, origin: str, now: datetime) -> bool:
        held_until = self._held_until.get(origin)
        return held_until is not None and held_until > now

    def _remember_hold(self, attempt: Attempt) -> None:
        if attempt.held_until:
            now, origin = self._clock.now(), attempt.delivery.origin
            held = {**self._held_until, origin: attempt.held_until}
            held[origin] = max(attempt.held_until, self._held_until.get(origin, now))
            self._held_until = {name: until for name, until in held.items() if until > now}

    def _give_room(self, origin: str) -> None:
        self.held_count -= 1
        self._held_counts[origin] -= 1
        if not self._held_counts[origin]:
            del self._held_counts[origin]
            self._origin_slots.pop(origin, None)
        if self._backlogged or self._is_full or self.is_draining:
            self._store.deliveries_due.set()
