"""
The operations on checkouts, payments, refunds and webhooks, and the signals that follow a commit.

They are part of the store; no two of them share a transaction, since money moves rarely.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from service.database.engine import Database
from service.domain.delivery import Delivery
from service.domain.payment import Checkout, Payment, Refund
from service.loops import Signal
from service.storage import checkouts, payments, webhooks
from service.storage.signals import Signals
from service.storage.steps import StepToTake
from service.storage.webhooks import Webhook

P = ParamSpec("P")
T = TypeVar("T")

CHECKOUTS, PAYMENTS = "checkouts", "payments"
"""The names of the signals."""


class MoneyStore:
    """
    All operations on the money of invoices.

    Each method that writes returns after its commit. It raises StorageUnavailable if the database
    cannot be written to; nothing was stored then.
    """

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals
        self.checkouts_due = Signal()
        """Set when a checkout may have become due."""
        self.payments_due = Signal()
        """Set when a payment may have become due."""
        signals.add({CHECKOUTS: self.checkouts_due, PAYMENTS: self.payments_due})

    async def begin_checkout(self, new: Checkout) -> Checkout | None:
        """The checkout of an invoice that can be paid; see `checkouts.begin`."""
        return await self._write(checkouts.begin, new)

    async def active_checkout(self, account_id: str, invoice_key: str) -> Checkout | None:
        """The checkout of an invoice that has not ended; None if there is none."""
        return await self._database.read(checkouts.find_active, account_id, invoice_key)

    async def lease_checkouts(
        self, now: datetime, until: datetime, limit: int
    ) -> list[checkouts.DueCheckout]:
        """Lease checkouts that are due until *until*."""
        return await self._write(checkouts.lease_due, now, until, limit)

    async def checkout_opened(
        self, known: Checkout, session_id: str, url: str | None, due_at: datetime
    ) -> Checkout | None:
        """Record that the collector has *known*; returns it as it is then."""
        return await self._write(checkouts.opened, known, session_id, url, due_at)

    async def checkout_failed(self, known: Checkout) -> None:
        """Record that a failure is stored for the idempotency key of *known*."""
        await self._write(checkouts.failed, known)

    async def checkout_is_processing(self, known: Checkout) -> None:
        """Record that the money of *known* is on its way."""
        await self._write(checkouts.is_processing, known)

    async def close_checkout(self, known: Checkout, due_at: datetime | None = None) -> None:
        """Record that *known* has ended without money; see `checkouts.close`."""
        await self._write(checkouts.close, known, due_at)

    async def checkout_looked_at(
        self, known: Checkout, due_at: datetime | None, failing_since: datetime | None
    ) -> None:
        """Record when to ask about *known* next; see `checkouts.looked_at`."""
        await self._write(checkouts.looked_at, known, due_at, failing_since)

    async def settle(self, item: StepToTake) -> Sequence[Delivery] | None:
        """Record a settlement with the report about it; see `payments.settle`."""
        return await self._write(payments.settle, item)

    async def request_refund(
        self, asked: payments.RefundRequest, sandbox_payment: Payment | None
    ) -> list[Refund]:
        """Record that money is to be given back; see `payments.request_refund`."""
        parts = await self._write(payments.request_refund, asked, sandbox_payment)
        self._signals.send(PAYMENTS)
        return parts

    async def refund_failed(self, known: Refund) -> None:
        """Record that a failure is stored for the idempotency key of *known*."""
        await self._write(payments.failed, known)

    async def lease_payments(
        self, now: datetime, until: datetime, limit: int
    ) -> list[payments.DuePayment]:
        """Lease payments that are due until *until*."""
        return await self._write(payments.lease_due, now, until, limit)

    async def payment_looked_at(
        self, known: Payment, due_at: datetime | None, failing_since: datetime | None
    ) -> None:
        """Record when to ask about *known* next; see `payments.looked_at`."""
        await self._write(payments.looked_at, known, due_at, failing_since)

    async def take_webhook(self, account_id: str, webhook: Webhook, now: datetime) -> bool:
        """Remember a webhook, and make due what it is about; False if it was taken before."""
        is_new = await self._write(webhooks.take, account_id, webhook, now)
        if is_new:
            self._signals.send(CHECKOUTS)
            self._signals.send(PAYMENTS)
        return is_new

    async def remove_webhooks(self, before: datetime) -> bool:
        """Remove some webhooks that were taken long ago; False if none is left."""
        return await self._write(webhooks.remove_old, before)

    def signal_all(self) -> None:
        """Wake the loops of every process: another process may have left something."""
        self._signals.send(CHECKOUTS)
        self._signals.send(PAYMENTS)

    async def _write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        return await self._database.write(work, *args, **options)
