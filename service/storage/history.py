"""The history of deliveries, attempt by attempt, as their account reads it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import eq, ge, lt
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, literal_column, select

from service.domain.states import DeliveryStatus
from service.domain.waiting import Waits
from service.errors import NotFound, UnknownCursor
from service.storage.deliveries import is_first_of_its_invoice
from service.storage.invoices import find_key
from service.storage.tables import (
    attempts,
    deliveries,
    events,
    invoices,
    is_attempt_of_delivery,
    is_event_of_delivery,
    is_invoice_of_delivery,
    origins,
    receivers,
)

ATTEMPTS_MAX = 100
"""Attempts of one delivery that are shown, the newest: there is no bound on redeliveries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFilter:
    """Which deliveries are wanted; None means all. *since* and *until* bound `created_at`."""

    status: str | None = None
    invoice_id: str | None = None
    origin: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def conditions_of(wanted: DeliveryFilter) -> Iterator[ColumnElement[bool]]:
    """The conditions of *wanted* on the columns of a delivery: all but the invoice."""
    if wanted.status is not None:
        # A literal and not a parameter, so that the index of dead deliveries is used.
        status: ColumnElement[str] = literal_column(f"'{DeliveryStatus(wanted.status)}'")
        yield deliveries.c.status == status
    for compare, column, value in (
        (eq, deliveries.c.origin, wanted.origin),
        (ge, deliveries.c.created_at, wanted.since),
        (lt, deliveries.c.created_at, wanted.until),
    ):
        if value is not None:
            yield compare(column, value)


_shown = (
    select(
        *(column for column in deliveries.columns if column is not deliveries.c.body),
        invoices.c.id.label("invoice_id"),
        events.c.description,
        events.c.paid,
        receivers.c.held_until,
        receivers.c.cooldown_until,
        origins.c.held_until.label("origin_until"),
        is_first_of_its_invoice.label("is_first"),
    )
    .join_from(deliveries, invoices, is_invoice_of_delivery)
    .join(events, is_event_of_delivery)
    .outerjoin(receivers, receivers.c.receiver == deliveries.c.receiver)
    .outerjoin(origins, origins.c.origin == deliveries.c.origin)
)


def find(tx: Connection, account_id: str, delivery_id: str) -> dict[str, Any]:
    """
    One delivery of *account_id* with its event and its attempts in order.

    Raises:
        NotFound: if the account has no delivery of that id.
    """
    found = _load(tx, account_id, _of_account(account_id).where(deliveries.c.id == delivery_id))
    if not found:
        raise NotFound(f"There is no delivery {delivery_id!r}.")
    return found[0]


def of_invoice(tx: Connection, account_id: str, invoice_id: str) -> list[dict[str, Any]]:
    """
    The deliveries of one invoice, newest first.

    Raises:
        NotFound: if the account has no invoice of that id.
    """
    key = find_key(tx, account_id, invoice_id)
    if key is None:
        raise NotFound(f"There is no invoice {invoice_id!r}.")
    query = _of_account(account_id).where(deliveries.c.invoice_key == key)
    return _load(tx, account_id, query.order_by(deliveries.c.sequence.desc()))


def list_deliveries(
    tx: Connection, account_id: str, wanted: DeliveryFilter, *, after: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """
    Up to *limit* deliveries of *account_id*, newest first, and the cursor of the next page.

    A page starts after the delivery whose id is *after*; the cursor is None on the last page.

    Raises:
        UnknownCursor: if the account has no delivery *after*.
    """
    query = _of_account(account_id).where(*conditions_of(wanted))
    id_: ColumnElement[str] = deliveries.c.id
    if wanted.invoice_id is not None:
        key = find_key(tx, account_id, wanted.invoice_id)
        if key is None:
            return [], None
        query = query.where(deliveries.c.invoice_key == key)
        # An expression, so that SQLite finds the few deliveries by their invoice. For the order
        # of the column, it would scan all deliveries of the account.
        id_ = deliveries.c.id.concat("")
    if after is not None:
        is_known = _of_account(account_id).where(deliveries.c.id == after)
        if tx.execute(is_known).first() is None:
            raise UnknownCursor
        query = query.where(id_ < after)
    found = _load(tx, account_id, query.order_by(id_.desc()).limit(limit + 1))
    items = found[:limit]
    return items, items[-1]["id"] if len(found) > limit else None


def _of_account(account_id: str) -> Select[Any]:
    # Conditions on both tables, because the index of invoices begins with the account too.
    return _shown.where(deliveries.c.account_id == account_id, invoices.c.account_id == account_id)


def _load(tx: Connection, account_id: str, query: Select[Any]) -> list[dict[str, Any]]:
    rows = tx.execute(query).mappings().all()
    made = _attempts_of(tx, account_id, [row["id"] for row in rows])
    return [
        {
            **row,
            "due_at": _due_at(row),
            "waits": _waits(row),
            "event": {"description": row["description"], "paid": row["paid"]},
            "attempts": made.get(row["id"], []),
        }
        for row in rows
    ]


def _due_at(row: Any) -> datetime | None:
    """When the next attempt may be made: after the hold of the receiver; None once settled."""
    if row["status"] != DeliveryStatus.PENDING:
        return None
    due_at: datetime = row["due_at"]
    # What was asked for by hand is attempted although the receiver is held.
    return due_at if row["is_asked"] else max(due_at, row["held_until"] or due_at)


def _waits(row: Any) -> Waits | None:
    if row["status"] != DeliveryStatus.PENDING:
        return None
    cooldowns = [at for at in (row["cooldown_until"], row["origin_until"]) if at]
    return Waits(
        is_first=bool(row["is_first"]),
        is_asked=bool(row["is_asked"]),
        due_at=row["due_at"],
        leased_until=row["leased_until"],
        held_until=row["held_until"],
        cooldown_until=max(cooldowns, default=None),
    )


def _attempts_of(
    tx: Connection, account_id: str, delivery_ids: Sequence[str]
) -> dict[str, list[Any]]:
    """The newest attempts of each delivery, in order."""
    made: dict[str, list[Any]] = {}
    query = (
        select(attempts)
        .join_from(deliveries, attempts, is_attempt_of_delivery)
        .where(
            deliveries.c.account_id == account_id,
            deliveries.c.id.in_(delivery_ids),
            attempts.c.number > deliveries.c.attempt_count - ATTEMPTS_MAX,
        )
    )
    for row in tx.execute(query.order_by(attempts.c.delivery_id, attempts.c.number)).mappings():
        made.setdefault(row["delivery_id"], []).append(row)
    return made
