"""
The loop that leases due deliveries and keeps a TaskGroup of attempts, until it is drained.

`fairness` decides which delivery is attempted when. A delivery that cannot be attempted in time is
released: it stays due in the database, and any process may lease it.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from service.callbacks.declaration import Callback
from service.delivery.attempt import Attempts, log_failure
from service.delivery.fairness import Origins, Slot
from service.delivery.fanout import deliveries_of
from service.domain.delivery import Attempt, Delivery
from service.domain.invoice import Step
from service.loops import AT_ONCE, POLL, Loop, Round
from service.storage.deliveries import DueDeliveries, LeaseRound

log = logging.getLogger("invoices.delivery")

LEASE_MARGIN = timedelta(seconds=10)
"""How much longer a lease is than the deadline of an attempt: time to get a slot and to settle."""

SETTLE_MARGIN = timedelta(seconds=5)
"""The part of `LEASE_MARGIN` for settling: with less than this left, no attempt begins."""

POSTPONEMENT = timedelta(seconds=10)
"""How long a delivery waits after a failure on our side prevented its attempt."""

BATCH = 256
"""Deliveries leased in one round; the next one follows at once if there are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is attempted at the same time, and how long one attempt may take."""

    concurrency: int
    origin_concurrency: int
    timeout: timedelta


@dataclass(slots=True)
class Scan:
    """
    One scan of every origin with pending deliveries, in as many rounds as that takes.

    *left_origins* are the origins that may have more due deliveries in the database, including
    those for which there was no capacity since the scan began.
    """

    after: str = ""
    left_origins: set[str] = field(default_factory=set)
    next_due_at: datetime | None = None

    def add(self, due: DueDeliveries) -> None:
        """Add the result of one round."""
        self.after = due.after or ""
        self.left_origins |= due.left_origins
        instants = [at for at in (self.next_due_at, due.next_due_at) if at]
        self.next_due_at = min(instants, default=None)


class Dispatcher(Loop):
    """Attempts every delivery that is due; any number of processes may each run one."""

    def __init__(
        self,
        attempts: Attempts,
        limits: Limits,
        new_id: Callable[[], str],
    ) -> None:
        super().__init__(attempts.clock, attempts.store.deliveries_due)
        self._store = attempts.store
        self._callbacks: Mapping[str, Callback] = attempts.callbacks
        self._attempts = attempts
        self._limits = limits
        self._metrics = attempts.metrics
        self._metrics.slots(limits.concurrency)
        self._new_id = new_id
        self._origins = Origins(limits.concurrency, limits.origin_concurrency)
        self._scan = Scan()
        self._backlogged: set[str] = set()
        self._is_full = False

    @property
    def held_count(self) -> int:
        """Deliveries that are leased here, or about to be."""
        return self._origins.held_count

    def drain(self) -> None:
        """Lease no more, release what has no attempt yet; `run` returns after the last attempt."""
        super().drain()
        self._attempts.drain()
        self._begin_attempts()

    async def record(self, step: Step) -> bool:
        """
        Commit *step* with the deliveries of its event; attempts of those with a lease begin.

        Returns:
            False if the invoice is as it was: the lease of the step was no longer held, or the
            move of the report was not legal.
        """
        # A later event waits for the deliveries of the earlier ones, which only the database knows.
        reserve = self._reserve if step.invoice.event_count == 0 else _reserve_nothing
        new = list(deliveries_of(step, self._callbacks, self._new_id, reserve))
        inserted: Sequence[Delivery] | None = None
        try:
            is_report = step.is_report or step.status is None
            write = self._store.report if is_report else self._store.take_step
            inserted = await write(step, new)
        finally:
            for planned, delivery in zip(new, inserted or new, strict=True):
                if inserted and delivery.leased_until:
                    self._origins.wait(delivery)
                elif planned.leased_until:
                    self._cancel(planned.origin)
            self._begin_attempts()
        if inserted is not None and step.event:
            fields = {
                "request_id": step.invoice.request_id,
                "invoice_id": step.invoice.id,
                "account_id": step.invoice.account_id,
                "description": step.event.description,
                "paid": step.event.paid,
                "delivery_ids": [one.id for one in new],
            }
            log.info("event.recorded", extra={"fields": fields})
        return inserted is not None

    async def run_round(self) -> Round:
        """Lease what is due and has capacity; start an attempt for each."""
        now = self.clock.now()
        cooling_down = self._origins.cooling_down(now)
        self._metrics.origins_cooling_down(len(cooling_down))
        self._is_full = self._origins.capacity <= 0
        if self._is_full:
            return Round(0, POLL)
        due = await self._store.lease_deliveries(
            LeaseRound(
                now=now,
                until=self._leased_until(now),
                limit=min(self._origins.capacity, BATCH),
                origin_capacity=self._origins.capacity_of_new,
                capacities=self._origins.capacities(),
                held_origins=cooling_down,
                after=self._scan.after,
            )
        )
        self._metrics.attempts_lost(due.lost_count)
        for delivery in due.deliveries:
            self._origins.reserve(delivery.origin)
            self._origins.wait(delivery)
        self._begin_attempts()
        self._scan.add(due)
        return Round(len(due.deliveries), AT_ONCE if due.after is not None else self._end_scan(now))

    def _end_scan(self, now: datetime) -> timedelta:
        """Remember the origins with more deliveries due; return the wait until the next scan."""
        scan, self._scan = self._scan, Scan()
        # While the round was committed, a cooldown may have begun.
        cooldowns = self._origins.ends_of_cooldowns(now)
        self._backlogged = scan.left_origins
        if any(self._origins.wants_more(origin) for origin in self._backlogged - cooldowns.keys()):
            return AT_ONCE
        instants = (scan.next_due_at, *cooldowns.values())
        return min([POLL, *(at - now for at in instants if at)])

    def _reserve(self, origin: str) -> datetime | None:
        """Reserve a lease for a new delivery, unless there is no capacity or older ones wait."""
        if self.is_draining or not self.is_running:
            return None
        now = self.clock.now()
        if self._origins.capacity_of(origin) <= 0 or self._origins.is_cooling_down(origin, now):
            self._backlogged.add(origin)
            self._scan.left_origins.add(origin)
            return None
        if origin in self._backlogged:
            # Not added to the scan: a scan that has capacity for all that it finds ends the
            # backlog of the origin. If new deliveries were added, the backlog would last as long as
            # invoices arrive. The next scan finds this delivery.
            return None
        self._origins.reserve(origin)
        return self._leased_until(now)

    def _cancel(self, origin: str) -> None:
        """Stop counting a lease that was reserved and not taken, or that was released."""
        self._origins.give_up(origin)
        self._signal_capacity(origin)

    def _leased_until(self, now: datetime) -> datetime:
        return now + self._limits.timeout + LEASE_MARGIN

    def _signal_capacity(self, origin: str) -> None:
        """Begin the next round if there is capacity for deliveries that wait in the database."""
        is_awaited = origin in self._backlogged and self._origins.wants_more(origin)
        if is_awaited or self._is_full or self.is_draining:
            self.signal.set()

    def _begin_attempts(self) -> None:
        """Begin the attempts that get a slot; release those that get it late or in a cooldown."""
        if not self.is_running:
            return
        if self.is_draining:
            self._release_all(self._origins.take_back_all())
            return
        if not self._origins.has_waiting:
            return
        now = self.clock.now()
        latest_end = now + self._limits.timeout + SETTLE_MARGIN
        for slot in self._origins.take_slots():
            delivery = slot.delivery
            has_time = delivery.leased_until is not None and latest_end < delivery.leased_until
            if has_time and not self._origins.is_cooling_down(delivery.origin, now):
                self.tasks.create_task(self._attempt(slot))
            else:
                self._origins.skip(slot)
                self._release_all([delivery])

    async def _attempt(self, slot: Slot) -> None:
        """Make an attempt, pass the slot on, and settle; without an attempt, release the lease."""
        try:
            attempt = await self._attempts.make(slot.delivery)
        except Exception as error:  # noqa: BLE001 -- one bad attempt must not stop the others
            log_failure("attempt.failed", slot.delivery, error)
            self._origins.skip(slot)
            await self._release(slot.delivery, self.clock.now() + POSTPONEMENT)
            return
        self._end(slot, attempt)
        await self._attempts.settle(attempt)

    def _end(self, slot: Slot, attempt: Attempt) -> None:
        """Give back the slot, and update the state of the origin from *attempt*."""
        now, origin = attempt.ended_at, slot.delivery.origin
        if attempt.held_until:
            self._origins.cool_down(origin, now, attempt.held_until)
        self._origins.end(slot, now, is_answering=attempt.is_receiver_available)
        if self._origins.is_cooling_down(origin, now):
            self._release_all(self._origins.take_back(origin))
        self._signal_capacity(origin)
        self._begin_attempts()

    def _release_all(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self.tasks.create_task(self._release(delivery))

    async def _release(self, delivery: Delivery, due_at: datetime | None = None) -> None:
        """Give up a lease without an attempt; if that fails, the lease runs out."""
        try:
            await self._attempts.persist(
                partial(self._store.release, delivery, due_at), delivery.leased_until
            )
        except Exception as error:  # noqa: BLE001 -- one failed release must not stop the others
            log_failure("release.failed", delivery, error)
        finally:
            self._cancel(delivery.origin)
            # While no other origin has a lease, an origin may have more slots.
            self._begin_attempts()


def _reserve_nothing(_origin: str) -> None:
    return None
