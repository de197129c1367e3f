"""
Bugs to be planted: each is a small change to the service or to the memory, made while a test runs.

They are mistakes that somebody could make in good faith. A simulation that does not find them
would not find their likes either.
"""

from __future__ import annotations

from datetime import timedelta

from pytest import MonkeyPatch
from service.storage.handover import Handover

from service.clock import SystemClock
from service.delivery import attempt, dispatcher
from service.delivery.dispatcher import Dispatcher
from service.delivery.fairness import Origins
from service.domain.states import Acceptance
from service.errors import StorageUnavailable
from service.storage import deliveries, settlements, steps
from service.storage.store import Store
from tests import memory
from tests.memory import Tables

# Leases


def settling_needs_no_lease(patch):
    """Whoever comes may settle a delivery."""
    patch.setattr(memory, "_settle_one", _without_lease(memory._settle_one))


def steps_need_no_lease(patch):
    """Whoever comes may move an invoice on."""
    patch.setattr(memory, "_take_step", _without_lease(memory._take_step))


def _without_lease(work):
    def careless(*arguments):
        with MonkeyPatch.context() as patch:
            patch.setattr(memory, "_holds", lambda row, token: True)
            return work(*arguments)

    return careless


def leased_rows_are_leased_again(patch):
    """Leasing does not look whether somebody holds a lease."""
    patch.setattr(memory, "_is_free", lambda row, now: True)


def leases_never_end(patch):
    """What a process drops is nobody's for ever."""
    patch.setattr(Dispatcher, "_leased_until", lambda self, now: now + timedelta(days=1000))


def attempts_outlast_their_leases(patch):
    """An attempt begins however little is left of its lease."""
    patch.setattr(dispatcher, "SETTLE_MARGIN", -timedelta(days=1))


def lost_attempts_are_not_recorded(patch):
    """Who leases anew does not say that an attempt was lost."""

    def lease(tx, row, round_):
        memory._lease(tx.deliveries, row, round_.until)
        return memory._leased_delivery(tx, row)

    patch.setattr(memory, "_lease_delivery", lease)


def release_needs_no_lease(patch):
    """A lease is given back by whoever had it once."""

    def release(tx, leased):
        row = tx.deliveries.get(leased.account_id, leased.id)
        tx.deliveries.change(row, leased_until=None)
        return True

    patch.setattr(memory, "_release_one", release)


# Order


def order_is_not_kept(patch):
    """Later events are leased beside the earlier ones."""
    patch.setattr(memory, "_is_first_of_its_invoice", lambda tx, row: True)


def followers_are_born_leased(patch):
    """A second event is handed over as if it were the first."""

    async def take_step(self, step):
        origin = step.invoice.call.origin if step.invoice.call else ""
        until = self.to_dispatcher.reserve(origin) if step.event and step.event.delivery else None
        taken = steps.StepTaken(is_taken=False)
        try:
            taken = await self._commits.run(steps.take_steps, steps.StepToTake(step, until))
        finally:
            self.to_dispatcher.finish(origin, until, taken.delivery)
        if taken.is_taken:
            self._announce(step, taken)
        return taken.is_taken

    patch.setattr(Store, "take_step", take_step)


# Durability


def invoices_are_acknowledged_before_the_commit(patch):
    """The API answers though nobody knows whether the invoice was written."""
    accept = Store.accept

    async def answered(self, invoice):
        try:
            return await accept(self, invoice)
        except StorageUnavailable:
            return Acceptance.STORED

    patch.setattr(Store, "accept", answered)


def lost_settlements_count_as_written(patch):
    """The store says that it has settled, whatever became of the commit."""

    async def settle(self, settlement):
        try:
            return await self._commits.run(settlements.settle, settlement)
        except StorageUnavailable:
            return True

    patch.setattr(Store, "settle", settle)


