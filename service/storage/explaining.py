"""
The facts from which it is explained why a callback came or not; `domain.explanation` concludes.

Each is one read of a few rows, found by their keys, however many deliveries and attempts there are.
"""

from typing import Any

from sqlalchemy import Connection, RowMapping, and_, case, select

from service.domain.explanation import DeliveryFacts, EarlierDelivery, InvoiceFacts, LastAttempt
from service.domain.outcomes import AttemptOutcome
from service.domain.payment import Checkout
from service.domain.states import SETTLED, DeadReason, DeliveryStatus, InvoiceStatus, MailStatus
from service.errors import NotFound
from service.storage import checkouts, history
from service.storage.tables import (
    attempts,
    deliveries,
    events,
    invoices,
    is_attempt_of_delivery,
    is_event_of_delivery,
    mails,
)

_last = select(
    *(attempts.c[name] for name in LastAttempt.__dataclass_fields__),
).join_from(
    deliveries,
    attempts,
    and_(is_attempt_of_delivery, attempts.c.number == deliveries.c.attempt_count),
)
_earlier = (
    select(deliveries.c.id, events.c.description, deliveries.c.attempt_count)
    .join_from(deliveries, events, is_event_of_delivery)
    # Not "is pending": see `deliveries.is_first_of_its_invoice`.
    .where(deliveries.c.status.not_in(sorted(SETTLED)))
    .order_by(deliveries.c.sequence)
    .limit(1)
)
# What is pending goes before what is dead, and that before what is delivered; of the pending ones
# the first, of the others the newest.
_rank = case((deliveries.c.status == "pending", 0), (deliveries.c.status == "dead", 1), else_=2)
_order = case(
    (deliveries.c.status == "pending", deliveries.c.sequence), else_=-deliveries.c.sequence
)


def delivery_facts(tx: Connection, account_id: str, delivery_id: str) -> DeliveryFacts:
    """
    The facts about one delivery of *account_id*.

    Raises:
        NotFound: if the account has no delivery of that id.
    """
    row = history.find_row(tx, account_id, delivery_id)
    last = tx.execute(
        _last.where(deliveries.c.account_id == account_id, deliveries.c.id == delivery_id)
    )
    earlier = None if row["is_first"] else _earlier_of(tx, row)
    return delivery_facts_of(row, last.mappings().one_or_none(), earlier)


def invoice_facts(tx: Connection, account_id: str, invoice_id: str) -> InvoiceFacts:
    """
    The facts about one invoice of *account_id*, and about the delivery of it that matters.

    Raises:
        NotFound: if the account has no invoice of that id.
    """
    row = tx.execute(
        select(invoices).where(invoices.c.account_id == account_id, invoices.c.id == invoice_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no invoice {invoice_id!r}.")
    key = row.key
    delivery_id: str | None = tx.scalar(
        select(deliveries.c.id)
        .where(deliveries.c.account_id == account_id, deliveries.c.invoice_key == key)
        # The deliveries of one event to several callbacks have one sequence.
        .order_by(_rank, _order, deliveries.c.id)
        .limit(1)
    )
    mail = tx.execute(
        select(mails.c.status, mails.c.due_at)
        .where(mails.c.account_id == account_id, mails.c.invoice_key == key)
        # An expression: for the order of the column, all mails of the account would be scanned.
        .order_by(mails.c.id.concat("").desc())
        .limit(1)
    ).one_or_none()
    last_event_at = tx.scalar(
        select(events.c.at).where(
            events.c.account_id == account_id,
            events.c.invoice_key == key,
            events.c.sequence == row.event_count,
        )
    )
    return invoice_facts_of(
        row._mapping,
        mail and mail._mapping,
        last_event_at,
        delivery_facts(tx, account_id, delivery_id) if delivery_id else None,
        checkouts.find_active(tx, account_id, key),
    )


def delivery_facts_of(row: Any, last: Any, earlier: EarlierDelivery | None) -> DeliveryFacts:
    """The facts in the *row* of a delivery as `history` reads it, and of its *last* attempt."""
    return DeliveryFacts(
        id=row["id"],
        invoice_id=row["invoice_id"],
        url=row["url"],
        description=row["description"],
        status=DeliveryStatus(row["status"]),
        reason=DeadReason(row["reason"]) if row["reason"] else None,
        attempt_count=row["attempt_count"],
        created_at=row["created_at"],
        settled_at=row["settled_at"],
        waits=history.waits_of(row),
        failing_since=row["failing_since"],
        last=_last_attempt(last) if last else None,
        earlier=earlier,
    )


def invoice_facts_of(
    row: Any,
    mail: Any,
    last_event_at: Any,
    delivery: DeliveryFacts | None,
    checkout: Checkout | None,
) -> InvoiceFacts:
    """The facts in the *row* of an invoice, and about its newest *mail* and active *checkout*."""
    return InvoiceFacts(
        id=row["id"],
        status=InvoiceStatus(row["status"]),
        has_callback=bool(row["callbacks"]),
        event_count=row["event_count"],
        last_event_at=last_event_at,
        due_at=row["due_at"],
        mail_status=MailStatus(mail["status"]) if mail else None,
        mail_due_at=mail["due_at"] if mail else None,
        delivery=delivery,
        has_mismatch=bool(row["mismatch"]),
        checkout_status=checkout.status if checkout else None,
        checkout_due_at=checkout.due_at if checkout else None,
    )


def _last_attempt(row: Any) -> LastAttempt:
    values = {name: row[name] for name in LastAttempt.__dataclass_fields__}
    return LastAttempt(**{**values, "outcome": _OUTCOMES[row["outcome"]]})


_OUTCOMES = {outcome.value: outcome for outcome in AttemptOutcome}


def _earlier_of(tx: Connection, row: RowMapping) -> EarlierDelivery | None:
    found = tx.execute(
        _earlier.where(
            deliveries.c.account_id == row["account_id"],
            deliveries.c.invoice_key == row["invoice_key"],
            deliveries.c.callback == row["callback"],
            deliveries.c.sequence < row["sequence"],
        )
    ).one_or_none()
    return EarlierDelivery(**found._mapping) if found else None
