"""
Payments and refunds: what came in for an invoice, and what was given back.

A payment is recorded in one transaction with the end of its checkout and with the report about the
invoice, and a refund with its report: none of them exists without the others, and none twice.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, func, insert, select, update

from service.domain.delivery import Delivery
from service.domain.invoice import Invoice
from service.domain.payment import (
    Checkout,
    CheckoutStatus,
    Decline,
    Failure,
    NothingLeft,
    Payment,
    PaymentKind,
    Receipt,
    Refund,
    RefundStatus,
    SettledRefund,
    Withdrawal,
    WonDispute,
)
from service.domain.states import PAYABLE, InvoiceStatus
from service.errors import Conflict
from service.storage import checkouts
from service.storage.fairly import lease_fairly
from service.storage.invoices import as_invoice
from service.storage.steps import StepToTake, report_one
from service.storage.tables import invoices, payments, refunds, stripe_events
from service.values import value


@value()
class DuePayment:
    """A payment that is due, its refunds, and its invoice."""

    payment: Payment
    refunds: Sequence[Refund]
    invoice: Invoice


@value(kw_only=True)
class RefundRequest:
    """What an API user asks for; *asked_minor* is None for all that is left."""

    account_id: str
    invoice_key: str
    id: str
    idempotency_key: str
    asked_minor: int | None
    now: datetime


# What came in


def settle(tx: Connection, item: StepToTake) -> Sequence[Delivery] | None:
    """
    Record the settlement of a step, and report it with the new deliveries of its event.

    Runs inside *tx* and never commits it.

    Returns:
        The deliveries as they were inserted. None if the settlement was recorded before, or the
        invoice is in a state in which the report is not legal: nothing was written then.
    """
    step = item[0]
    status, _ = checkouts.locked(tx, step.invoice.account_id, step.invoice.key)
    match step.settlement:
        case Receipt(payment):
            # A dispute that is won also leads to `paid`, and is told as such; a payment does not.
            is_due = payment.kind is not PaymentKind.TOTAL or status in PAYABLE
            return _receive(tx, item, payment) if is_due else None
        case Decline(checkout):
            is_new = not checkouts.is_declined(tx, checkout)
            changes: dict[str, Any] = {"is_declined": True}
            return _report_about(tx, item, checkout, changes) if is_new else None
        case Failure(checkout):
            active = checkouts.find_active(tx, checkout.account_id, checkout.invoice_key)
            changes = {"status": CheckoutStatus.CLOSED, "due_at": None}
            is_new = active is not None and active.id == checkout.id
            return _report_about(tx, item, checkout, changes) if is_new else None
        case SettledRefund(refund, refunded_before_minor):
            is_current = refunded_before_minor == _refunded(tx, refund)
            return _settle_refund(tx, item, refund) if is_current else None
        case WonDispute():
            return report_one(tx, *item) if status is InvoiceStatus.DISPUTED else None
        case Withdrawal():
            account_id, invoice_key = step.invoice.account_id, step.invoice.key
            is_payable = checkouts.find_active(tx, account_id, invoice_key) is not None
            return None if is_payable else report_one(tx, *item)
        case None:
            raise AssertionError("there is nothing to settle")


def _receive(tx: Connection, item: StepToTake, payment: Payment) -> Sequence[Delivery] | None:
    checkout = checkouts.find(tx, payment.account_id, payment.id)
    if checkout is None:
        return None
    changes = {"status": CheckoutStatus.PAID, "due_at": None}
    inserted = _report_about(tx, item, checkout, changes)
    if inserted is not None:
        tx.execute(insert(payments), {name: getattr(payment, name) for name in _PAYMENT})
        _apply_earlier_webhooks(tx, payment)
    return inserted


def _apply_earlier_webhooks(tx: Connection, payment: Payment) -> None:
    """Make *payment* due if a webhook was about it before it was recorded."""
    earlier = tx.execute(
        select(stripe_events.c.dispute_id).where(
            stripe_events.c.account_id == payment.account_id,
            stripe_events.c.payment_intent == payment.payment_intent,
        )
    ).all()
    if earlier:
        dispute_id = max((row.dispute_id for row in earlier if row.dispute_id), default=None)
        changes = {"due_at": payment.received_at, "dispute_id": dispute_id}
        is_it = _is(payment.account_id, payment.id)
        tx.execute(update(payments).where(is_it).values(changes))


def _report_about(
    tx: Connection, item: StepToTake, checkout: Checkout, changes: dict[str, Any]
) -> Sequence[Delivery] | None:
    """Report a step, and make *changes* to its checkout, which must not be paid."""
    stored = checkouts.find(tx, checkout.account_id, checkout.id)
    if stored is None or stored.status is CheckoutStatus.PAID:
        return None
    inserted = report_one(tx, *item)
    if inserted is not None and not checkouts.change(tx, checkout, changes):
        raise AssertionError(f"the checkout {checkout.id} was paid while its invoice was locked")
    return inserted


def _settle_refund(tx: Connection, item: StepToTake, refund: Refund) -> Sequence[Delivery] | None:
    stored = tx.scalar(select(refunds.c.status).where(_is_refund(refund)))
    if stored not in {None, RefundStatus.PENDING}:
        return None
    # One that failed changes nothing of the invoice.
    inserted = report_one(tx, *item) if item[0].refunded_minor else []
    if inserted is not None and stored is None:
        tx.execute(insert(refunds), {name: getattr(refund, name) for name in _REFUND})
    elif inserted is not None:
        changes = {"status": refund.status, "refund_id": refund.refund_id}
        tx.execute(update(refunds).where(_is_refund(refund)).values(changes))
    return inserted


def _refunded(tx: Connection, refund: Refund) -> int:
    """What was given back of the payment of *refund*."""
    query = select(func.coalesce(func.sum(refunds.c.amount_minor), 0)).where(
        refunds.c.account_id == refund.account_id,
        refunds.c.payment_id == refund.payment_id,
        refunds.c.status == RefundStatus.SUCCEEDED,
    )
    return int(tx.scalar(query) or 0)


def of_invoice(tx: Connection, account_id: str, invoice_key: str) -> list[Payment]:
    """The payments of an invoice, the oldest first."""
    is_of = (payments.c.account_id == account_id, payments.c.invoice_key == invoice_key)
    oldest_first = payments.c.received_at, payments.c.id
    rows = tx.execute(select(*_payment_columns).where(*is_of).order_by(*oldest_first))
    return [_payment(row._mapping) for row in rows]


def refunds_of(tx: Connection, account_id: str, invoice_key: str) -> list[Refund]:
    """The refunds of an invoice, the oldest first; the parts of each by their payments."""
    is_of = (refunds.c.account_id == account_id, refunds.c.invoice_key == invoice_key)
    in_order = refunds.c.id, refunds.c.payment_id
    rows = tx.execute(select(*_refund_columns).where(*is_of).order_by(*in_order))
    return [_refund(row._mapping) for row in rows]


# What is given back


def request_refund(
    tx: Connection, asked: RefundRequest, sandbox_payment: Payment | None
) -> list[Refund]:
    """
    Record that money is to be given back, of overpayments first, and make the payments due.

    *sandbox_payment* is recorded where the invoice has no payment: the sandbox moves no money.

    Runs inside *tx* and never commits it.

    Returns:
        The refund, one part for each payment; that of an earlier request with the same key.

    Raises:
        Conflict: if the key was used with another amount.
        NothingLeft: if more is asked for than is left.
    """
    checkouts.locked(tx, asked.account_id, asked.invoice_key)
    known = refunds_of(tx, asked.account_id, asked.invoice_key)
    if same := [one for one in known if one.idempotency_key == asked.idempotency_key]:
        if same[0].asked_minor != asked.asked_minor:
            raise Conflict("This Idempotency-Key was used with another amount.")
        return same
    received = of_invoice(tx, asked.account_id, asked.invoice_key)
    if not received and sandbox_payment:
        tx.execute(insert(payments), {name: getattr(sandbox_payment, name) for name in _PAYMENT})
        received = [sandbox_payment]
    parts = _parts(asked, _left(received, known))
    for part in parts:
        tx.execute(insert(refunds), {name: getattr(part, name) for name in _REFUND})
        make_due(tx, part.account_id, part.payment_id, asked.now)
    return parts


def _left(received: Sequence[Payment], known: Sequence[Refund]) -> list[tuple[str, int]]:
    """The id of each payment with what is left of it, overpayments first."""
    left = {
        one.id: one.amount_minor
        for kind in (PaymentKind.OVERPAYMENT, PaymentKind.TOTAL)
        for one in received
        if one.kind is kind
    }
    for refund in known:
        if refund.status is not RefundStatus.FAILED and refund.payment_id in left:
            left[refund.payment_id] -= refund.amount_minor
    return [(id_, minor) for id_, minor in left.items() if minor > 0]


def _parts(asked: RefundRequest, left: Sequence[tuple[str, int]]) -> list[Refund]:
    """What is taken from each payment."""
    left_minor = sum(minor for _, minor in left)
    missing_minor = left_minor if asked.asked_minor is None else asked.asked_minor
    if missing_minor > left_minor or not left_minor:
        raise NothingLeft(left_minor)
    parts = []
    for payment_id, minor in left:
        if amount_minor := min(minor, missing_minor):
            missing_minor -= amount_minor
            parts.append(
                Refund(
                    account_id=asked.account_id,
                    id=asked.id,
                    payment_id=payment_id,
                    invoice_key=asked.invoice_key,
                    idempotency_key=asked.idempotency_key,
                    asked_minor=asked.asked_minor,
                    amount_minor=amount_minor,
                    created_at=asked.now,
                )
            )
    return parts


def failed(tx: Connection, known: Refund) -> None:
    """Record that a failure is stored for the idempotency key of *known*."""
    is_it = (_is_refund(known), refunds.c.failure_count == known.failure_count)
    tx.execute(update(refunds).where(*is_it).values(failure_count=known.failure_count + 1))


# What is looked at


def lease_due(tx: Connection, now: datetime, until: datetime, limit: int) -> list[DuePayment]:
    """
    Lease payments that are due until *until*, fairly among accounts: that is their due time then.

    Runs inside *tx* and never commits it.
    """
    leased = lease_fairly(tx, payments, now, until, limit)
    return [_found(tx, account_id, payment_id) for account_id, payment_id in leased]


def looked_at(
    tx: Connection, known: Payment, due_at: datetime | None, failing_since: datetime | None
) -> None:
    """
    Record when the collector is asked about *known* next, unless it was made due meanwhile.

    *failing_since* is since when it gives no answer; None if it has.
    """
    is_it = (_is(known.account_id, known.id), payments.c.due_at == known.due_at)
    changes = {"due_at": due_at, "failing_since": failing_since}
    tx.execute(update(payments).where(*is_it).values(changes))


def make_due(tx: Connection, account_id: str, payment_id: str, now: datetime) -> None:
    """Have the collector asked about a payment at once."""
    tx.execute(update(payments).where(_is(account_id, payment_id)).values(due_at=now))


def make_intent_due(
    tx: Connection, account_id: str, payment_intent: str, dispute_id: str | None, now: datetime
) -> None:
    """Have Stripe asked about a payment, if it is known, and about its dispute."""
    changes: dict[str, Any] = {"due_at": now}
    if dispute_id:
        changes["dispute_id"] = dispute_id
    is_it = (payments.c.account_id == account_id, payments.c.payment_intent == payment_intent)
    tx.execute(update(payments).where(*is_it).values(changes))


_PAYMENT = tuple(Payment.__dataclass_fields__)
_payment_columns = tuple(payments.c[name] for name in _PAYMENT)
_REFUND = tuple(Refund.__dataclass_fields__)
_refund_columns = tuple(refunds.c[name] for name in _REFUND)


def _payment(row: RowMapping) -> Payment:
    return Payment(**{**row, "kind": PaymentKind(row["kind"])})


def _refund(row: RowMapping) -> Refund:
    return Refund(**{**row, "status": RefundStatus(row["status"])})


def _is(account_id: str, payment_id: str) -> ColumnElement[bool]:
    return and_(payments.c.account_id == account_id, payments.c.id == payment_id)


def _is_refund(refund: Refund) -> ColumnElement[bool]:
    return and_(
        refunds.c.account_id == refund.account_id,
        refunds.c.id == refund.id,
        refunds.c.payment_id == refund.payment_id,
    )


def _found(tx: Connection, account_id: str, payment_id: str) -> DuePayment:
    row = tx.execute(select(*_payment_columns).where(_is(account_id, payment_id))).one()
    payment = _payment(row._mapping)
    known = refunds_of(tx, account_id, payment.invoice_key)
    is_it = (invoices.c.account_id == account_id, invoices.c.key == payment.invoice_key)
    invoice = as_invoice(dict(tx.execute(select(invoices).where(*is_it)).mappings().one()))
    return DuePayment(payment, [one for one in known if one.payment_id == payment_id], invoice)
