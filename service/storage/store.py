"""
The store: it decides which writes share transactions, and which signals follow a commit.

It calls no loop. A loop that has free capacity calls the store with `leased_until`, and itself
starts work on the row that was committed with a lease. For every other due row the store sets a
signal.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from service.database.at_once import AtOnceByWork
from service.database.engine import Database
from service.database.group_commit import GroupCommit, ObserveSize
from service.domain.delivery import Attempt, Delivery, ReceiverState
from service.domain.invoice import Invoice, Step
from service.domain.mail import Mail, MailAttempt
from service.domain.states import COLLECTING, Acceptance, Cause, DeliveryStatus
from service.loops import Signal
from service.storage import (
    accepting,
    attempts,
    backlog,
    deliveries,
    history,
    invoices,
    leases,
    mails,
    processes,
    receivers,
    redelivery,
    retention,
    steps,
    waiting,
)
from service.storage.account_store import AccountStore
from service.storage.arrivals import Arrivals
from service.storage.backlog import Backlog
from service.storage.beginnings import Beginnings
from service.storage.console import ConsoleStore
from service.storage.history_store import HistoryStore
from service.storage.listening import ListeningStore
from service.storage.money import MoneyStore
from service.storage.paced import Paced
from service.storage.receiver_store import ReceiverStore
from service.storage.signals import Asked, Followed, Signals, chain_of

log = logging.getLogger("invoices.storage")

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE: AtOnceByWork = {
    invoices.accept: invoices.accept_at_once,
    accepting.accept: accepting.accept_at_once,
    steps.take_steps: steps.take_steps_at_once,
    attempts.settle: attempts.settle_at_once,
    deliveries.release: deliveries.release_at_once,
}
"""What one statement does where a database takes such: see `database.at_once`."""


class Store:
    """
    All operations on the stored data.

    Each method that writes returns after its commit. It raises StorageUnavailable if the database
    cannot be written to; nothing was stored then. *observe_size* is called after each shared
    transaction with the number of items in it.
    """

    def __init__(self, database: Database, observe_size: ObserveSize = lambda _size: None) -> None:
        self._database = database
        self._commits = GroupCommit(database, observe_size, AT_ONCE)
        self.invoices_due = Signal()
        """Set when an invoice may have become due for collection."""
        self.deliveries_due = Signal()
        """Set when a delivery may have become due, with the names of receivers."""
        self.mails_due = Signal()
        """Set when a mail may have become due."""
        self._signals = Signals(database)
        self.money = MoneyStore(database, self._signals)
        """The operations on checkouts, payments and refunds."""
        self.console = ConsoleStore(database)
        """What the console reads and writes besides."""
        self.arrivals = Arrivals()
        """Wakes those who wait for events of an account that this process records."""
        self.listening = ListeningStore(database, self._commits)
        """The operations on listeners."""
        self._followed = Followed()
        self.deliveries_asked = Asked(self.deliveries_due)
        self._beginnings = Beginnings()
        self._paced = Paced()
        self._signals.add(
            {
                "invoices": self.invoices_due,
                "deliveries": self.deliveries_due,
                "mails": self.mails_due,
                "asked": self.deliveries_asked,
                "followed": self._followed,
                "paced": self._paced,
                **self.listening.signals,
            }
        )
        self.accounts = AccountStore(database)
        """The operations on accounts, their keys and their secrets."""
        self.receivers = ReceiverStore(database, self._signals)
        """The operations on receivers."""
        self.history = HistoryStore(database)
        """What accounts read."""
        self._redelivering = WeakValueDictionary[str, asyncio.Lock]()
        self._process_id: int | None = None

    @property
    def is_shared(self) -> bool:
        """Whether processes on other machines may work on the same data."""
        return self._database.is_shared

    def listen(self) -> None:
        """Exchange notifications with the other processes from now on."""
        self._signals.listen()

    async def join(self, now: datetime) -> None:
        """
        Count this process among those that take leases; must be called before it takes one.

        If it is the only one, the leases of processes that were killed end now.
        """
        async with self._database.joining() as is_alone:
            if is_alone and (count := await self._write(leases.end_all, now)):
                log.info("leases.ended", extra={"fields": {"count": count}})
        if self.is_shared:
            self._process_id = await self._write(processes.register, now)

    async def leave(self, now: datetime) -> None:
        """End the leases that this process still has; it takes no more."""
        if self._process_id is not None:
            await self._write(processes.end, self._process_id, now)
            self._process_id = None

    async def beat(self, now: datetime) -> Mapping[int, int]:
        """
        Show the other processes that this one is alive; returns their beat counts, by their ids.

        If this process was taken for dead, others may have its leases: it goes on under a new id.
        """
        if self._process_id is not None:
            others = await self._write(processes.beat, self._process_id)
            if others is not None:
                return others
        outlived, self._process_id = self._process_id, await self._write(processes.register, now)
        if outlived is not None:
            # Only now: what is leased under the id of a process that has ended is free for others.
            log.warning("process.outlived", extra={"fields": {"process": outlived}})
        return {}

    async def end_process(self, process_id: int, beat_count: int, now: datetime) -> bool:
        """End the leases of another process; False if it has had a beat after *beat_count*."""
        has_ended = await self._write(processes.end, process_id, now, beat_count=beat_count)
        if has_ended:
            self._signals.send("invoices")
            self._signals.send("deliveries")
            self._signals.send("mails")
            self.money.signal_all()
        return has_ended

    async def accept(self, invoice: Invoice, leased_until: datetime | None = None) -> Acceptance:
        """
        Store *invoice* unless its account has used the id; see `invoices.accept`.

        With *leased_until* the row is committed leased, and the caller is to collect it.
        """
        item = invoice, leased_until, self._process_id
        acceptance = await self._commits.run(invoices.accept, item)
        if acceptance is Acceptance.STORED and leased_until is None:
            self._signals.send("invoices")
        return acceptance

    async def accept_begun(self, step: Step, new: Sequence[Delivery]) -> accepting.Accepted:
        """
        As `accept` the invoice of *step*, with that step, its first, and the *new* deliveries.

        Returns:
            With the acceptance, the deliveries as they were inserted: the caller is to attempt
            those that are leased. None if nothing was stored.
        """
        item = step, new, self._process_id
        acceptance, inserted = await self._commits.run(accepting.accept, item)
        if inserted is not None:
            self._signal_step(step, inserted)
        return acceptance, inserted

    async def lease_invoices(self, round_: leases.LeaseRound) -> steps.DueInvoices:
        """Lease invoices that are due for collection."""
        round_ = replace(round_, process_id=self._process_id)
        return await self._commits.run(steps.lease_due, round_)

    async def take_step(self, step: Step, new: Sequence[Delivery]) -> Sequence[Delivery] | None:
        """
        Write one step of a collection with the *new* deliveries of its event.

        Returns:
            The deliveries as they were inserted: the caller is to attempt those that are leased.
            None if the lease of the invoice was no longer held, and nothing was written.
        """
        inserted = await self._commits.run(steps.take_steps, (step, new, self._process_id))
        if inserted is not None:
            self._signal_step(step, inserted)
        return inserted

    async def report(self, step: Step, new: Sequence[Delivery]) -> Sequence[Delivery] | None:
        """
        Write a report with the *new* deliveries of its event; see `steps.report`.

        Returns:
            The deliveries as they were inserted, as `take_step` does. None if the move was not
            legal, the settlement was not new, or the lease of the mail no longer held, and the
            invoice is as it was.
        """
        item = step, new, self._process_id
        if step.settlement:
            inserted = await self.money.settle(item)
        else:
            inserted = await self._commits.run(steps.report, item)
        if inserted is not None:
            if step.event:
                self.arrivals.set_for(step.invoice.account_id)
            if step.event and (step.status is None or step.status in COLLECTING):
                # The collection has lost its lease, and goes on.
                self._signals.send("invoices")
            self._signal_unleased(inserted)
        return inserted

    async def has_mail(self, invoice: Invoice) -> bool:
        """Whether the mail of *invoice* is committed."""
        return await self._read(mails.has_mail, invoice.account_id, invoice.key)

    async def lease_mails(self, round_: leases.LeaseRound) -> mails.DueMails:
        """Lease mails that are due."""
        round_ = replace(round_, process_id=self._process_id)
        return await self._commits.run(mails.lease_due, round_)

    async def has_mail_attempt(self, attempt: MailAttempt) -> bool:
        """Whether *attempt* is recorded."""
        return await self._read(mails.has_attempt, attempt)

    async def settle_mail(self, attempt: MailAttempt) -> bool:
        """Record *attempt*, which changes nothing of the invoice; False if its lease was lost."""
        return await self._commits.run(mails.settle, attempt)

    async def release_mail(self, mail: Mail) -> bool:
        """Give up the lease of *mail* without an attempt; it stays due."""
        return await self._commits.run(mails.release, mail)

    async def find_accounts(self, after: str) -> Sequence[str]:
        """Accounts with pending deliveries; see `waiting.find_accounts`."""
        return await self._read(waiting.find_accounts, after)

    async def look_along(
        self, chains: Sequence[waiting.Chain], now: datetime
    ) -> Sequence[waiting.Waiting]:
        """The receivers with pending deliveries along *chains*."""
        found = await self._read(waiting.look_along, chains, now)
        self._beginnings.learn([one.receiver for one in found], found, now)
        return found

    async def look_at(self, names: Sequence[str], now: datetime) -> Sequence[waiting.Waiting]:
        """Those of the receivers *names* that have pending deliveries."""
        begins = self._beginnings.of(names, now)
        found = await self._read(waiting.look_at, names, now, begins)
        self._beginnings.learn(names, found, now)
        return found

    async def answered_receivers(self, since: datetime) -> Sequence[ReceiverState]:
        """The receivers that have answered *since*; see `receivers.answered`."""
        return await self._read(receivers.answered, since)

    async def lease_deliveries(self, round_: deliveries.LeaseRound) -> deliveries.DueDeliveries:
        """Lease deliveries that are due."""
        begins = self._beginnings.of(round_.limits, round_.now)
        round_ = replace(round_, process_id=self._process_id, begins=begins)
        return await self._commits.run(deliveries.lease_due, round_)

    async def settle(self, attempt: Attempt) -> bool:
        """Record *attempt* and what follows from it; False if its lease was lost."""
        # The later events of an invoice wait for it; otherwise nobody does.
        is_awaited = self._followed.knows(chain_of(attempt.delivery))
        is_settled = await self._commits.run(attempts.settle, attempt, is_awaited=is_awaited)
        if is_settled and attempt.decision.status is not DeliveryStatus.PENDING:
            delivery = attempt.delivery
            # The later events of an invoice wait for a delivery that is delivered again: then its
            # failures are counted anew, and its attempts are not.
            has_only_failures = delivery.attempt_count == delivery.failure_count
            is_again = delivery.cause is Cause.REDELIVERY or not has_only_failures
            if is_again or self._followed.take(chain_of(delivery)):
                self._signals.send("deliveries", delivery.receiver)
        return is_settled

    async def release(self, delivery: Delivery, due_at: datetime | None = None) -> bool:
        """Give up a lease without an attempt; see `deliveries.release`."""
        is_released = await self._commits.run(deliveries.release, (delivery, due_at))
        self._signals.send("deliveries", delivery.receiver)
        return is_released

    async def redeliver(
        self, account_id: str, delivery_id: str, now: datetime
    ) -> tuple[dict[str, Any], bool]:
        """
        Ask for an attempt of a delivery now; see `redelivery.redeliver`.

        Returns:
            The delivery as it is then, and whether it was changed.

        Raises:
            NotFound: if the account has no delivery of that id.
        """
        receiver = await self._write(redelivery.redeliver, account_id, delivery_id, now)
        if receiver is not None:
            self._signals.send("asked", receiver)
        return await self.history.find_delivery(account_id, delivery_id), receiver is not None

    async def cancel(
        self, account_id: str, delivery_id: str, now: datetime
    ) -> tuple[dict[str, Any], bool]:
        """
        Make a pending delivery dead, with the reason `cancelled`; see `redelivery.cancel`.

        Returns:
            The delivery as it is then, and whether it was changed.

        Raises:
            NotFound: if the account has no delivery of that id.
        """
        receiver = await self._write(redelivery.cancel, account_id, delivery_id, now)
        if receiver is not None:
            # The later events of the invoice go on.
            self._signals.send("deliveries", receiver)
        return await self.history.find_delivery(account_id, delivery_id), receiver is not None

    async def redeliver_all(
        self, account_id: str, wanted: history.DeliveryFilter, now: datetime
    ) -> AsyncIterator[int]:
        """
        Make all *wanted* deliveries pending again; yields the count of each batch.

        Each batch is committed by itself. If the caller stops, some deliveries are pending and
        the others unchanged; calling it again continues. Redeliveries of one account wait for each
        other, because their commits delay other writes.
        """
        batch = redelivery.Redelivered(0, after="")
        async with self._redelivering.setdefault(account_id, asyncio.Lock()):
            while batch.after is not None:
                batch = await self._write(
                    redelivery.redeliver_batch, account_id, wanted, now, after=batch.after
                )
                if batch.count:
                    self._signals.send("deliveries")
                yield batch.count

    def note_paced(self, account_ids: Collection[str], now: datetime) -> None:
        """Have every process know that *account_ids* exceed their attempt rate at *now*."""
        if told := self._paced.renew(account_ids, now):
            self._database.notify("paced", told)

    def is_paced(self, account_id: str, now: datetime) -> bool:
        """Whether an account exceeds its attempt rate in some process at *now*; see `paced`."""
        return self._paced.holds(account_id, now)

    def _signal_step(self, step: Step, inserted: Sequence[Delivery]) -> None:
        if step.due_at:
            self.invoices_due.set()
        if step.mail:
            self._signals.send("mails")
        if step.event:
            self.arrivals.set_for(step.invoice.account_id)
        self._signal_unleased(inserted)

    def _signal_unleased(self, inserted: Sequence[Delivery]) -> None:
        for delivery in inserted:
            if delivery.leased_until is None:
                if delivery.sequence > 1:
                    self._signals.send("followed", chain_of(delivery))
                self._signals.send("deliveries", delivery.receiver)

    # Reads, and writes in a transaction of their own

    async def invoice_by_key(self, account_id: str, key: str) -> dict[str, Any] | None:
        """One invoice by its key; `invoices.as_invoice` makes a value of it."""
        return await self._read(invoices.by_key, account_id, key)

    async def sweep(
        self, position: retention.SweepPosition, settled_before: datetime
    ) -> retention.Swept:
        """Remove some deliveries that were settled long ago; see `retention.sweep`."""
        return await self._write(retention.sweep, position, settled_before)

    async def remove_states(self, kind: str, after: str, over_before: datetime) -> str | None:
        """Remove some states of receivers or origins; see `retention.remove_states`."""
        return await self._write(retention.remove_states, kind, after, over_before)

    # Receivers by hand

    async def backlog(self, now: datetime) -> Backlog:
        """What waits to be collected and delivered; see `backlog.measure`."""
        return await self._read(backlog.measure, now)

    async def ping(self) -> None:
        """Return if the database can be used; raises StorageUnavailable otherwise."""
        await self._database.check()

    async def _read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        return await self._database.read(query, *args, **options)

    async def _browse(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """As `_read`, for what accounts read: it never delays the reads of the service itself."""
        return await self._database.browse(query, *args, **options)

    async def _write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        return await self._database.write(work, *args, **options)
