"""Invoices as their account sees them: accepted once under each id, found, listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, select

from service.errors import InvalidInput, Mistake, NotFound
from service.storage.keys import new_key
from service.storage.rows import insert_rows
from service.storage.states import InvoiceStatus
from service.storage.tables import events, invoices, microseconds


@dataclass(frozen=True, slots=True)
class Call:
    """Which callback the events of an invoice fire, and the URL that it made of the request."""

    callback: str
    url: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
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
    key: str = field(default_factory=new_key)


@dataclass(frozen=True, slots=True)
class Incoming:
    """An invoice to be accepted; with *leased_until* it is born leased, see `handover`."""

    invoice: NewInvoice
    leased_until: datetime | None = None


class Acceptance(Enum):
    """What became of an invoice that was sent in."""

    STORED = "stored"
    REPLAYED = "replayed"
    CONFLICT = "conflict"


_CONTENT = ("title", "customer", "customer_email", "total_minor", "currency", "callback_url")
"""What makes two invoices of the same id the same invoice."""

_content_of = attrgetter(*_CONTENT)

_content_of_known = select(invoices.c.id, *(invoices.c[name] for name in _CONTENT)).where(
    invoices.c.account_id == bindparam("account_id"),
    invoices.c.id.in_(bindparam("ids", expanding=True)),
)


def accept(tx: Connection, items: Sequence[Incoming]) -> list[Acceptance]:
    """
    Store those of *items* whose id their account has not used yet; all of them are due at once.

    An id that is known with the same content is `REPLAYED`, with other content `CONFLICT`;
    neither changes anything. The rule holds within *items* too.

    Runs inside *tx* and never commits it.
    """
    known = _known_content(tx, items)
    rows, acceptances = [], []
    for item in items:
        invoice, content = item.invoice, _content_of(item.invoice)
        if (earlier := known.setdefault((invoice.account_id, invoice.id), content)) is content:
            rows.append(_row(invoice, item.leased_until))
            acceptances.append(Acceptance.STORED)
        else:
            same = earlier == content
            acceptances.append(Acceptance.REPLAYED if same else Acceptance.CONFLICT)
    insert_rows(tx, invoices, rows)
    return acceptances


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
    return {**row._mapping, "events": _events_of(tx, [row.key]).get(row.key, [])}


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
            raise InvalidInput([Mistake("query", "/after", "There is no page behind this.")])
        query = query.where(invoices.c.key < key)
    rows = tx.execute(query.order_by(invoices.c.key.desc()).limit(limit + 1)).mappings().all()
    told = _events_of(tx, [row["key"] for row in rows[:limit]])
    items = [{**row, "events": told.get(row["key"], [])} for row in rows[:limit]]
    return items, items[-1]["id"] if len(rows) > limit else None


def _known_content(
    tx: Connection, items: Sequence[Incoming]
) -> dict[tuple[str, str], tuple[Any, ...]]:
    ids: dict[str, set[str]] = {}
    for item in items:
        ids.setdefault(item.invoice.account_id, set()).add(item.invoice.id)
    known = {}
    for account_id, wanted in ids.items():
        parameters = {"account_id": account_id, "ids": list(wanted)}
        for row in tx.execute(_content_of_known, parameters):
            known[account_id, row[0]] = tuple(row[1:])
    return known


def _row(invoice: NewInvoice, leased_until: datetime | None) -> tuple[Any, ...]:
    created_at, call = microseconds(invoice.created_at), invoice.call
    return (
        invoice.key,
        invoice.account_id,
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
    )


def _events_of(tx: Connection, keys: Sequence[int]) -> dict[int, list[RowMapping]]:
    told: dict[int, list[RowMapping]] = {}
    query = select(events).where(events.c.invoice_key.in_(keys))
    for row in tx.execute(query.order_by(events.c.invoice_key, events.c.sequence)).mappings():
        told.setdefault(row["invoice_key"], []).append(row)
    return told
