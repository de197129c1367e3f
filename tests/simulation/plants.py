"""
Planted bugs: each is a small change to the service or to the memory, made during a test.

A programmer could write each of them by mistake. A simulation that does not find them would not
find similar bugs either.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import islice

from pytest import MonkeyPatch

from service.api import reads
from service.clock import SystemClock
from service.collection import mailing
from service.collection.mailing import Mailing
from service.collection.sending import Sending
from service.delivery import attempt, dispatcher
from service.delivery.attempt import Attempts
from service.delivery.dispatcher import Dispatcher
from service.delivery.fairness import Receivers
from service.delivery.health import Cooldowns
from service.delivery.lookout import Lookout
from service.delivery.shares import Division, Taken
from service.domain import explanation
from service.domain.delivery import Attempt, Dead, base_of
from service.domain.outcomes import AttemptOutcome, MailOutcome
from service.domain.states import Acceptance, DeadReason
from service.domain.waiting import Waits
from service.errors import SendingRefused, StorageUnavailable
from service.storage import attempts, deliveries, gates, history, redelivery
from service.storage.receiver_store import ReceiverStore
from service.storage.signals import Followed, Signals
from service.storage.store import Store
from tests import memory
from tests.memory import Tables

# Leases


def settling_needs_no_lease(patch):
    """Any process may settle a delivery."""
    patch.setattr(memory, "_settle_one", _without_lease(memory._settle_one))


def steps_need_no_lease(patch):
    """Any process may write a step of an invoice."""
    patch.setattr(memory, "_take_step", _without_lease(memory._take_step))


def _without_lease(work):
    def without_token(*arguments):
        with MonkeyPatch.context() as patch:
            patch.setattr(memory, "_holds", lambda row, token: row is not None)
            return work(*arguments)

    return without_token


def leased_rows_are_leased_again(patch):
    """A lease round ignores the leases of others."""
    patch.setattr(memory, "_is_free", lambda row, now: True)


def leases_never_end(patch):
    """A delivery with an expired lease is never leased again."""
    patch.setattr(Dispatcher, "_leased_until", lambda self, now: now + timedelta(days=1000))


def attempts_outlast_their_leases(patch):
    """An attempt begins even if its lease is about to expire."""
    patch.setattr(dispatcher, "SETTLE_MARGIN", -timedelta(days=1))


def lost_attempts_are_not_recorded(patch):
    """A new lease does not record the lost attempt of the expired lease."""

    def lease(tx, row, round_):
        memory._lease(tx.deliveries, row, round_.until)
        return memory._leased_delivery(tx, row)

    patch.setattr(memory, "_lease_delivery", lease)


def release_needs_no_lease(patch):
    """A process can release a lease that another process has taken over."""

    def release(tx, leased, due_at):
        row = tx.deliveries.get(leased.account_id, leased.id)
        tx.deliveries.change(row, leased_until=None, due_at=due_at or row["due_at"])
        return True

    patch.setattr(memory, "_release_one", release)


# Order


def order_is_not_kept(patch):
    """Later events are leased together with the earlier ones."""
    patch.setattr(memory, "_is_first_of_its_invoice", lambda tx, row: True)


def order_checks_one_event(patch):
    """A delivery waits only for the last earlier event, which may fire another callback."""

    def is_first(tx, row):
        return all(
            one["status"] != memory.PENDING
            for one in tx.earlier_of(row)
            if one["sequence"] == row["sequence"] - 1
        )

    patch.setattr(memory, "_is_first_of_its_invoice", is_first)


def followers_are_inserted_leased(patch):
    """The delivery of a second event is inserted leased as if it were the first."""
    record = Dispatcher.record

    async def record_with_lease(self, step):
        patch.setattr(dispatcher, "_reserve_nothing", self._reserve)
        return await record(self, step)

    patch.setattr(Dispatcher, "record", record_with_lease)


# Events and callbacks


def one_callback_is_fired(patch):
    """An event has a delivery only for the first callback of its invoice."""
    deliveries_of = dispatcher.deliveries_of
    patch.setattr(dispatcher, "deliveries_of", lambda *args: islice(deliveries_of(*args), 1))


def events_leave_the_lease(patch):
    """A step in progress gets the same number as an event that was recorded beside it."""
    record = memory._report_one

    def record_beside(tx, step, new, *process_id):
        row = tx.invoices.get(step.invoice.account_id, step.invoice.key)
        lease = {name: row[name] for name in ("lease_token", "leased_until")}
        inserted = record(tx, step, new, *process_id)
        tx.invoices.change(row, **lease)
        return inserted

    patch.setattr(memory, "_report_one", record_beside)


# Durability


def invoices_are_acknowledged_before_the_commit(patch):
    """The API responds before it is known whether the invoice was written."""
    accept = Store.accept

    async def answered(self, invoice, leased_until=None):
        try:
            return await accept(self, invoice, leased_until)
        except StorageUnavailable:
            return Acceptance.STORED

    patch.setattr(Store, "accept", answered)


def lost_events_count_as_recorded(patch):
    """The store reports an event as recorded, whatever the result of the commit."""
    report = Store.report

    async def recorded(self, step, new):
        try:
            return await report(self, step, new)
        except StorageUnavailable:
            return []

    patch.setattr(Store, "report", recorded)


def lost_settlements_count_as_written(patch):
    """The store reports a delivery as settled, whatever the result of the commit."""
    settle = Store.settle

    async def settled(self, made):
        try:
            return await settle(self, made)
        except StorageUnavailable:
            return True

    patch.setattr(Store, "settle", settled)


def settling_is_tried_once(patch):
    """A dispatcher drops an outcome if it cannot be settled at once."""
    patch.setattr(attempt, "persist", lambda write, *_: write())


def failures_on_our_side_are_attempts(patch):
    """A failed signature is recorded as an attempt, and counts in the schedule."""
    make = Attempts.make

    async def made(self, delivery):
        try:
            return await make(self, delivery)
        except StorageUnavailable:
            now = self.clock.now()
            return Attempt(
                delivery=delivery,
                number=delivery.attempt_count + 1,
                started_at=now,
                ended_at=now,
                duration_ms=0,
                outcome=AttemptOutcome.LOST,
                decision=Dead(DeadReason.EXHAUSTED),
            )

    patch.setattr(Attempts, "make", made)


def draining_abandons_attempts(patch):
    """A drain does not wait for the attempts in flight."""
    drain = Dispatcher.drain

    def abandon(self):
        for task in list(self.tasks._tasks):
            task.cancel()
        drain(self)

    patch.setattr(Dispatcher, "drain", abandon)


def sweeping_removes_pending_deliveries(patch):
    """Retention counts from the creation of a delivery and removes pending ones."""
    patch.setattr(memory, "_is_old", lambda row, settled_before: True)


# Signals


def release_signals_nothing(patch):
    """Released deliveries are found only by polling."""

    async def release(self, delivery, due_at=None):
        return await self._commits.run(deliveries.release, (delivery, due_at))

    patch.setattr(Store, "release", release)


def settling_signals_nothing(patch):
    """An event that waited for an earlier one is found only by polling."""

    async def settle(self, made):
        return await self._commits.run(attempts.settle, made)

    patch.setattr(Store, "settle", settle)


def signals_are_lost_before_waiting(patch):
    """A wait forgets a signal that came before it began."""
    wait = SystemClock.wait

    async def forgetful(self, signal, until):
        signal.clear()
        await wait(self, signal, until)

    patch.setattr(SystemClock, "wait", forgetful)


# Capacity, slots and schedules


def reserved_capacity_leaks(patch):
    """The capacity for a lease that was not taken is never released."""
    patch.setattr(Dispatcher, "_cancel", lambda self, *place: self._signal_capacity(*place))


def slots_leak(patch):
    """A slot that was not used is never released."""
    skip, end = Receivers.skip, Receivers.end

    def ended(self, slot, attempt):
        states = end(self, slot, attempt)
        skip(self, slot)
        return states

    patch.setattr(Receivers, "skip", lambda self, slot: None)
    patch.setattr(Receivers, "end", ended)


def origins_have_no_limit(patch):
    """One origin may use every slot."""
    patch.setattr(Receivers, "_gets_connection", lambda self, receiver: True)
    patch.setattr(Receivers, "_may_begin", lambda self, receiver: bool(receiver.waiting))


def failing_receivers_are_not_probed(patch):
    """A failing receiver gets as many attempts as before."""
    probes_take_every_slot(patch)

    def may_begin(self, receiver):
        return bool(receiver.waiting) and receiver.in_flight_count < self._origin_concurrency

    patch.setattr(Receivers, "_may_begin", may_begin)
    patch.setattr(Receivers, "_capacity_of_probe", lambda self, *_: 8)


def probes_take_every_slot(patch):
    """Receivers that do not answer get as many slots as those that do."""
    permits = Division.permits

    def permit(self, account_id, receiver, *, is_probed):
        return permits(self, account_id, receiver, is_probed=False)

    patch.setattr(Division, "permits", permit)


def neighbours_pay(patch):
    """What one receiver answers concerns all receivers of its origin."""
    begin = Cooldowns.begin

    def begin_for_all(self, name, now, until):
        begin(self, base_of(name).rpartition("/")[0] or name, now, until)

    patch.setattr(Cooldowns, "begin", begin_for_all)


def holds_are_not_remembered(patch):
    """A process calls a receiver that has asked for a hold."""
    patch.setattr(Cooldowns, "begin", lambda self, *_: None)


def holds_are_not_shared(patch):
    """A process calls a receiver that has asked another process for a hold."""
    patch.setattr(Tables, "rests_until", lambda self, row, now: None)
    patch.setattr(Tables, "is_held", lambda self, receiver, now: False)


def paused_receivers_are_leased(patch):
    """A pause is stored, and no statement asks for it."""
    patch.setattr(Tables, "is_paused", lambda self, receiver: False)


def resuming_signals_nothing(patch):
    """What waited for the end of a pause is found only by polling."""

    async def resume(self, known):
        return await self._database.write(gates.resume, known.receiver)

    patch.setattr(ReceiverStore, "resume", resume)


def followers_are_not_announced(patch):
    """A process that settles an event does not know that another process has a later one."""
    patch.setattr(Followed, "set_for", lambda self, keys: None)


def schedules_never_end(patch):
    """The schedule of a delivery starts again after its last failure."""
    decide = attempt.decide

    def begin_anew(meaning, *, failure_count, schedule, **options):
        failure_count = (failure_count - 1) % len(schedule) + 1
        return decide(meaning, failure_count=failure_count, schedule=schedule, **options)

    patch.setattr(attempt, "decide", begin_anew)


def redelivery_goes_on_with_the_schedule(patch):
    """A redelivered delivery continues its old schedule."""
    redeliver = memory._redeliver_row

    def go_on(tx, row, now, **options):
        failure_count = row["failure_count"]
        redeliver(tx, row, now, **options)
        tx.deliveries.change(row, failure_count=failure_count)

    patch.setattr(memory, "_redeliver_row", go_on)


# Cancelling


def attempts_outlive_their_cancellation(patch):
    """The attempt in progress still settles a delivery that was cancelled meanwhile."""
    cancel = memory._cancel

    def keep_the_lease(tx, account_id, delivery_id, now):
        row = tx.deliveries.get(account_id, delivery_id)
        before = dict(row or {})
        receiver = cancel(tx, account_id, delivery_id, now)
        if receiver is not None:
            tx.deliveries.change(row, lease_token=before["lease_token"])
        return receiver

    patch.setitem(memory.WORK, redelivery.cancel, keep_the_lease)


def cancelled_deliveries_are_told_as_exhausted(patch):
    """An explanation does not know that a delivery was cancelled."""
    dead = explanation._dead

    def forget(facts):
        is_cancelled = facts.reason is DeadReason.CANCELLED
        return dead(replace(facts, reason=DeadReason.EXHAUSTED) if is_cancelled else facts)

    patch.setattr(explanation, "_dead", forget)


# Mails


def mails_need_no_lease(patch):
    """Any process may record an attempt at a mail."""
    patch.setattr(memory, "_settle_mail", _without_lease(memory._settle_mail))


def steps_move_from_what_was_leased(patch):
    """A step of an invoice does not count if its mail has gone meanwhile."""
    patch.setattr(memory, "_status_after", lambda row, step: step.status.value)


def mails_are_composed_for_each_step(patch):
    """A collection that continues does not see that the mail of its invoice is committed."""

    async def has_mail(self, invoice):
        return False

    patch.setattr(Store, "has_mail", has_mail)


def mails_are_not_announced(patch):
    """The loop that sends mails does not learn of new ones."""
    send = Signals.send

    def send_others(self, name, *names):
        if name != "mails":
            send(self, name, *names)

    patch.setattr(Signals, "send", send_others)


def deferred_mails_are_forgotten(patch):
    """The loop waits without an eye on when a deferred mail is due again."""
    run_round = Mailing.run_round

    async def run_without_eye(self):
        found = await run_round(self)
        return replace(found, wait=mailing.POLL) if not self._paused_until else found

    patch.setattr(Mailing, "run_round", run_without_eye)


def refusals_of_the_service_are_attempts(patch):
    """A wrong password counts as a failure of the mail."""
    hand_over = Mailing._hand_over

    async def defer(self, mail, invoice):
        try:
            return await hand_over(self, mail, invoice)
        except SendingRefused:
            return Sending(MailOutcome.DEFERRED, 535)

    patch.setattr(Mailing, "_hand_over", defer)


def undeliverable_mails_are_not_told(patch):
    """The last attempt is recorded without what it means for the invoice."""

    async def settle(self, invoice, attempt):
        return await self._store.settle_mail(attempt)

    patch.setattr(Mailing, "_settle", settle)


# Explanations


def holds_are_not_told(patch):
    """An explanation does not know that a receiver has asked for a hold."""
    _waits_are_told_with(patch, held_until=None)


def order_is_not_told(patch):
    """An explanation does not know that an earlier event goes first."""
    _waits_are_told_with(patch, is_first=True)


def _waits_are_told_with(patch, **changes):
    waits_of = history.waits_of

    def wrong(row):
        waits = waits_of(row)
        return waits and replace(waits, **changes)

    patch.setattr(history, "waits_of", wrong)


def attempts_are_told_too_late(patch):
    """An explanation gives a later instant than that of the next attempt."""
    reason_at = Waits.reason_at

    def late(self, now):
        reason, until = reason_at(self, now)
        return reason, until and until + timedelta(seconds=1)

    patch.setattr(Waits, "reason_at", late)


# Accounts


def rotated_secrets_end_at_once(patch):
    """A rotation ignores its overlap: receivers with the old secret reject the callbacks."""
    rotate = memory._rotate
    patch.setitem(
        memory.WORK,
        memory.accounts.rotate,
        lambda *args, now, until: rotate(*args, now=now, until=now),
    )


def accounts_do_not_share(patch):
    """Slots and leases are divided among receivers, whatever their accounts have already."""
    capacity_of, permits = Division.capacity_of, Division.permits

    def capacity(self, account, receiver_count, *, is_probed):
        return capacity_of(self, Taken(), receiver_count, is_probed=is_probed)

    def permit(self, account, receiver_count, *, is_probed):
        return permits(self, Taken(), receiver_count, is_probed=is_probed)

    patch.setattr(Division, "capacity_of", capacity)
    patch.setattr(Division, "permits", permit)


def scans_begin_with_any_account(patch):
    """A scan goes along the accounts in the order of the database."""
    init = Lookout.__init__

    def made(self, store, count_in_flight, capacity_of):
        init(self, store, lambda account_id: 0, capacity_of)

    patch.setattr(Lookout, "__init__", made)


def reads_are_not_bounded(patch):
    """An account has as many reads at a time as it asks for."""
    patch.setattr(reads, "READS_PER_ACCOUNT", 1000)


GREEDY_PLANTS = [accounts_do_not_share, scans_begin_with_any_account, reads_are_not_bounded]
"""Found in the worlds with a greedy account."""

PLANTS = [
    settling_needs_no_lease,
    steps_need_no_lease,
    leased_rows_are_leased_again,
    leases_never_end,
    attempts_outlast_their_leases,
    lost_attempts_are_not_recorded,
    release_needs_no_lease,
    order_is_not_kept,
    order_checks_one_event,
    followers_are_inserted_leased,
    one_callback_is_fired,
    events_leave_the_lease,
    invoices_are_acknowledged_before_the_commit,
    lost_events_count_as_recorded,
    lost_settlements_count_as_written,
    settling_is_tried_once,
    failures_on_our_side_are_attempts,
    draining_abandons_attempts,
    sweeping_removes_pending_deliveries,
    release_signals_nothing,
    settling_signals_nothing,
    signals_are_lost_before_waiting,
    reserved_capacity_leaks,
    slots_leak,
    origins_have_no_limit,
    failing_receivers_are_not_probed,
    probes_take_every_slot,
    neighbours_pay,
    followers_are_not_announced,
    holds_are_not_remembered,
    holds_are_not_shared,
    paused_receivers_are_leased,
    resuming_signals_nothing,
    schedules_never_end,
    redelivery_goes_on_with_the_schedule,
    attempts_outlive_their_cancellation,
    cancelled_deliveries_are_told_as_exhausted,
    mails_need_no_lease,
    steps_move_from_what_was_leased,
    mails_are_composed_for_each_step,
    mails_are_not_announced,
    deferred_mails_are_forgotten,
    refusals_of_the_service_are_attempts,
    undeliverable_mails_are_not_told,
    holds_are_not_told,
    order_is_not_told,
    attempts_are_told_too_late,
    rotated_secrets_end_at_once,
]
