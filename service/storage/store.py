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
from service.database.engine import Database, Wakes
from service.database.group_commit import GroupCommit, ObserveSize
from service.domain.attempt_counts import Hour
from service.domain.delivery import Attempt, Delivery, ReceiverState
from service.domain.explanation import DeliveryFacts, InvoiceFacts
from service.domain.invoice import Invoice, Step
from service.domain.mail import Mail, MailAttempt
from service.domain.notices import Notice
from service.domain.receivers import KnownReceiver
from service.domain.states import COLLECTING, Acceptance, Cause, DeliveryStatus
from service.loops import Signal
from service.storage import (
    accounts,
    attempts,
    backlog,
    deliveries,
    explaining,
    feed,
    gates,
    history,
    invoices,
    leases,
    mails,
    notices,
    observations,
    processes,
    receiver_hours,
    receiver_list,
    receivers,
    redelivery,
    retention,
    steps,
    stripe_keys,
    waiting,
)
from service.storage.arrivals import Arrivals
from service.storage.backlog import Backlog
from service.storage.beginnings import Beginnings
from service.storage.console import ConsoleStore
from service.storage.listening import ListeningStore
from service.storage.money import MoneyStore
from service.storage.paced import Paced

log = logging.getLogger("invoices.storage")

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE: AtOnceByWork = {
    invoices.accept: invoices.accept_at_once,
    steps.take_steps: steps.take_steps_at_once,
    attempts.settle: attempts.settle_at_once,
    deliveries.release: deliveries.release_at_once,
}
"""What one statement does where a database takes such: see `database.at_once`."""

FOLLOWED_MAX = 10_000
"""Callbacks with a later event that are remembered; for the others, the loops poll."""


def _chain_of(delivery: Delivery) -> str:
    """Which deliveries wait for each other: those of one callback of an invoice."""
    return f"{delivery.invoice_key} {delivery.callback}"


