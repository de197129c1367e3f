"""
The loop that leases due deliveries and keeps a TaskGroup of attempts, until it is drained.

Which of them is attempted when, `origins` decides; here it is done. What cannot be attempted in
time goes back to the database, where it is in nobody's way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.clock import Clock
from service.delivery.attempt import Attempt, Performer, log_fields, settlement_of
from service.delivery.fairness import Origins, Turn
from service.domain.states import Cause, DeliveryStatus
from service.errors import StorageUnavailable
from service.loops import AT_ONCE, POLL, keep_rounds
from service.storage.deliveries import DueDeliveries, LeasedDelivery, LeaseRound
from service.storage.settlements import Settlement
from service.storage.store import Store
from service.telemetry.metrics import Metrics

log = logging.getLogger("invoices.delivery")

LEASE_MARGIN = timedelta(seconds=10)
"""What a lease outlasts an attempt's deadline by: waiting for a slot before, settling behind."""

SETTLE_MARGIN = timedelta(seconds=5)
"""The part of the margin that is left for settling: an attempt begins no later than that."""

BATCH = 256
"""Deliveries leased in one round; the next one follows at once if there are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is attempted at the same time, and how long one attempt may take."""

    concurrency: int
    origin_concurrency: int
    timeout: timedelta


@dataclass(slots=True)
class Look:
    """
    One look at every origin that has something waiting, in as many rounds as that takes.

    *left_origins* are those of which the database may hold more that is due, those for which
    there was no room since the look began included.
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
        self, store: Store, performer: Performer, limits: Limits, clock: Clock, metrics: Metrics
    ) -> None:
        self._store = store
        self._performer = performer
        self._limits = limits
        self._clock = clock
        self._metrics = metrics
        metrics.slots(limits.concurrency)
        self._origins = Origins(limits.concurrency, limits.origin_concurrency)
        self._attempts: asyncio.TaskGroup
        self._look = Look()
        self._backlogged: set[str] = set()
        self._is_full = False
        self._told_to_drain = asyncio.Event()
        self.is_draining = False

    @property
    def held_count(self) -> int:
        """Deliveries that are leased by us, or about to be."""
        return self._origins.held_count

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
        self._begin_attempts()
        self._store.deliveries_due.set()

    def reserve(self, origin: str) -> datetime | None:
        """Room for a delivery that is about to be written, unless older ones wait for it."""
        if self.is_draining:
            return None
        now = self._clock.now()
        if not self._has_room_for(origin, now):
            self._backlogged.add(origin)
            self._look.left_origins.add(origin)
            return None
        if origin in self._backlogged:
            # Not added to the look: one that finds room for all it sees ends the backlog, or it
            # would last for as long as invoices come in. What is written until then is announced
            # and found by the next look.
            return None
        self._origins.reserve(origin)
        return self._leased_until(now)

    def cancel(self, origin: str) -> None:
        """Give back the room of a delivery that was not written."""
        self._origins.give_up(origin)
        self._tell_of_room(origin)
        # Who is alone now may have more slots than beside others.
        self._begin_attempts()

    def start(self, row: LeasedDelivery) -> None:
        """Attempt a delivery that was written with a lease, as soon as there is a slot."""
        self._origins.wait(row)
        self._begin_attempts()

    async def run_round(self) -> timedelta:
        """
        Lease what is due and there is room for; start an attempt for each.

        Returns:
            How long the next round may wait unless a signal comes first.
        """
        now = self._clock.now()
        resting = self._origins.resting(now)
        self._metrics.origins_cooling_down(len(resting))
        self._is_full = self._origins.room <= 0
        if self._is_full:
            return POLL
        due = await self._store.lease_deliveries(self._lease_round(now, resting))
        self._metrics.attempts_lost(due.lost_count)
        for delivery in due.deliveries:
            self._origins.reserve(delivery.origin)
            self._origins.wait(delivery)
        self._begin_attempts()
        self._look.add(due)
        return AT_ONCE if due.after is not None else self._end_look(now)

    def _lease_round(self, now: datetime, resting: frozenset[str]) -> LeaseRound:
        return LeaseRound(
            now=now,
            until=self._leased_until(now),
            limit=min(self._origins.room, BATCH),
            origin_room=self._origins.room_of_new,
            rooms=self._origins.rooms(),
            held_origins=resting,
            after=self._look.after,
        )

    def _end_look(self, now: datetime) -> timedelta:
        """All origins were looked at: remember whose deliveries wait in the database."""
        look, self._look = self._look, Look()
        # While the round was committed, an origin may have begun to rest.
        rests = self._origins.ends_of_rests(now)
        self._backlogged = look.left_origins
        if any(self._origins.wants_more(origin) for origin in self._backlogged - rests.keys()):
            return AT_ONCE
        chances = (look.next_due_at, *rests.values())
        return min([POLL, *(at - now for at in chances if at)])

    def _leased_until(self, now: datetime) -> datetime:
        return now + self._limits.timeout + LEASE_MARGIN

    def _has_room_for(self, origin: str, now: datetime) -> bool:
        return self._origins.room_of(origin) > 0 and not self._origins.is_resting(origin, now)

    def _tell_of_room(self, origin: str) -> None:
        """Wake the loop, if it has something to do about it."""
        is_awaited = origin in self._backlogged and self._origins.wants_more(origin)
        if is_awaited or self._is_full or self.is_draining:
            self._store.deliveries_due.set()

    def _begin_attempts(self) -> None:
        """Begin what there are slots for; give back what came too late for one, or to a rest."""
        if self.is_draining:
            self._give_back(self._origins.take_back_all())
            return
        now = self._clock.now()
        for turn in self._origins.begin():
            if not self._may_begin(turn.delivery, now):
                self._origins.skip(turn)
                self._give_back([turn.delivery])
            else:
                self._attempts.create_task(self._attempt(turn))

    def _may_begin(self, delivery: LeasedDelivery, now: datetime) -> bool:
        """Whether an attempt would end before its lease does, at an origin that does not rest."""
        has_time = now + self._limits.timeout + SETTLE_MARGIN < delivery.leased_until
        return has_time and not self._origins.is_resting(delivery.origin, now)

    def _end(self, turn: Turn, attempt: Attempt | None) -> None:
        """Give back the slot; an attempt that was not made, for a reason of ours, is None."""
        now, origin = self._clock.now(), turn.delivery.origin
        if attempt and attempt.held_until:
            self._origins.rest(origin, now, attempt.held_until)
        self._origins.end(turn, now, is_answering=attempt is None or attempt.is_answered)
        if self._origins.is_resting(origin, now):
            self._give_back(self._origins.take_back(origin))
        self._tell_of_room(origin)
        self._begin_attempts()

    def _give_back(self, deliveries: Iterable[LeasedDelivery]) -> None:
        for delivery in deliveries:
            self._attempts.create_task(self._release(delivery))

    async def _release(self, delivery: LeasedDelivery) -> None:
        """Give back a lease without an attempt; if that fails, it runs out."""
        try:
            await self._store.release(delivery)
        except StorageUnavailable as error:
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        finally:
            self.cancel(delivery.origin)

    async def _attempt(self, turn: Turn) -> None:
        """One delivery's attempt; whatever goes wrong with it, its lease brings it back."""
        delivery, settlement = turn.delivery, await self._performed(turn)
        try:
            is_settled = await self._settle(delivery, settlement)
        except StorageUnavailable as error:
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        except Exception:  # one that cannot be recorded must not stop the group either
            log.exception("attempt.failed", extra={"fields": {"delivery_id": delivery.id}})
        else:
            self._count(delivery, settlement, is_settled=is_settled)
            name = "attempt.settled" if is_settled else "attempt.outlived_lease"
            log.info(name, extra={"fields": log_fields(delivery, settlement)})

    def _count(self, delivery: LeasedDelivery, settlement: Settlement, *, is_settled: bool) -> None:
        """Count an attempt, and its delivery if that has ended with it."""
        if not is_settled:
            self._metrics.attempt_outlived_lease()
            return
        self._metrics.attempt_recorded(settlement.attempt.outcome)
        if settlement.status is not DeliveryStatus.PENDING:
            self._metrics.settled(settlement.status, settlement.reason)
        # What is sent again by hand says nothing of how long deliveries take. A redelivery begins
        # to count failures anew, and attempts it does not; an attempt that was lost is no failure.
        has_counted_on = delivery.attempt_count == delivery.failure_count
        is_first_time = has_counted_on and delivery.cause is not Cause.REDELIVERY
        if settlement.status is DeliveryStatus.DELIVERED and is_first_time:
            self._metrics.delivered_after((settlement.at - delivery.accepted_at).total_seconds())

    async def _performed(self, turn: Turn) -> Settlement:
        """Make the attempt that it is the turn of, then pass the slot on."""
        attempt = None
        self._metrics.attempt_began()
        try:
            attempt = await self._performer.perform(turn.delivery)
            self._metrics.attempt_took(attempt.duration.total_seconds())
            return settlement_of(attempt)
        except Exception:  # one bad attempt must not stop the group
            log.exception("attempt.failed", extra={"fields": {"delivery_id": turn.delivery.id}})
            return self._performer.failed(turn.delivery)
        finally:
            self._metrics.attempt_ended()
            self._end(turn, attempt)

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
