"""The story of deliveries, attempt by attempt, as their account reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import eq, ge, lt
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, literal_column, select

from service.domain.states import DeliveryStatus
from service.errors import NotFound
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
)

ATTEMPTS_TOLD = 100
"""Attempts of one delivery that are told, the newest: whoever redelivers for ever makes many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFilter:
    """Which deliveries to list; None does not narrow. *since* and *until* bound `created_at`."""

    status: str | None = None
    invoice_id: str | None = None
    origin: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def conditions_of(wanted: DeliveryFilter) -> Iterator[ColumnElement[bool]]:
    """What *wanted* says of a delivery's own columns: all but the invoice."""
    if wanted.status is not None:
        # Written out and not bound, so that the index of what is dead serves.
        status: ColumnElement[str] = literal_column(f"'{DeliveryStatus(wanted.status)}'")
        yield deliveries.c.status == status
    for compare, column, value in (
        (eq, deliveries.c.origin, wanted.origin),
        (ge, deliveries.c.created_at, wanted.since),
        (lt, deliveries.c.created_at, wanted.until),
    ):
        if value is not None:
            yield compare(column, value)


_told = (
    select(
        *(column for column in deliveries.columns if column is not deliveries.c.body),
        invoices.c.id.label("invoice_id"),
        events.c.description,
        events.c.paid,
        origins.c.held_until,
    )
    .join_from(deliveries, invoices, is_invoice_of_delivery)
    .join(events, is_event_of_delivery)
    .outerjoin(origins, origins.c.origin == deliveries.c.origin)
)


def find(tx: Connection, account_id: str, delivery_id: str) -> dict[str, Any]:
    """
    One delivery of *account_id* with its event and its attempts in order.

    Raises:
        NotFound: if the account has no delivery of that id.
    """
    told = _tell(tx, account_id, _of_account(account_id).where(deliveries.c.id == delivery_id))
    if not told:
        raise NotFound(f"There is no delivery {delivery_id!r}.")
    return told[0]


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
    return _tell(tx, account_id, query.order_by(deliveries.c.sequence.desc()))


def list_deliveries(
    tx: Connection, account_id: str, wanted: DeliveryFilter, *, after: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """
    Up to *limit* deliveries of *account_id*, newest first, and the cursor of the next page.

    A page starts behind the delivery whose id is *after*; the cursor is None on the last one.
    """
    query = _of_account(account_id).where(*conditions_of(wanted))
    newest_first = deliveries.c.id.desc()
    if wanted.invoice_id is not None:
        key = find_key(tx, account_id, wanted.invoice_id)
        if key is None:
            return [], None
        query = query.where(deliveries.c.invoice_key == key)
        # They are few, and sorted: to have them in order, SQLite would walk the whole account.
        newest_first = deliveries.c.id.concat("").desc()
    if after is not None:
        query = query.where(deliveries.c.id < after)
    told = _tell(tx, account_id, query.order_by(newest_first).limit(limit + 1))
    items = told[:limit]
    return items, items[-1]["id"] if len(told) > limit else None


def _of_account(account_id: str) -> Select[Any]:
    # Said of both: the index by which an invoice is found begins with its account.
    return _told.where(deliveries.c.account_id == account_id, invoices.c.account_id == account_id)


def _tell(tx: Connection, account_id: str, query: Select[Any]) -> list[dict[str, Any]]:
    rows = tx.execute(query).mappings().all()
    made = _attempts_of(tx, account_id, [row["id"] for row in rows])
    return [
        {
            **row,
            "due_at": _due_at(row),
            "event": {"description": row["description"], "paid": row["paid"]},
            "attempts": made.get(row["id"], []),
        }
        for row in rows
    ]


def _due_at(row: Any) -> datetime | None:
    """When the next attempt may be made: not before its origin's hold, and never once settled."""
    if row["status"] != DeliveryStatus.PENDING:
        return None
    due_at: datetime = row["due_at"]
    return max(due_at, row["held_until"] or due_at)


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
            attempts.c.number > deliveries.c.attempt_count - ATTEMPTS_TOLD,
        )
    )
    for row in tx.execute(query.order_by(attempts.c.delivery_id, attempts.c.number)).mappings():
        made.setdefault(row["delivery_id"], []).append(row)
    return made