def lost_settlements_are_swallowed(patch):
    """A dispatcher tries to settle once, and forgets the answer if that fails."""

    async def settle(self, delivery, settlement):
        try:
            return await self._store.settle(settlement)
        except StorageUnavailable:
            return True

    patch.setattr(Dispatcher, "_settle", settle)


def draining_abandons_attempts(patch):
    """Who drains does not wait for the attempts in flight."""
    drain = Dispatcher.drain

    def abandon(self):
        for task in list(self._attempts._tasks):
            task.cancel()
        drain(self)

    patch.setattr(Dispatcher, "drain", abandon)


# Wake-ups


def release_wakes_nobody(patch):
    """What is given back is found by polling alone."""

    async def release(self, delivery):
        return await self._commits.run(deliveries.release, delivery)

    patch.setattr(Store, "release", release)


def settling_wakes_nobody(patch):
    """An event that waited for the one before it is found by polling alone."""

    async def settle(self, settlement):
        return await self._commits.run(settlements.settle, settlement)

    patch.setattr(Store, "settle", settle)


def signals_are_lost_before_waiting(patch):
    """A wait forgets what was signalled before it began."""
    wait = SystemClock.wait

    async def forgetful(self, signal, until):
        signal.clear()
        await wait(self, signal, until)

    patch.setattr(SystemClock, "wait", forgetful)


# Room, slots and schedules


def reserved_room_leaks(patch):
    """The room of a row that was not written is never given back."""

    def finish(self, origin, reserved, row):
        if self._loop and row is not None:
            self._loop.start(row)

    patch.setattr(Handover, "finish", finish)


def slots_leak(patch):
    """A turn that was not used keeps its slot."""

    def skip(self, turn):
        self._known[turn.delivery.origin].in_flight_count -= 1

    end = Origins.end

    def ended(self, turn, now, *, is_answering):
        end(self, turn, now, is_answering=is_answering)
        self._free_slots += 1

    patch.setattr(Origins, "skip", skip)
    patch.setattr(Origins, "end", ended)


def origins_have_no_limit(patch):
    """One origin gets every slot."""
    patch.setattr(Origins, "_width", lambda self, origin: 1000)


def holds_are_not_remembered(patch):
    """A process does not leave those alone that have asked it to."""
    patch.setattr(Origins, "rest", lambda self, *_: None)


def holds_are_not_shared(patch):
    """A process does not leave those alone that have asked another one to."""
    patch.setattr(Tables, "is_held", lambda self, origin, now: False)


def schedules_never_end(patch):
    """What has failed for the last time begins anew."""
    decide = attempt.decide

    def begin_anew(verified, answer, *, failure_count, schedule, **options):
        failure_count = (failure_count - 1) % len(schedule) + 1
        return decide(verified, answer, failure_count=failure_count, schedule=schedule, **options)

    patch.setattr(attempt, "decide", begin_anew)


def redelivery_goes_on_with_the_schedule(patch):
    """What is redelivered has no more failures left than it had."""
    redeliver = memory._redeliver_row

    def go_on(tx, row, now):
        failure_count = row["failure_count"]
        is_redelivered = redeliver(tx, row, now)
        tx.deliveries.change(row, failure_count=failure_count)
        return is_redelivered

    patch.setattr(memory, "_redeliver_row", go_on)


PLANTS = [
    settling_needs_no_lease,
    steps_need_no_lease,
    leased_rows_are_leased_again,
    leases_never_end,
    attempts_outlast_their_leases,
    lost_attempts_are_not_recorded,
    release_needs_no_lease,
    order_is_not_kept,
    followers_are_born_leased,
    invoices_are_acknowledged_before_the_commit,
    lost_settlements_count_as_written,
    lost_settlements_are_swallowed,
    draining_abandons_attempts,
    release_wakes_nobody,
    settling_wakes_nobody,
    signals_are_lost_before_waiting,
    reserved_room_leaks,
    slots_leak,
    origins_have_no_limit,
    holds_are_not_remembered,
    holds_are_not_shared,
    schedules_never_end,
    redelivery_goes_on_with_the_schedule,
]
