"""
What Stripe tells about a session, recorded: payments, declines and ends.

A payment ends its checkout and is recorded in one transaction with the report about the invoice:
whoever learns of it first reports it, and nobody else does.
"""

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

from service.clock import Clock
from service.collection.events import EventOf, Record
from service.collection.stripe.amounts import stripe_amount
from service.collection.stripe.calls import Session, SessionState
from service.domain.invoice import Invoice, Step
from service.domain.payment import (
    Checkout,
    CheckoutStatus,
    Decline,
    Failure,
    Payment,
    PaymentKind,
    Receipt,
    Settlement,
)
from service.domain.states import InvoiceStatus
from service.localization import decimals_of
from service.storage.store import Store
from service.telemetry.metrics import Metrics

log = logging.getLogger("invoices.collection")

REASON_MAX = 300
"""Characters of the reason of a decline, in an event."""


class Sessions:
    """
    Records what Stripe tells about sessions; *record* commits the reports.

    Stripe is asked about a session *interval* after it was created.
    """

    def __init__(
        self,
        store: Store,
        record: Record,
        event_of: EventOf,
        interval: timedelta,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._money = store.money
        self._record = record
        self._event_of = event_of
        self._interval = interval
        self._clock = clock
        self._metrics = metrics

    async def note(self, known: Checkout, invoice: Invoice, session: Session) -> Checkout | None:
        """Record what Stripe tells about a session; None if it has ended."""
        current: Checkout | None = known
        if known.status is CheckoutStatus.CREATING:
            due_at = self._clock.now() + self._interval
            current = await self._money.checkout_opened(known, session.id, session.url, due_at)
        is_given_up = current is None or current.status is CheckoutStatus.CLOSED
        if current is None or (is_given_up and session.state is SessionState.OPEN):
            return None
        if session.state in {SessionState.OPEN, SessionState.PROCESSING}:
            return await self._note_active(current, invoice, session)
        if session.state is SessionState.PAID:
            await self._receive(current, invoice, session)
        elif session.state is SessionState.FAILED:
            await self._fail(invoice, session.decline or "no reason given", Failure(current))
            await self._money.close_checkout(current)
        else:
            await self._money.close_checkout(current)
        return None

    async def _note_active(self, known: Checkout, invoice: Invoice, session: Session) -> Checkout:
        if session.state is SessionState.PROCESSING:
            await self._money.checkout_is_processing(known)
            return replace(known, status=CheckoutStatus.PROCESSING)
        if session.decline and not known.is_declined:
            await self._fail(invoice, session.decline, Decline(known))
        return known

    async def _fail(self, invoice: Invoice, reason: str, settlement: Settlement) -> None:
        status = InvoiceStatus.PAYMENT_FAILED
        event = self._event_of(f"Payment failed: {reason[:REASON_MAX]}", status)
        step = Step(
            invoice=invoice, status=status, event=event, is_report=True, settlement=settlement
        )
        if await self._record(step):
            self._metrics.collected(status)

    async def _receive(self, known: Checkout, invoice: Invoice, session: Session) -> None:
        """Record a payment: of the invoice, of one that needs none, or of another amount."""
        payment = Payment(
            account_id=known.account_id,
            id=known.id,
            invoice_key=known.invoice_key,
            kind=PaymentKind.TOTAL,
            amount_minor=invoice.total_minor,
            payment_intent=session.payment_intent,
            received_at=self._clock.now(),
        )
        if is_of(invoice, session):
            status = InvoiceStatus.PAID
            changes: dict[str, Any] = {
                "status": status,
                "event": self._event_of("Invoice paid", status),
            }
            if await self._record_receipt(invoice, payment, **changes):
                self._metrics.collected(status)
                return
            kind, changes = PaymentKind.OVERPAYMENT, {"overpaid_minor": invoice.total_minor}
        else:
            kind, changes = PaymentKind.MISMATCH, {"is_mismatch": True}
            payment = replace(payment, amount_minor=session.amount)
        # False if another process has recorded it meanwhile.
        if await self._record_receipt(invoice, replace(payment, kind=kind), **changes):
            fields = {
                **log_fields(invoice, known),
                "amount": session.amount,
                "currency": session.currency,
                "session_id": session.id,
            }
            if kind is PaymentKind.MISMATCH:
                log.error("payment.mismatched", extra={"fields": fields})
            else:
                log.warning("payment.overpaid", extra={"fields": fields})

    async def _record_receipt(self, invoice: Invoice, payment: Payment, **changes: Any) -> bool:
        step = Step(invoice=invoice, is_report=True, settlement=Receipt(payment), **changes)
        is_recorded = await self._record(step)
        if is_recorded:
            self._metrics.payment_received(payment.kind)
        return is_recorded


def amount_of(invoice: Invoice) -> int:
    """The total of *invoice* in the units of Stripe."""
    # Judged when the invoice was accepted.
    decimals = decimals_of(invoice.currency, invoice.decimals)
    return stripe_amount(invoice.total_minor, invoice.currency, decimals)


def is_of(invoice: Invoice, session: Session) -> bool:
    """Whether the amount and the currency of *session* are those of *invoice*."""
    return (session.amount, session.currency) == (amount_of(invoice), invoice.currency)


def log_fields(invoice: Invoice, known: Checkout) -> dict[str, Any]:
    """What every line of the log about a checkout has."""
    return {
        "invoice_id": invoice.id,
        "account_id": invoice.account_id,
        "checkout_id": known.id,
    }
