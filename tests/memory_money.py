"""
The money of the database in memory: checkouts, payments, refunds and webhooks.

Each function here does what the function of the same name in storage does; `tests.memory` names
them. *tx* are its tables.
"""

from __future__ import annotations

from collections import Counter
from operator import itemgetter

from service.domain.payment import (
    ACTIVE,
    Checkout,
    CheckoutStatus,
    Decline,
    Failure,
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
from service.storage import fairly, payments, webhooks
from service.storage.checkouts import DueCheckout
from service.storage.invoices import as_invoice
from service.storage.payments import DuePayment

# Checkouts


def begin(tx, new):
    """The active checkout of the invoice; *new* if it has none and can be paid."""
    active = _active_row(tx, new.account_id, new.invoice_key)
    if active:
        return _checkout(active)
    row = tx.invoices.get(new.account_id, new.invoice_key)
    if row["status"] not in PAYABLE or row["mismatch"]:
        return None
    tx.checkouts.insert(_values(new))
    return new


def find_active(tx, account_id, invoice_key):
    """The active checkout of an invoice, if there is one."""
    row = _active_row(tx, account_id, invoice_key)
    return row and _checkout(row)


def _active_row(tx, account_id, invoice_key):
    rows = [row for row in _of_invoice(tx.checkouts, account_id, invoice_key) if _is_active(row)]
    if len(rows) > 1:
        raise ValueError(f"{len(rows)} checkouts of {invoice_key} are active")
    return rows[0] if rows else None


def _is_active(row):
    return row["status"] in ACTIVE


def lease_checkouts(tx, now, until, limit):
    """Lease checkouts that are due, fairly among accounts."""
    return [
        DueCheckout(_checkout(row), _invoice(tx, row))
        for row in _leased(tx.checkouts, now, until, limit)
    ]


def _leased(rows, now, until, limit):
    due = [row for row in rows if row["due_at"] and row["due_at"] <= now]
    counts, numbers = Counter(), {}
    for row in sorted(due, key=lambda row: row["due_at"]):
        counts[row["account_id"]] += 1
        numbers[row["account_id"], row["id"]] = counts[row["account_id"]]
    chosen = sorted(
        (number, key) for key, number in numbers.items() if number <= fairly.EACH_ACCOUNT
    )[:limit]
    leased = [rows.get(*key) for key in sorted(key for _, key in chosen)]
    for row in leased:
        rows.change(row, due_at=until)
    return leased


def opened(tx, known, session_id, url, due_at):
    """Record the session of a checkout that has none; returns the checkout as it is then."""
    row = _row_of(tx.checkouts, known)
    if row and row["status"] == CheckoutStatus.CREATING:
        tx.checkouts.change(
            row,
            status=CheckoutStatus.OPEN.value,
            session_id=session_id,
            url=url,
            due_at=due_at,
            failing_since=None,
        )
    return row and _checkout(row)


def checkout_failed(tx, known):
    """Count a failure that is stored for the key of a checkout."""
    _count_failure(tx.checkouts, _row_of(tx.checkouts, known), known)


def is_processing(tx, known):
    """The money of an open checkout is on its way."""
    row = _row_of(tx.checkouts, known)
    if row["status"] == CheckoutStatus.OPEN:
        tx.checkouts.change(row, status=CheckoutStatus.PROCESSING.value, url=None)


def close(tx, known, due_at=None):
    """End a checkout without money."""
    status = CheckoutStatus.CLOSED.value
    _change_unpaid(tx, known, status=status, due_at=due_at, failing_since=None)


def _change_unpaid(tx, known, **changes):
    row = _row_of(tx.checkouts, known)
    if row["status"] == CheckoutStatus.PAID:
        return False
    tx.checkouts.change(row, **changes)
    return True


def checkout_looked_at(tx, known, due_at, failing_since):
    """When a checkout is asked about next, unless it was made due meanwhile."""
    _look_again(tx.checkouts, known, due_at, failing_since)


def payment_looked_at(tx, known, due_at, failing_since):
    """When a payment is asked about next, unless it was made due meanwhile."""
    _look_again(tx.payments, known, due_at, failing_since)


def _look_again(rows, known, due_at, failing_since):
    row = _row_of(rows, known)
    if row["due_at"] is not None and row["due_at"] == known.due_at:
        rows.change(row, due_at=due_at, failing_since=failing_since)


# What came in


def settle(tx, item, report):
    """Record a settlement together with what *report* does with its step."""
    step, new, _ = item
    return _SETTLING[type(step.settlement)](tx, step, lambda: report(tx, step, new))


def _settle_receipt(tx, step, report):
    payment, row = step.settlement.payment, tx.invoices.get(*_key_of(step.invoice))
    is_due = payment.kind is not PaymentKind.TOTAL or row["status"] in PAYABLE
    return _receive(tx, payment, report) if is_due else None


def _settle_decline(tx, step, report):
    checkout = step.settlement.checkout
    if _is_told(_row_of(tx.checkouts, checkout)):
        return None
    return _report_about(tx, checkout, report, is_declined=True)


def _settle_failure(tx, step, report):
    checkout = step.settlement.checkout
    active = _active_row(tx, checkout.account_id, checkout.invoice_key)
    if active is None or active["id"] != checkout.id:
        return None
    return _report_about(tx, checkout, report, status=CheckoutStatus.CLOSED.value, due_at=None)


def _settle_reversal(tx, step, report):
    refund, before_minor = step.settlement.refund, step.settlement.refunded_before_minor
    if not _is_current(tx, refund, before_minor):
        return None
    # One that failed changes nothing of the invoice.
    return _settle_refund(tx, refund, report if step.refunded_minor else list)


def _settle_dispute(tx, step, report):
    row = tx.invoices.get(*_key_of(step.invoice))
    return report() if row["status"] == InvoiceStatus.DISPUTED else None


def _settle_withdrawal(tx, step, report):
    return None if _active_row(tx, *_key_of(step.invoice)) else report()


_SETTLING = {
    Receipt: _settle_receipt,
    Decline: _settle_decline,
    Failure: _settle_failure,
    SettledRefund: _settle_reversal,
    WonDispute: _settle_dispute,
    Withdrawal: _settle_withdrawal,
}


def _receive(tx, payment, report):
    if _row_of(tx.checkouts, payment) is None:
        return None
    changes = {"status": CheckoutStatus.PAID.value, "due_at": None}
    inserted = _report_about(tx, payment, report, **changes)
    if inserted is not None:
        about = [row for row in tx.stripe_events if _is_about(row, payment)]
        disputes = [row["dispute_id"] for row in about if row["dispute_id"]]
        earlier = {"due_at": payment.received_at, "dispute_id": max(disputes, default=None)}
        tx.payments.insert(_values(payment) | (earlier if about else {}))
    return inserted


def _is_about(row, payment):
    wanted = payment.account_id, payment.payment_intent
    return (row["account_id"], row["payment_intent"]) == wanted


def _report_about(tx, known, report, **changes):
    if _row_of(tx.checkouts, known)["status"] == CheckoutStatus.PAID:
        return None
    inserted = report()
    if inserted is not None:
        _change_unpaid(tx, known, **changes)
    return inserted


def _settle_refund(tx, refund, report):
    row = tx.refunds.get(refund.account_id, refund.id, refund.payment_id)
    if row and _has_ended(row):
        return None
    inserted = report()
    if inserted is not None and row is None:
        tx.refunds.insert(_values(refund))
    elif inserted is not None:
        tx.refunds.change(row, status=refund.status.value, refund_id=refund.refund_id)
    return inserted


def _is_told(row):
    """Whether the decline of a checkout was reported."""
    return row["is_declined"]


def _has_ended(row):
    return row["status"] != RefundStatus.PENDING


def _is_current(tx, refund, before_minor):
    """Whether nobody has recorded another refund of the payment meanwhile."""
    return before_minor == _refunded(tx, refund)


def _refunded(tx, refund):
    return sum(
        row["amount_minor"]
        for row in tx.refunds
        if (row["account_id"], row["payment_id"]) == (refund.account_id, refund.payment_id)
        and row["status"] == RefundStatus.SUCCEEDED
    )


# What is given back


def request_refund(tx, asked, sandbox_payment):
    """Record that money is to be given back, and make the payments due."""
    of_invoice = asked.account_id, asked.invoice_key
    known = _refunds_of(tx, *of_invoice)
    if same := [one for one in known if one.idempotency_key == asked.idempotency_key]:
        if same[0].asked_minor != asked.asked_minor:
            raise Conflict("This Idempotency-Key was used with another amount.")
        return same
    rows = sorted(_of_invoice(tx.payments, *of_invoice), key=itemgetter("received_at", "id"))
    received = [_payment(row) for row in rows]
    if not received and sandbox_payment:
        tx.payments.insert(_values(sandbox_payment))
        received = [sandbox_payment]
    parts = payments._parts(asked, payments._left(received, known))
    for part in parts:
        tx.refunds.insert(_values(part))
        tx.payments.change(tx.payments.get(part.account_id, part.payment_id), due_at=asked.now)
    return parts


def refund_failed(tx, known):
    """Count a failure that is stored for the key of a refund."""
    row = tx.refunds.get(known.account_id, known.id, known.payment_id)
    _count_failure(tx.refunds, row, known)


def lease_payments(tx, now, until, limit):
    """Lease payments that are due, fairly among accounts."""
    due = []
    for row in _leased(tx.payments, now, until, limit):
        known = _refunds_of(tx, row["account_id"], row["invoice_key"])
        of_payment = [one for one in known if one.payment_id == row["id"]]
        due.append(DuePayment(_payment(row), of_payment, _invoice(tx, row)))
    return due


def _refunds_of(tx, account_id, invoice_key):
    rows = sorted(
        _of_invoice(tx.refunds, account_id, invoice_key), key=itemgetter("id", "payment_id")
    )
    return [Refund(**{**row, "status": RefundStatus(row["status"])}) for row in rows]


# Webhooks


def take(tx, account_id, webhook, now):
    """Remember a webhook, and make due what it is about; False if it is known."""
    if tx.stripe_events.get(account_id, webhook.id):
        return False
    about = {"payment_intent": webhook.payment_intent, "dispute_id": webhook.dispute_id}
    row = {"account_id": account_id, "id": webhook.id, **about, "received_at": now}
    tx.stripe_events.insert(row)
    checkout = webhook.checkout_id and tx.checkouts.get(account_id, webhook.checkout_id)
    if checkout and checkout["status"] != CheckoutStatus.PAID:
        tx.checkouts.change(checkout, due_at=now)
    for payment in tx.payments:
        is_it = (payment["account_id"], payment["payment_intent"]) == (
            account_id,
            webhook.payment_intent,
        )
        if webhook.payment_intent and is_it:
            dispute_id = webhook.dispute_id or payment["dispute_id"]
            tx.payments.change(payment, due_at=now, dispute_id=dispute_id)
    return True


def remove_old(tx, before):
    """Remove some webhooks that were taken long ago; False if none is left."""
    old = [row for row in tx.stripe_events if row["received_at"] < before][: webhooks.BATCH]
    for row in old:
        tx.stripe_events.remove(row)
    return len(old) == webhooks.BATCH


# Rows


def _values(one):
    """The row of a value: what it holds, under the names of the columns."""
    return {
        name: getattr(value, "value", value)
        for name in one.__dataclass_fields__
        for value in [getattr(one, name)]
    }


def _row_of(rows, known):
    return rows.get(known.account_id, known.id)


def _key_of(invoice):
    return invoice.account_id, invoice.key


def _of_invoice(rows, account_id, invoice_key):
    wanted = account_id, invoice_key
    return [row for row in rows if (row["account_id"], row["invoice_key"]) == wanted]


def _count_failure(rows, row, known):
    if row and row["failure_count"] == known.failure_count:
        rows.change(row, failure_count=known.failure_count + 1)


def _checkout(row):
    return Checkout(**{**row, "status": CheckoutStatus(row["status"])})


def _payment(row):
    return Payment(**{**row, "kind": PaymentKind(row["kind"])})


def _invoice(tx, row):
    return as_invoice(tx.invoices.get(row["account_id"], row["invoice_key"]))
