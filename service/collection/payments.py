"""
The loop that gives money back, and learns what has become of payments: refunds and disputes.

What an API user asks for is committed first; this loop asks the collector until it has ended. The
collector is asked again and again for the same refund, with the same key.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from service.clock import Clock
from service.collection.collector import Collector
from service.collection.events import EventOf, Record
from service.collection.looking import LookingLoop, next_wait
from service.domain.invoice import Invoice, Step
from service.domain.payment import (
    PaymentKind,
    Refund,
    RefundStatus,
    SettledRefund,
    Settlement,
    WonDispute,
)
from service.domain.states import InvoiceStatus
from service.errors import CollectorUnavailable
from service.localization import decimals_of
from service.storage.payments import DuePayment
from service.storage.store import Store
from service.telemetry.metrics import Metrics

LEASE = timedelta(minutes=1)
"""How long one look may take. After a crash, a payment waits this long at most."""

IDLE_POLL = timedelta(seconds=15)
"""The longest wait between two rounds: a refund that is asked for is signalled."""

PENDING_WAIT = timedelta(minutes=1)
"""When a refund that is on its way is asked about again."""

DISPUTE_WAIT = timedelta(hours=1)
"""When an open dispute is asked about again; it takes weeks, and a webhook tells its end."""


class Payments(LookingLoop[DuePayment]):
    """Has *collector* give money back, and reports what has become of payments with *record*."""

    def __init__(
        self,
        store: Store,
        collector: Collector,
        record: Record,
        event_of: EventOf,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        super().__init__("payment", clock, store.money.payments_due)
        self._money = store.money
        self._collector = collector
        self._record = record
        self._event_of = event_of
        self._metrics = metrics

    @property
    def idle_wait(self) -> timedelta:
        """The longest wait between two rounds."""
        return IDLE_POLL

    async def lease(self, now: datetime, limit: int) -> Sequence[DuePayment]:
        """Lease payments that are due."""
        return await self._money.lease_payments(now, now + LEASE, limit)

    def log_fields(self, due: DuePayment) -> dict[str, Any]:
        """The ids of a payment, its invoice and its account."""
        return {
            "payment_id": due.payment.id,
            "invoice_id": due.invoice.id,
            "account_id": due.payment.account_id,
        }

    async def look(self, due: DuePayment) -> None:
        """Look at one payment that is leased, and say when to look again."""
        payment, now = due.payment, self.clock.now()
        try:
            ask_at = await self._ask(due, now)
        except CollectorUnavailable as error:
            self.unanswered(due, payment.failing_since, error)
            since = payment.failing_since or now
            due_at = now + next_wait(PENDING_WAIT, now - since)
            await self._money.payment_looked_at(payment, due_at, since)
        else:
            await self._money.payment_looked_at(payment, ask_at, None)

    async def _ask(self, due: DuePayment, now: datetime) -> datetime | None:
        """Record what the collector tells of a payment; returns when to ask again, if ever."""
        payment = due.payment
        refunds, is_current = {one.id: one for one in due.refunds}, True
        for find in (self._collector.give_back, self._collector.given_back_elsewhere):
            for refund in await find(due):
                is_current &= await self._settle(due, refund, refunds.values())
                refunds[refund.id] = refund
        is_won = await self._collector.is_won(payment) if payment.dispute_id else None
        if payment.dispute_id and payment.kind is PaymentKind.TOTAL:
            await self._report_dispute(due.invoice, is_won, refunds.values())
        if not is_current or any(one.status is RefundStatus.PENDING for one in refunds.values()):
            return now + PENDING_WAIT
        return now + DISPUTE_WAIT if payment.dispute_id and is_won is None else None

    async def _settle(self, due: DuePayment, refund: Refund, known: Iterable[Refund]) -> bool:
        """Record that *refund* has ended; False if somebody has recorded another one meanwhile."""
        payment, invoice = due.payment, due.invoice
        before_minor = _succeeded_minor(known)
        changes: dict[str, Any] = {}
        if refund.status is RefundStatus.SUCCEEDED and payment.kind is PaymentKind.OVERPAYMENT:
            changes = {
                "refunded_minor": refund.amount_minor,
                "overpaid_minor": -refund.amount_minor,
            }
        elif refund.status is RefundStatus.SUCCEEDED and payment.kind is PaymentKind.TOTAL:
            is_all = before_minor + refund.amount_minor >= payment.amount_minor
            status = InvoiceStatus.REFUNDED if is_all else InvoiceStatus.PARTIALLY_REFUNDED
            amount = _text(refund.amount_minor, invoice)
            description = f"{'Refunded' if is_all else 'Partly refunded'}: {amount}"
            changes = {
                "status": status,
                "event": self._event_of(description, status),
                "refunded_minor": refund.amount_minor,
            }
        is_settled = await self._record(
            Step(
                invoice=invoice,
                is_report=True,
                settlement=SettledRefund(refund, before_minor),
                **changes,
            )
        )
        if is_settled:
            self._metrics.refund_settled(refund.status)
        return is_settled

    async def _report_dispute(
        self, invoice: Invoice, is_won: bool | None, refunds: Iterable[Refund]
    ) -> None:
        """Report an open dispute, and one that was won; after one that was lost nothing changes."""
        settlement: Settlement | None = None
        status, description = InvoiceStatus.DISPUTED, "Payment disputed"
        if is_won:
            settlement, description = WonDispute(), "Dispute won"
            is_whole = not _succeeded_minor(refunds)
            status = InvoiceStatus.PAID if is_whole else InvoiceStatus.PARTIALLY_REFUNDED
        step = Step(
            invoice=invoice,
            status=status,
            event=self._event_of(description, status),
            is_report=True,
            settlement=settlement,
        )
        await self._record(step)


def _succeeded_minor(refunds: Iterable[Refund]) -> int:
    return sum(one.amount_minor for one in refunds if one.status is RefundStatus.SUCCEEDED)


def _text(minor: int, invoice: Invoice) -> str:
    decimals = decimals_of(invoice.currency, invoice.decimals)
    return f"{Decimal(minor).scaleb(-decimals):f} {invoice.currency}"
