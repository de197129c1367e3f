"""
The one object through which the other rooms store and read.

It decides which work shares transactions, and announces what a commit has made due: between two
steps of an invoice's road there is only the database, a signal, and rows that were born leased.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from service.database.engine import Database
from service.database.group_commit import GroupCommit, TellCount, tell_nobody
from service.domain.states import Acceptance
from service.storage import (
    accounts,
    backlog,
    deliveries,
    history,
    invoices,
    redelivery,
    retention,
    settlements,
    steps,
)
from service.storage.backlog import Backlog
from service.storage.handover import Handover

P = ParamSpec("P")
T = TypeVar("T")

Page = tuple[list[dict[str, Any]], str | None]
"""The items of a page, and the cursor of the next one; None on the last."""


class Store:
    """
    Everything durable.

    Each method that writes returns after its commit, and raises StorageUnavailable if the
    database cannot be written to; nothing was stored then. *tell_committed* learns of every
    shared transaction how much was in it.
    """

    def __init__(self, database: Database, tell_committed: TellCount = tell_nobody) -> None:
        self._database = database
        self._commits = GroupCommit(database, tell_committed)
        self.invoices_due = asyncio.Event()
        """Set when an invoice may have become due for collection."""
        self.deliveries_due = asyncio.Event()
        """Set when a delivery may have become due."""
        self._signals = {"invoices": self.invoices_due, "deliveries": self.deliveries_due}
        # Once an invoice has had a second event, settling one delivery may make another due.
        self._have_followers = False
        self._redelivering = asyncio.Lock()
        self.to_collection: Handover[steps.LeasedInvoice] = Handover()
        self.to_dispatcher: Handover[deliveries.LeasedDelivery] = Handover()

    def listen(self) -> None:
        """From now on, take part in waking each other with the other processes."""
        self._database.listen(self._signals)

    def _tell(self, name: str) -> None:
        """Something may be due that is not in hand here: whoever has room may look."""
        self._signals[name].set()
        self._database.announce(name)

    async def accept(self, invoice: invoices.NewInvoice) -> Acceptance:
        """Store *invoice* unless its account has used the id; see `invoices.accept`."""
        origin = invoice.call.origin if invoice.call else ""
        until, row = self.to_collection.reserve(origin), None
        try:
            incoming = invoices.Incoming(invoice, until)
            acceptance = await self._commits.run(invoices.accept, incoming)
            if acceptance is Acceptance.STORED:
                row = steps.born_leased(invoice) if until else None
                if row is None:
                    self._tell("invoices")
            return acceptance
        finally:
            self.to_collection.finish(origin, until, row)

    async def lease_invoices(self, round_: steps.LeaseRound) -> steps.DueInvoices:
        """Lease invoices that are due for collection."""
        return await self._commits.run(steps.lease_due, round_)

    async def take_step(self, step: steps.Step) -> bool:
        """Write one step of a collection; False if its lease had passed on."""
        origin = step.invoice.call.origin if step.invoice.call else ""
        is_calling = bool(step.event and step.event.delivery)
        # A second event has to wait for the first: whether it is due, only the database knows.
        is_first = step.invoice.event_count == 0
        until = self.to_dispatcher.reserve(origin) if is_calling and is_first else None
        taken = steps.StepTaken(is_taken=False)
        try:
            taken = await self._commits.run(steps.take_steps, steps.StepToTake(step, until))
        finally:
            self.to_dispatcher.finish(origin, until, taken.delivery)
        if taken.is_taken:
            self._announce(step, taken)
        return taken.is_taken

    async def lease_deliveries(self, round_: deliveries.LeaseRound) -> deliveries.DueDeliveries:
        """Lease deliveries that are due."""
        return await self._commits.run(deliveries.lease_due, round_)

    async def settle(self, settlement: settlements.Settlement) -> bool:
        """Record an attempt and what it means; False if its lease had passed on."""
        is_settled = await self._commits.run(settlements.settle, settlement)
        if is_settled and (self._have_followers or settlement.due_at):
            self.deliveries_due.set()
        return is_settled

    async def release(self, delivery: deliveries.LeasedDelivery) -> bool:
        """Give a lease back unused; False if it had passed on."""
        is_released = await self._commits.run(deliveries.release, delivery)
        self._tell("deliveries")
        return is_released

    def _announce(self, step: steps.Step, taken: steps.StepTaken) -> None:
        if step.due_at:
            self.invoices_due.set()
        if step.event and step.event.delivery and not taken.delivery:
            self._have_followers |= bool(step.invoice.event_count)
            self._tell("deliveries")

    async def find_invoice(self, account_id: str, invoice_id: str) -> dict[str, Any]:
        """One invoice with its events, or NotFound."""
        return await self._read(invoices.find, account_id, invoice_id)

    async def list_invoices(
        self, account_id: str, *, status: str | None, after: str | None, limit: int
    ) -> Page:
        """A page of invoices, newest first, and the cursor of the next one."""
        return await self._read(
            invoices.list_invoices, account_id, status=status, after=after, limit=limit
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

    async def redeliver(
        self, account_id: str, delivery_id: str, now: datetime
    ) -> tuple[dict[str, Any], bool]:
        """
        Make a settled delivery pending again, or NotFound; see `redelivery.redeliver`.

        Returns:
            The delivery as it is then, and whether that changed it.
        """
        is_redelivered = await self._write(redelivery.redeliver, account_id, delivery_id, now)
        self._redelivered(1 if is_redelivered else 0)
        return await self.find_delivery(account_id, delivery_id), is_redelivered

    async def redeliver_all(
        self, account_id: str, wanted: history.DeliveryFilter, now: datetime
    ) -> AsyncIterator[int]:
        """
        Make all *wanted* deliveries pending again, and give the count of each batch.

        One batch after the other is committed. If that is interrupted, some are pending and the
        others as they were: who asks again gets the others. One filter at a time: each keeps
        others waiting for its commits.
        """
        batch = redelivery.Redelivered(0, after="")
        async with self._redelivering:
            while batch.after is not None:
                batch = await self._write(
                    redelivery.redeliver_batch, account_id, wanted, now, after=batch.after
                )
                self._redelivered(batch.count)
                yield batch.count

    def _redelivered(self, count: int) -> None:
        if count:
            # The later events of an invoice wait for the earlier ones again.
            self._have_followers = True
            self._tell("deliveries")

    async def sweep(self, place: retention.SweepPlace, settled_before: datetime) -> retention.Swept:
        """Remove some deliveries that were settled long ago; see `retention.sweep`."""
        return await self._write(retention.sweep, place, settled_before)

    async def forget_holds(self, after: str, over_before: datetime) -> str | None:
        """Forget some origins whose hold was over long ago; see `retention.forget_holds`."""
        return await self._write(retention.forget_holds, after, over_before)

    async def add_account(self, account: accounts.Account, new: accounts.Credentials) -> bool:
        """Add an account; False if its name is taken."""
        return await self._write(accounts.add, account, new)

    async def add_first_account(self, account: accounts.Account, new: accounts.Credentials) -> bool:
        """Add an account unless there is any."""
        return await self._write(accounts.add_first, account, new)

    async def rotate(
        self, account_id: str, new: accounts.Credentials, *, now: datetime, until: datetime
    ) -> None:
        """Add credentials; those of the same kind that there are expire at *until*."""
        await self._write(accounts.rotate, account_id, new, now=now, until=until)

    async def disable_account(self, account_id: str, now: datetime) -> None:
        """Let an account in no more."""
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

    async def secrets_of(
        self, account_id: str, now: datetime
    ) -> list[tuple[bytes, datetime | None]]:
        """The encrypted secrets of an account, and until when each is valid."""
        return await self._read(accounts.secrets_of, account_id, now)

    async def all_secrets(self, now: datetime) -> list[bytes]:
        """The encrypted secrets of all accounts that are valid."""
        return await self._read(accounts.all_secrets, now)

    async def backlog(self, now: datetime) -> Backlog:
        """What waits to be collected and delivered; see `backlog.measure`."""
        return await self._read(backlog.measure, now)

    async def ping(self) -> None:
        """Return if the database can be worked with; raises StorageUnavailable otherwise."""
        await self._database.check()

    async def _read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        return await self._database.read(lambda tx: query(tx, *args, **options))

    async def _write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """What is done now and then, in a transaction of its own."""
        return await self._database.write(lambda tx: work(tx, *args, **options))
