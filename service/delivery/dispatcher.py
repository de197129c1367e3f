"""
The loop that leases due deliveries and keeps a TaskGroup of attempts, until it is drained.

`fairness` decides which delivery is attempted when. A delivery that cannot be attempted in time is
released: it stays due in the database, and any process may lease it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from service.callbacks.declaration import Callback
from service.delivery.attempt import Attempts, log_failure
from service.delivery.fairness import Receivers, Slot
from service.delivery.fanout import deliveries_of, with_bodies
from service.delivery.lookout import Lookout
from service.domain.delivery import Attempt, Delivery, Retry
from service.domain.invoice import Step
from service.domain.states import Acceptance
from service.errors import ListenerAway, StorageUnavailable
from service.loops import POLL, Loop, Round
from service.storage.deliveries import LeaseRound
from service.storage.waiting import Waiting
from service.telemetry.logs import log_event

log = logging.getLogger("invoices.delivery")

LEASE_MARGIN = timedelta(seconds=10)
"""How much longer a lease is than the deadline of an attempt: time to get a slot and to settle."""

SETTLE_MARGIN = timedelta(seconds=5)
"""The part of `LEASE_MARGIN` for settling: with less than this left, no attempt begins."""

FOLLOWER_CHECK = timedelta(seconds=1)
"""When a later event is looked at again: who settles the earlier one may not know of it."""

PACE = timedelta(milliseconds=20)
"""How often attempts begin of accounts that exceed their rate."""

POSTPONEMENT = timedelta(seconds=10)
"""How long a delivery waits after a failure on our side prevented its attempt."""

LATELY = timedelta(days=1)
"""A receiver that answered so long ago, and has not failed since, is taken as one that answers."""

BATCH = 256
"""Deliveries leased in one round; the next one follows at once if there are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is attempted at the same time, and how long one attempt may take."""

    concurrency: int
    origin_concurrency: int
    account_rate: int
    timeout: timedelta


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
        self._permits = attempts.listeners.permits
        self._limits = limits
        self._metrics = attempts.metrics
        self._metrics.slots(limits.concurrency)
        self._new_id = new_id
        self._receivers = Receivers(
            limits.concurrency, limits.origin_concurrency, limits.account_rate
        )
        self._lookout = Lookout(
            self._store, self._receivers.count_in_flight, self._receivers.capacity_of
        )
        self._metrics.accounts.count = self._receivers.count_by_account
        self._knows_answered = False
        self._backlogged: set[str] = set()
        self._is_full = False

    @property
    def held_count(self) -> int:
        """Deliveries that are leased here, or about to be."""
        return self._receivers.held_count

    def is_queued(self, receiver: str, delivery_id: str) -> bool:
        """Whether a delivery is leased here, and no attempt of it has begun."""
        return self._receivers.is_queued(receiver, delivery_id)

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
        is_report = step.is_report or step.status is None
        write = self._store.report if is_report else self._store.take_step
        step, new = self._planned(step)
        inserted: Sequence[Delivery] | None = None
        try:
            inserted = await write(step, new)
        finally:
            self._begin_recorded(new, inserted)
        if inserted is not None:
            _log_event(step, new)
        return inserted is not None

    async def accept(self, step: Step) -> Acceptance:
        """
        As `record`, with the invoice of *step*, which is new, unless its account has used the id.

        Then nothing is stored.
        """
        step, new = self._planned(step)
        inserted: Sequence[Delivery] | None = None
        try:
            acceptance, inserted = await self._store.accept_begun(step, new)
        finally:
            self._begin_recorded(new, inserted)
        if inserted is not None:
            # After the line of the acceptance, which its caller writes now.
            asyncio.get_running_loop().call_soon(_log_event, step, new)
        return acceptance

    def _planned(self, step: Step) -> tuple[Step, Sequence[Delivery]]:
        """*step* with its bodies, and its deliveries, with leases where there is capacity."""
        # A later event waits for the deliveries of the earlier ones, which only the database knows.
        reserve = self._reserve if step.invoice.event_count == 0 else _reserve_nothing
        step = with_bodies(step, self._callbacks)
        return step, list(deliveries_of(step, self._callbacks, self._new_id, reserve))

    def _begin_recorded(self, new: Sequence[Delivery], inserted: Sequence[Delivery] | None) -> None:
        """Begin the attempts of what was *inserted* with a lease; the other leases are free."""
        for planned, delivery in zip(new, inserted or new, strict=True):
            if inserted and delivery.leased_until:
                self._receivers.wait(delivery)
            elif planned.leased_until:
                self._cancel(planned.receiver, planned.origin)
            if inserted and delivery.sequence > 1:
                self._lookout.alarms.set(delivery.receiver, self.clock.now() + FOLLOWER_CHECK)
        self._begin_attempts()

    async def run_round(self) -> Round:
        """Lease what is due and has capacity; start an attempt for each."""
        now = self.clock.now()
        if not self._knows_answered:
            self._receivers.remember(await self._store.answered_receivers(now - LATELY))
            self._knows_answered = True
        self._metrics.receivers_cooling_down(self._receivers.cooldowns.forget_ended(now))
        names, is_for_all = self.signal.take()
        self._lookout.name(name for name in names if self._may_be_leased(name, now))
        if is_for_all:
            self._lookout.scan()
        asked = self._store.deliveries_asked.take()
        self._lookout.name(asked)
        self._is_full = self._receivers.capacity <= 0
        if self._is_full and not asked:
            return Round(0, POLL)
        try:
            began = self.clock.elapsed()
            looked = await self._lookout.look(now, began)
            self._lookout.pace(began, self.clock.elapsed())
            looked = [one for one in looked if self._permits(one.receiver, one.origin)]
            count = await self._lease(looked, now)
        except StorageUnavailable:
            # What was named is forgotten now; a scan finds it.
            self._lookout.scan()
            self._store.deliveries_asked.put_back(asked)
            raise
        self._begin_attempts()
        # What was skipped may have got capacity meanwhile.
        self._lookout.resume()
        return Round(count, self._wait())

    def _wait(self) -> timedelta:
        wait = self._lookout.wait(self.clock)
        if self._receivers.paced_seconds is None:
            return wait
        return min(wait, max(PACE, timedelta(seconds=self._receivers.paced_seconds)))

    async def _lease(self, looked: Sequence[Waiting], now: datetime) -> int:
        """Lease what those receivers that were *looked* at may have; returns how many."""
        limits = self._reserve_for(looked, now)
        asked = [one.receiver for one in looked if one.has_asked and not one.is_closed]
        if not limits and not asked:
            return 0
        found: Sequence[Delivery] = ()
        try:
            round_ = LeaseRound(now, self._leased_until(now), limits, asked)
            due = await self._store.lease_deliveries(round_)
            self._metrics.attempts_lost(due.lost_count)
            found = due.deliveries
        finally:
            counts = Counter(one.receiver for one in found if not one.is_asked)
            for name, limit in limits.items():
                self._receivers.give_up(name, limit - counts[name])
                self._note_backlog(name, is_backlogged=counts[name] == limit)
        for delivery in found:
            if delivery.is_asked:
                self._receivers.reserve(delivery.receiver, delivery.origin)
            self._receivers.wait(delivery)
        return len(found)

    def _reserve_for(self, looked: Sequence[Waiting], now: datetime) -> dict[str, int]:
        """Reserve leases for what is due, shared among the receivers; returns how many for each."""
        limits, due = dict[str, int](), list[Waiting]()
        for one in looked:
            if one.is_closed:
                # What is leased already waits in the database as well; what is in flight ends.
                self._release_all(self._receivers.take_back(one.receiver, has_asked=True))
                continue
            resting_until = self._resting_until(one, now)
            if resting_until:
                self._lookout.alarms.set(one.receiver, resting_until)
                continue
            if one.next_due_at:
                self._lookout.alarms.set(one.receiver, one.next_due_at)
            if one.first_due_at <= now:
                due.append(one)
        left = min(self._receivers.capacity, BATCH)
        for number, one in enumerate(due):
            share = -(-left // (len(due) - number))
            limit = min(share, self._receivers.capacity_of(one.receiver, one.origin))
            if limit > 0:
                self._receivers.reserve(one.receiver, one.origin, limit)
                limits[one.receiver] = limit
                left -= limit
            else:
                self._note_no_capacity(one.receiver, one.origin)
        return limits

    def _resting_until(self, waiting: Waiting, now: datetime) -> datetime | None:
        end_of = self._receivers.cooldowns.end_of
        ends = (waiting.resting_until, end_of(waiting.receiver, now), end_of(waiting.origin, now))
        return max((at for at in ends if at), default=None)

    def _may_be_leased(self, name: str, now: datetime) -> bool:
        """Whether it is worth looking at a receiver; if not, it is looked at later."""
        ends_at = self._receivers.cooldowns.end_of(name, now)
        if ends_at:
            self._lookout.alarms.set(name, ends_at)
            return False
        if self._receivers.capacity_of(name) <= 0:
            self._note_no_capacity(name)
            return False
        return name not in self._backlogged or self._receivers.wants_more(name)

    def _note_no_capacity(self, name: str, origin: str = "") -> None:
        if self._receivers.has_all_its_leases(name):
            self._backlogged.add(name)
        else:
            is_full = self._receivers.is_full(name, origin)
            is_new = self._receivers.is_new(name)
            self._lookout.skip(name, origin if is_full else "", is_new=is_new)

    def _note_backlog(self, name: str, *, is_backlogged: bool) -> None:
        if not is_backlogged:
            self._backlogged.discard(name)
            return
        self._backlogged.add(name)
        if self._receivers.wants_more(name):
            self._lookout.name([name])

    def _reserve(self, receiver: str, origin: str) -> datetime | None:
        """Reserve a lease for a new delivery, unless there is no capacity or older ones wait."""
        if self.is_draining or not self.is_running:
            return None
        now = self.clock.now()
        if self._receivers.are_cooling_down(receiver, origin, now):
            return None
        if not self._permits(receiver, origin):
            return None
        # While older ones wait in the database, a new one waits there too. A look that leases all
        # that are due ends the backlog, even if new ones arrive meanwhile.
        if receiver in self._backlogged or self._receivers.capacity_of(receiver, origin) <= 0:
            return None
        self._receivers.reserve(receiver, origin)
        return self._leased_until(now)

    def _cancel(self, receiver: str, origin: str) -> None:
        """Stop counting a lease that was reserved and not taken, or that was released."""
        self._receivers.give_up(receiver)
        self._signal_capacity(receiver, origin)

    def _leased_until(self, now: datetime) -> datetime:
        return now + self._limits.timeout + LEASE_MARGIN

    def _signal_capacity(self, receiver: str, origin: str) -> None:
        """Begin the next round if there is capacity for deliveries that wait in the database."""
        is_awaited = receiver in self._backlogged and self._receivers.wants_more(receiver)
        if is_awaited:
            self._lookout.name([receiver])
        is_resumed = self._lookout.resume(receiver, origin)
        if is_awaited or is_resumed or self._is_full or self.is_draining:
            self.signal.wake()

    def _begin_attempts(self) -> None:
        """Begin the attempts that get a slot; release those that get it late or in a cooldown."""
        if not self.is_running:
            return
        if self.is_draining:
            self._release_all(self._receivers.take_back_all())
            return
        if not self._receivers.has_waiting:
            return
        now = self.clock.now()
        latest_end = now + self._limits.timeout + SETTLE_MARGIN
        was_paced = self._receivers.paced_seconds is not None
        for slot in self._receivers.take_slots(self.clock.monotonic()):
            delivery = slot.delivery
            has_time = delivery.leased_until is not None and latest_end < delivery.leased_until
            if has_time and not self._receivers.is_cooling_down(delivery, now):
                self.tasks.create_task(self._attempt(slot))
            else:
                self._receivers.skip(slot)
                self._release_all([delivery])
        if self._receivers.paced_seconds is not None:
            self._store.note_paced(self._receivers.paced, now)
            if not was_paced:
                # The next round ends earlier than was known.
                self.signal.wake()

    async def _attempt(self, slot: Slot) -> None:
        """Make an attempt, pass the slot on, and settle; without an attempt, release the lease."""
        try:
            attempt = await self._attempts.make(slot.delivery)
        except ListenerAway as error:
            log_failure("attempt.failed", slot.delivery, error)
            self._receivers.skip(slot)
            await self._release(slot.delivery)
            return
        except Exception as error:  # noqa: BLE001 -- one bad attempt must not stop the others
            log_failure("attempt.failed", slot.delivery, error)
            self._receivers.skip(slot)
            await self._release(slot.delivery, self.clock.now() + POSTPONEMENT)
            return
        attempt = self._end(slot, attempt)
        await self._attempts.settle(attempt)
        if isinstance(attempt.decision, Retry):
            due_at = attempt.ended_at + attempt.decision.delay
            self._lookout.alarms.set(slot.delivery.receiver, due_at)
            self.signal.wake()

    def _end(self, slot: Slot, attempt: Attempt) -> Attempt:
        """Give back the slot, and learn from *attempt*; returns it with what is to be stored."""
        now, delivery = attempt.ended_at, slot.delivery
        receiver_state, origin_state = self._receivers.end(slot, attempt)
        if receiver_state or origin_state:
            attempt = replace(attempt, receiver_state=receiver_state, origin_state=origin_state)
        if self._receivers.are_cooling_down(delivery.receiver, delivery.origin, now):
            self._release_all(self._receivers.take_back(delivery.receiver))
        self._signal_capacity(delivery.receiver, delivery.origin)
        self._begin_attempts()
        return attempt

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
            self._cancel(delivery.receiver, delivery.origin)
            # While no other receiver has a lease, a receiver may have more slots.
            self._begin_attempts()


def _log_event(step: Step, new: Sequence[Delivery]) -> None:
    """One line for the event of *step*, if it has one."""
    if step.event:
        fields = {
            "request_id": step.invoice.request_id,
            "invoice_id": step.invoice.id,
            "account_id": step.invoice.account_id,
            "description": step.event.description,
            "paid": step.event.paid,
            "delivery_ids": [one.id for one in new],
        }
        log_event(log, "event.recorded", fields)


def _reserve_nothing(_receiver: str, _origin: str) -> None:
    return None
