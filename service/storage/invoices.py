"""Invoices as their account sees them: accepted once under each id, found, listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Row, RowMapping, Text, select

from service.database.given import Given, given
from service.database.rows import insert_rows
from service.domain.ids import new_id
from service.domain.states import Acceptance, InvoiceStatus
from service.errors import FieldError, InvalidInput, NotFound
from service.storage.tables import events, invoices, microseconds
from service.values import value


@value()
class Call:
    """Which callback the events of an invoice fire, and the URL that it made of the request."""

    callback: str
    url: str
    origin: str


@value(kw_only=True)
class NewInvoice:
    """An invoice to be accepted; *call* is None where the API user did not ask to be called."""

    account_id: str
    id: str
    title: str | None
    customer: str
    customer_email: str | None
    total_minor: int
    currency: str
    created_at: datetime
    callback_url: str | None
    call: Call | None
    request_id: str
    traceparent: str | None = None
    key: str = field(default_factory=new_id)


@value()
class Incoming:
    """An invoice to be accepted; with *leased_until* it is born leased, see `handover`."""

    invoice: NewInvoice
    leased_until: datetime | None = None


_CONTENT = ("title", "customer", "customer_email", "total_minor", "currency", "callback_url")
"""What makes two invoices of the same id the same invoice."""

_content_of = attrgetter(*_CONTENT)

_asked = Given(account_id=Text(), id=Text())
_content_of_known = select(
    invoices.c.account_id, invoices.c.id, invoices.c.key, *(invoices.c[name] for name in _CONTENT)
).where(invoices.c.account_id == _asked.c.account_id, invoices.c.id == _asked.c.id)


def accept(tx: Connection, items: Sequence[Incoming]) -> list[Acceptance]:
    """
    Store those of *items* whose id their account has not used yet; all of them are due at once.

    An id that is known with the same content is `REPLAYED`, with other content `CONFLICT`;
    neither changes anything. The rule holds within *items* too, and among processes that
    accept the same id at the same time.

    Runs inside *tx* and never commits it.
    """
    # In one order everywhere: two processes that accept the same ids must not wait for each other.
    ordered = sorted(items, key=_place)
    rows = [_row(item.invoice, item.leased_until) for item in ordered]
    if insert_rows(tx, invoices, rows, unless_known=True) == len(rows):
        return [Acceptance.STORED] * len(items)
    known = {(row.account_id, row.id): row for row in _known(tx, ordered)}
    return [_accepted(item.invoice, known[_place(item)]) for item in items]


def find_key(tx: Connection, account_id: str, invoice_id: str) -> str | None:
    """The key of one invoice of *account_id*; None if it has none of that id."""
    of_account = invoices.c.account_id == account_id
    key: str | None = tx.scalar(
        select(invoices.c.key).where(of_account, invoices.c.id == invoice_id)
    )
    return key


def find(tx: Connection, account_id: str, invoice_id: str) -> dict[str, Any]:
    """
    One invoice of *account_id* with its events in order.

    Raises:
        NotFound: if the account has no invoice of that id.
    """
    row = tx.execute(
        select(invoices).where(invoices.c.account_id == account_id, invoices.c.id == invoice_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no invoice {invoice_id!r}.")
    return {**row._mapping, "events": _events_of(tx, account_id, [row.key]).get(row.key, [])}


def list_invoices(
    tx: Connection, account_id: str, *, status: str | None, after: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """
    Up to *limit* invoices of *account_id*, newest first, and the cursor of the next page.

    A page starts behind the invoice whose id is *after*; the cursor is None on the last one.

    Raises:
        InvalidInput: if the account has no invoice *after*.
    """
    query = select(invoices).where(invoices.c.account_id == account_id)
    if status is not None:
        query = query.where(invoices.c.status == status)
    if after is not None:
        key = find_key(tx, account_id, after)
        if key is None:
            raise InvalidInput([FieldError("query", "/after", "There is no page behind this.")])
        query = query.where(invoices.c.key < key)
    rows = tx.execute(query.order_by(invoices.c.key.desc()).limit(limit + 1)).mappings().all()
    told = _events_of(tx, account_id, [row["key"] for row in rows[:limit]])
    items = [{**row, "events": told.get(row["key"], [])} for row in rows[:limit]]
    return items, items[-1]["id"] if len(rows) > limit else None


def _place(item: Incoming) -> tuple[str, str]:
    return item.invoice.account_id, item.invoice.id


def _known(tx: Connection, items: Sequence[Incoming]) -> Sequence[Row[Any]]:
    """What is stored under the ids of *items*, their own rows included."""
    asked = [{"account_id": item.invoice.account_id, "id": item.invoice.id} for item in items]
    return tx.execute(_content_of_known, given(asked)).all()


def _accepted(invoice: NewInvoice, stored: Row[Any]) -> Acceptance:
    if stored.key == invoice.key:
        return Acceptance.STORED
    is_same = _content_of(stored) == _content_of(invoice)
    return Acceptance.REPLAYED if is_same else Acceptance.CONFLICT


def _row(invoice: NewInvoice, leased_until: datetime | None) -> tuple[Any, ...]:
    created_at, call = microseconds(invoice.created_at), invoice.call
    return (
        invoice.account_id,
        invoice.key,
        invoice.id,
        invoice.title,
        invoice.customer,
        invoice.customer_email,
        invoice.total_minor,
        invoice.currency,
        InvoiceStatus.RECEIVED.value,
        created_at,
        invoice.callback_url,
        call.callback if call else None,
        call.url if call else None,
        call.origin if call else None,
        0,
        created_at,
        microseconds(leased_until),
        1 if leased_until else 0,
        invoice.request_id,
        invoice.traceparent,
    )


def _events_of(tx: Connection, account_id: str, keys: Sequence[str]) -> dict[str, list[RowMapping]]:
    told: dict[str, list[RowMapping]] = {}
    query = select(events).where(events.c.account_id == account_id, events.c.invoice_key.in_(keys))
    for row in tx.execute(query.order_by(events.c.invoice_key, events.c.sequence)).mappings():
        told.setdefault(row["invoice_key"], []).append(row)
    return told
