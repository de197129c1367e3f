"""
The store: it decides which writes share transactions, and which signals follow a commit.

It calls no loop. A loop that has free capacity calls the store with `leased_until`, and itself
starts work on the row that was committed with a lease. For every other due row the store sets a
signal.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from service.database.engine import Database
from service.database.group_commit import GroupCommit, ObserveSize
from service.domain.delivery import Attempt, Delivery
from service.domain.invoice import Invoice, Step
from service.domain.mail import Mail, MailAttempt
from service.domain.states import Acceptance, DeliveryStatus
from service.storage import (
    accounts,
    attempts,
    backlog,
    deliveries,
    history,
    invoices,
    leases,
    mails,
    redelivery,
    retention,
    steps,
    stripe_keys,
)
from service.storage.backlog import Backlog
from service.storage.money import MoneyStore

log = logging.getLogger("invoices.storage")

P = ParamSpec("P")
T = TypeVar("T")

Page = tuple[list[dict[str, Any]], str | None]
"""The items of a page, and the cursor of the next one; None on the last."""


class Store:
    """
    All operations on the stored data.

    Each method that writes returns after its commit. It raises StorageUnavailable if the database
    cannot be written to; nothing was stored then. *observe_size* is called after each shared
    transaction with the number of items in it.
    """

    def __init__(self, database: Database, observe_size: ObserveSize = lambda _size: None) -> None:
        self._database = database
        self._commits = GroupCommit(database, observe_size)
        self.invoices_due = asyncio.Event()
        """Set when an invoice may have become due for collection."""
        self.deliveries_due = asyncio.Event()
        """Set when a delivery may have become due."""
        self.mails_due = asyncio.Event()
        """Set when a mail may have become due."""
        self.money = MoneyStore(database)
        """The operations on checkouts, payments and refunds."""
        self._signals = {
            "invoices": self.invoices_due,
            "deliveries": self.deliveries_due,
            "mails": self.mails_due,
            **self.money.signals,
        }
        # Once an invoice has had a second event, settling one delivery may make another due.
        self._have_followers = False
        self._redelivering = WeakValueDictionary[str, asyncio.Lock]()

    def listen(self) -> None:
        """Exchange notifications with the other processes from now on."""
        self._database.listen(self._signals)

    async def end_stale_leases(self, now: datetime) -> None:
        """
        End the leases of processes that were killed, if this is the only one that takes any.

        Must be called before this process takes a lease. If there are others, the leases run out.
        """
        async with self._database.joining() as is_alone:
            if is_alone and (count := await self._write(leases.end_all, now)):
                log.info("leases.ended", extra={"fields": {"count": count}})

    async def accept(self, invoice: Invoice, leased_until: datetime | None = None) -> Acceptance:
        """
        Store *invoice* unless its account has used the id; see `invoices.accept`.

        With *leased_until* the row is committed leased, and the caller is to collect it.
        """
        acceptance = await self._commits.run(invoices.accept, (invoice, leased_until))
        if acceptance is Acceptance.STORED and leased_until is None:
            self._signal("invoices")
        return acceptance

    async def lease_invoices(self, round_: steps.LeaseRound) -> steps.DueInvoices:
        """Lease invoices that are due for collection."""
        return await self._commits.run(steps.lease_due, round_)

    async def take_step(self, step: Step, new: Sequence[Delivery]) -> Sequence[Delivery] | None:
        """
        Write one step of a collection with the *new* deliveries of its event.

        Returns:
            The deliveries as they were inserted: the caller is to attempt those that are leased.
            None if the lease of the invoice was no longer held, and nothing was written.
        """
        inserted = await self._commits.run(steps.take_steps, (step, new))
        if inserted is not None:
            if step.due_at:
                self.invoices_due.set()
            if step.mail:
                self._signal("mails")
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
        if step.settlement:
            inserted = await self.money.settle(step, new)
        else:
            inserted = await self._commits.run(steps.report, (step, new))
        if inserted is not None:
            self._signal("invoices")
            self._signal_unleased(inserted)
        return inserted

    async def has_mail(self, invoice: Invoice) -> bool:
        """Whether the mail of *invoice* is committed."""
        return await self._read(mails.has_mail, invoice.account_id, invoice.key)

    async def lease_mails(self, round_: mails.LeaseRound) -> mails.DueMails:
        """Lease mails that are due."""
        return await self._commits.run(mails.lease_due, round_)

    async def settle_mail(self, attempt: MailAttempt) -> bool:
        """Record *attempt*, which changes nothing of the invoice; False if its lease was lost."""
        return await self._commits.run(mails.settle, attempt)

    async def release_mail(self, mail: Mail) -> bool:
        """Give up the lease of *mail* without an attempt; it stays due."""
        return await self._commits.run(mails.release, mail)

    async def lease_deliveries(self, round_: deliveries.LeaseRound) -> deliveries.DueDeliveries:
        """Lease deliveries that are due."""
        return await self._commits.run(deliveries.lease_due, round_)

    async def settle(self, attempt: Attempt) -> bool:
        """Record *attempt* and what follows from it; False if its lease was lost."""
        is_settled = await self._commits.run(attempts.settle, attempt)
        if is_settled and (
            self._have_followers or attempt.decision.status is DeliveryStatus.PENDING
        ):
            self.deliveries_due.set()
        return is_settled

    async def release(self, delivery: Delivery, due_at: datetime | None = None) -> bool:
        """Give up a lease without an attempt; see `deliveries.release`."""
        is_released = await self._commits.run(deliveries.release, (delivery, due_at))
        self._signal("deliveries")
        return is_released

    async def redeliver(
        self, account_id: str, delivery_id: str, now: datetime
    ) -> tuple[dict[str, Any], bool]:
        """
        Make a settled delivery pending again; see `redelivery.redeliver`.

        Returns:
            The delivery as it is then, and whether it was changed.

        Raises:
            NotFound: if the account has no delivery of that id.
        """
        is_redelivered = await self._write(redelivery.redeliver, account_id, delivery_id, now)
        self._signal_redelivered(1 if is_redelivered else 0)
        return await self.find_delivery(account_id, delivery_id), is_redelivered

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
                self._signal_redelivered(batch.count)
                yield batch.count

    def _signal(self, name: str) -> None:
        """Wake the loops of every process, because a row is due that is not leased."""
        self._signals[name].set()
        self._database.notify(name)

    def _signal_unleased(self, inserted: Sequence[Delivery]) -> None:
        for delivery in inserted:
            if delivery.leased_until is None:
                self._have_followers |= delivery.sequence > 1
                self._signal("deliveries")

    def _signal_redelivered(self, count: int) -> None:
        if count:
            # The later events of the invoices wait for these deliveries again.
            self._have_followers = True
            self._signal("deliveries")

    # Reads, and writes in a transaction of their own

    async def find_invoice(self, account_id: str, invoice_id: str) -> dict[str, Any]:
        """One invoice with its events, or NotFound."""
        return await self._read(invoices.find, account_id, invoice_id)

    async def invoice_by_key(self, account_id: str, key: str) -> dict[str, Any] | None:
        """One invoice by its key; `invoices.as_invoice` makes a value of it."""
        return await self._read(invoices.by_key, account_id, key)

    async def mails_of(self, account_id: str, invoice_id: str) -> list[dict[str, Any]]:
        """The mails of one invoice, newest first, or NotFound."""
        return await self._read(mails.of_invoice, account_id, invoice_id)

    async def list_invoices(
        self,
        account_id: str,
        *,
        status: str | None,
        after: str | None,
        limit: int,
        invoice_id: str | None = None,
    ) -> Page:
        """A page of invoices, newest first, and the cursor of the next one."""
        return await self._read(
            invoices.list_invoices,
            account_id,
            status=status,
            after=after,
            limit=limit,
            invoice_id=invoice_id,
        )

    async def find_delivery(self, account_id: str, delivery_id: str) -> dict[str, Any]:
        """One delivery with its attempts, or NotFound."""
        return await self._read(history.find, account_id, delivery_id)

    async def deliveries_of(self, account_id: str, invoice_id: str) -> list[dict[str, Any]]:
        """The deliveries of one invoice, newest first, or NotFound."""
        return await self._read(history.of_invoice, account_id, invoice_id)

    async def list_deliveries(
        self, account_id: str, wanted: history.DeliveryFilter, *, after: str | None, limit: int
    ) -> Page:
        """A page of deliveries, newest first, and the cursor of the next one."""
        return await self._read(
            history.list_deliveries, account_id, wanted, after=after, limit=limit
        )

    async def sweep(
        self, position: retention.SweepPosition, settled_before: datetime
    ) -> retention.Swept:
        """Remove some deliveries that were settled long ago; see `retention.sweep`."""
        return await self._write(retention.sweep, position, settled_before)

    async def remove_holds(self, after: str, over_before: datetime) -> str | None:
        """Remove some holds that were over long ago; see `retention.remove_holds`."""
        return await self._write(retention.remove_holds, after, over_before)

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

    async def put_stripe_keys(self, account_id: str, ciphertext: bytes, now: datetime) -> None:
        """Store the encrypted keys of Stripe of an account in place of those that it has."""
        await self._write(stripe_keys.put, account_id, ciphertext, now)

    async def stripe_keys_of(self, account_id: str) -> bytes | None:
        """The encrypted keys of Stripe of an account, if it has any."""
        return await self._read(stripe_keys.find, account_id)

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

    async def _write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        return await self._database.write(work, *args, **options)