class Followed:
    """
    Callbacks of invoices with an event whose delivery waits for an earlier one; see `_chain_of`.

    When that one is settled, another process may be the one that holds it. So all processes are
    told.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def set(self) -> None:
        """Do nothing: which ones are followed is not known."""

    def set_for(self, keys: Collection[str]) -> None:
        """Each of *keys* has one more event that waits."""
        for key in keys:
            self._counts[key] = self._counts.get(key, 0) + 1
        while len(self._counts) > FOLLOWED_MAX:
            del self._counts[next(iter(self._counts))]

    def knows(self, key: str) -> bool:
        """Whether an event waits there."""
        return key in self._counts

    def take(self, key: str) -> bool:
        """Whether an event waited there; it waits no longer."""
        count = self._counts.pop(key, 0)
        if count > 1:
            self._counts[key] = count - 1
        return count > 0


class Asked:
    """
    Receivers that are looked at whatever is known of them; wakes the loop with *due*.

    Somebody has asked for an attempt by hand, has paused or has resumed.
    """

    def __init__(self, due: Signal) -> None:
        self._due = due
        self._names = set[str]()

    def set(self) -> None:
        """Wake the loop: what was asked for is found with all that is due."""
        self._due.set()

    def set_for(self, names: Collection[str]) -> None:
        """Something was asked for by hand of the receivers *names*."""
        self._names.update(names)
        self._due.wake()

    def put_back(self, names: Collection[str]) -> None:
        """Keep *names* for the next call of `take`; the loop is not woken."""
        self._names.update(names)

    def take(self) -> Sequence[str]:
        """The names since the last call."""
        taken, self._names = sorted(self._names), set()
        return taken


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
        self.money = MoneyStore(database)
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
        self._signals: dict[str, Wakes] = {
            "invoices": self.invoices_due,
            "deliveries": self.deliveries_due,
            "mails": self.mails_due,
            "asked": self.deliveries_asked,
            "followed": self._followed,
            "paced": self._paced,
            **self.money.signals,
            **self.listening.signals,
        }
        self._redelivering = WeakValueDictionary[str, asyncio.Lock]()
        self._process_id: int | None = None

    @property
    def is_shared(self) -> bool:
        """Whether processes on other machines may work on the same data."""
        return self._database.is_shared

    def listen(self) -> None:
        """Exchange notifications with the other processes from now on."""
        self._database.listen(self._signals)

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
            log.warning("process.outlived", extra={"fields": {"process": self._process_id}})
        self._process_id = await self._write(processes.register, now)
        return {}

    async def end_process(self, process_id: int, beat_count: int, now: datetime) -> bool:
        """End the leases of another process; False if it has had a beat after *beat_count*."""
        has_ended = await self._write(processes.end, process_id, now, beat_count=beat_count)
        if has_ended:
            self._signal("invoices")
            self._signal("deliveries")
            self._signal("mails")
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
            self._signal("invoices")
        return acceptance

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
            if step.due_at:
                self.invoices_due.set()
            if step.mail:
                self._signal("mails")
            if step.event:
                self.arrivals.set_for(step.invoice.account_id)
            self._signal_unleased(inserted)
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
                self._signal("invoices")
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
        is_awaited = self._followed.knows(_chain_of(attempt.delivery))
        is_settled = await self._commits.run(attempts.settle, attempt, is_awaited=is_awaited)
        if is_settled and attempt.decision.status is not DeliveryStatus.PENDING:
            delivery = attempt.delivery
            # The later events of an invoice wait for a delivery that is delivered again: then its
            # failures are counted anew, and its attempts are not.
            has_only_failures = delivery.attempt_count == delivery.failure_count
            is_again = delivery.cause is Cause.REDELIVERY or not has_only_failures
            if is_again or self._followed.take(_chain_of(delivery)):
                self._signal("deliveries", delivery.receiver)
        return is_settled

    async def release(self, delivery: Delivery, due_at: datetime | None = None) -> bool:
        """Give up a lease without an attempt; see `deliveries.release`."""
        is_released = await self._commits.run(deliveries.release, (delivery, due_at))
        self._signal("deliveries", delivery.receiver)
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
            self._signal("asked", receiver)
        return await self.find_delivery(account_id, delivery_id), receiver is not None

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
            self._signal("deliveries", receiver)
        return await self.find_delivery(account_id, delivery_id), receiver is not None

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
                    self._signal("deliveries")
                yield batch.count

    def note_paced(self, account_ids: Collection[str], now: datetime) -> None:
        """Have every process know that *account_ids* exceed their attempt rate at *now*."""
        if told := self._paced.renew(account_ids, now):
            self._database.notify("paced", told)

    def is_paced(self, account_id: str, now: datetime) -> bool:
        """Whether an account exceeds its attempt rate in some process at *now*; see `paced`."""
        return self._paced.holds(account_id, now)

    def _signal(self, name: str, *names: str) -> None:
        """Wake the loops of every process, because a row is due that is not leased."""
        self._signals[name].set_for(names)
        self._database.notify(name, names)

    def _signal_unleased(self, inserted: Sequence[Delivery]) -> None:
        for delivery in inserted:
            if delivery.leased_until is None:
                if delivery.sequence > 1:
                    self._signal("followed", _chain_of(delivery))
                self._signal("deliveries", delivery.receiver)

    # Reads, and writes in a transaction of their own

    async def find_invoice(self, account_id: str, invoice_id: str) -> dict[str, Any]:
        """One invoice with its events, or NotFound."""
        return await self._browse(invoices.find, account_id, invoice_id)

    async def invoice_by_key(self, account_id: str, key: str) -> dict[str, Any] | None:
        """One invoice by its key; `invoices.as_invoice` makes a value of it."""
        return await self._read(invoices.by_key, account_id, key)

    async def mails_of(self, account_id: str, invoice_id: str) -> list[dict[str, Any]]:
        """The mails of one invoice, newest first, or NotFound."""
        return await self._browse(mails.of_invoice, account_id, invoice_id)

    async def list_invoices(
        self,
        account_id: str,
        *,
        status: str | None,
        after: str | None,
        limit: int,
        invoice_id: str | None = None,
    ) -> history.Page:
        """A page of invoices, newest first, and the cursor of the next one."""
        return await self._browse(
            invoices.list_invoices,
            account_id,
            status=status,
            after=after,
            limit=limit,
            invoice_id=invoice_id,
        )

    async def find_delivery(self, account_id: str, delivery_id: str) -> dict[str, Any]:
        """One delivery with its attempts, or NotFound."""
        return await self._browse(history.find, account_id, delivery_id)

    async def deliveries_of(
        self, account_id: str, invoice_id: str, *, after: str | None = None, limit: int = 50
    ) -> history.Page:
        """A page of the deliveries of one invoice, newest first, and the cursor, or NotFound."""
        return await self._browse(
            history.of_invoice, account_id, invoice_id, after=after, limit=limit
        )

    async def list_deliveries(
        self, account_id: str, wanted: history.DeliveryFilter, *, after: str | None, limit: int
    ) -> history.Page:
        """A page of deliveries, newest first, and the cursor of the next one."""
        return await self._browse(
            history.list_deliveries, account_id, wanted, after=after, limit=limit
        )

    async def feed(self, account_id: str, *, after: str | None, limit: int) -> feed.FeedPage:
        """A page of what happened to the invoices of an account, oldest first; see `feed.page`."""
        return await self._browse(feed.page, account_id, after=after, limit=limit)

    async def feed_heads(self, account_ids: Sequence[str]) -> Mapping[str, int]:
        """The newest position of each account; see `feed.heads`."""
        return await self._read(feed.heads, account_ids)

    async def facts_of_delivery(self, account_id: str, delivery_id: str) -> DeliveryFacts:
        """What explains why a delivery has come or not, or NotFound."""
        return await self._browse(explaining.delivery_facts, account_id, delivery_id)

    async def facts_of_invoice(self, account_id: str, invoice_id: str) -> InvoiceFacts:
        """What explains why the callback of an invoice has come or not, or NotFound."""
        return await self._browse(explaining.invoice_facts, account_id, invoice_id)

    async def count_open(self, account_id: str, most: int) -> int:
        """How many deliveries of an account are pending, up to *most*."""
        return await self._browse(backlog.count_open, account_id, most)

    async def sweep(
        self, position: retention.SweepPosition, settled_before: datetime
    ) -> retention.Swept:
        """Remove some deliveries that were settled long ago; see `retention.sweep`."""
        return await self._write(retention.sweep, position, settled_before)

    async def remove_states(self, kind: str, after: str, over_before: datetime) -> str | None:
        """Remove some states of receivers or origins; see `retention.remove_states`."""
        return await self._write(retention.remove_states, kind, after, over_before)

    async def add_account(self, account: accounts.Account, new: accounts.Credentials) -> bool:
        """Add an account; False if its name is taken."""
        return await self._write(accounts.add, account, new)

    async def add_first_account(self, account: accounts.Account, new: accounts.Credentials) -> bool:
        """Add an account unless there is any."""
        return await self._write(accounts.add_first, account, new)

    async def rotate(
        self, account_id: str, new: accounts.Credentials, *, now: datetime, until: datetime
    ) -> None:
        """Add credentials; the present ones of the same kind expire at *until*."""
        await self._write(accounts.rotate, account_id, new, now=now, until=until)

    async def disable_account(self, account_id: str, now: datetime) -> None:
        """Reject the keys of the account from now on."""
        await self._write(accounts.disable, account_id, now)

    async def set_email(self, account_id: str, email: str | None) -> None:
        """Let notices of the account go to *email*; None is nowhere."""
        await self._write(accounts.set_email, account_id, email)

    async def find_account(self, name: str) -> accounts.Account | None:
        """The account of that name."""
        return await self._read(accounts.find, name)

    async def list_accounts(self, now: datetime) -> list[dict[str, Any]]:
        """Every account, with the prefixes of its keys."""
        return await self._read(accounts.list_accounts, now)

    async def find_key(self, prefix: str, now: datetime) -> accounts.StoredKey | None:
        """The key with that prefix, if it is valid."""
        return await self._read(accounts.find_key, prefix, now)

    async def find_pay_key(self, account_id: str) -> accounts.PayKey | None:
        """The pay key of an account, if it has one."""
        return await self._read(accounts.find_pay_key, account_id)

    async def find_pay_key_by_prefix(self, prefix: str) -> accounts.PayKey | None:
        """The pay key with that prefix."""
        return await self._read(accounts.find_pay_key_by_prefix, prefix)

    async def add_pay_key(self, new: accounts.PayKey, now: datetime) -> accounts.PayKey:
        """Give an account a pay key, unless it has one; returns the one that it has then."""
        return await self._write(accounts.add_pay_key, new, now)

    async def secrets_of(
        self, account_id: str, now: datetime
    ) -> list[tuple[bytes, datetime | None]]:
        """The encrypted secrets of an account, and until when each is valid."""
        return await self._read(accounts.secrets_of, account_id, now)

    async def all_secrets(self, now: datetime) -> list[bytes]:
        """The encrypted secrets of all accounts that are valid, keys of Stripe included."""
        return [
            *await self._read(accounts.all_secrets, now),
            *await self._read(stripe_keys.find_all),
        ]

    async def renew_secrets(self, renew: Callable[[bytes], bytes], now: datetime) -> int:
        """Replace all ciphertexts by what *renew* makes of them; returns how many there are."""
        return await self._write(accounts.renew_secrets, renew, now)

    async def put_stripe_keys(self, account_id: str, ciphertext: bytes, now: datetime) -> None:
        """Store the encrypted keys of Stripe of an account in place of those that it has."""
        await self._write(stripe_keys.put, account_id, ciphertext, now)

    async def stripe_keys_of(self, account_id: str) -> bytes | None:
        """The encrypted keys of Stripe of an account, if it has any."""
        return await self._read(stripe_keys.find, account_id)

    # Receivers by hand

    async def list_receivers(
        self, account_id: str, now: datetime, *, after: str | None, limit: int
    ) -> receiver_list.Page:
        """A page of receivers by their URLs, and the cursor of the next one."""
        return await self._browse(
            receiver_list.list_receivers, account_id, now, after=after, limit=limit
        )

    async def find_receiver(
        self, account_id: str, receiver_id: str, now: datetime
    ) -> KnownReceiver:
        """One receiver, or NotFound."""
        return await self._browse(receiver_list.find, account_id, receiver_id, now)

    async def receiver_series(
        self, account_id: str, receiver_id: str, now: datetime
    ) -> tuple[KnownReceiver, Sequence[Hour]]:
        """One receiver and its last 24 hours in order, or NotFound."""
        return await self._browse(receiver_list.series_of, account_id, receiver_id, now)

    async def pause_receiver(self, known: KnownReceiver, now: datetime) -> bool:
        """Give a receiver no attempts from now on; False if it is paused already."""
        is_changed = await self._write(gates.pause, known.receiver, known.origin, now)
        # What is leased and not in flight is given back.
        self._signal("asked", known.receiver)
        return is_changed

    async def resume_receiver(self, known: KnownReceiver) -> bool:
        """Give a paused receiver attempts again; False if it is not paused."""
        is_changed = await self._write(gates.resume, known.receiver)
        self._signal("asked", known.receiver)
        return is_changed

    async def add_test_event(self, delivery: Delivery) -> None:
        """Insert the *delivery* of a test event, which was asked for by hand."""
        await self._write(deliveries.insert, [delivery])
        self._signal("asked", delivery.receiver)

    async def observe(self, observed: Sequence[observations.Observation]) -> None:
        """Store what attempts have shown beside what was stored with them."""
        await self._write(observations.record, observed)

    async def due_notices(self, now: datetime) -> Sequence[Notice]:
        """Notices that accounts are to be given; see `notices.find_due`."""
        return await self._read(notices.find_due, now)

    async def give_notices(self, items: Sequence[notices.NoticeToGive]) -> Sequence[Notice]:
        """Record notices with their mails; returns those that were still due."""
        given = await self._write(notices.give, items)
        if given:
            self._signal("mails")
        return given

    async def remove_old_hours(self, now: datetime) -> bool:
        """Remove some counts that are no longer told; False if there were none."""
        return await self._write(receiver_hours.remove_old, now)

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
