"""Invoices: accepted once under each id of an account, found, listed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import starmap
from operator import attrgetter, itemgetter
from typing import Any

import orjson
from sqlalchemy import Connection, Row, RowMapping, Text, select

from service.database.bulk import Given, given, insert_rows
from service.domain.invoice import CONTENT, FIRST_LEASE_TOKEN, EvaluatedCallback, Invoice
from service.domain.states import Acceptance, InvoiceStatus
from service.errors import NotFound, UnknownCursor
from service.storage.tables import events, invoices, microseconds

InvoiceToAccept = tuple[Invoice, datetime | None]
"""An invoice, and until when it is leased to the process that accepts it, if at all."""

_content_of = attrgetter(*CONTENT)


def differences(invoice: Invoice, stored: Mapping[str, Any]) -> list[str]:
    """The columns in which *invoice* differs from what is *stored* under its id."""
    return [name for name in CONTENT if getattr(invoice, name) != stored[name]]


_asked = Given(account_id=Text(), id=Text())
_content_of_known = select(
    invoices.c.account_id, invoices.c.id, invoices.c.key, *(invoices.c[name] for name in CONTENT)
).where(invoices.c.account_id == _asked.c.account_id, invoices.c.id == _asked.c.id)


def accept(tx: Connection, items: Sequence[InvoiceToAccept]) -> list[Acceptance]:
    """
    Store those of *items* whose id their account has not used yet; all of them are due at once.

    An id that is known with the same content is `REPLAYED`, with other content `CONFLICT`;
    neither changes anything. The rule holds within *items* too, and among processes that
    accept the same id at the same time.

    Runs inside *tx* and never commits it.
    """
    # In the same order in every process, so that two of them never wait for each other's rows.
    rows = sorted(starmap(_row, items), key=_account_and_id)
    if insert_rows(tx, invoices, rows, unless_known=True) == len(rows):
        return [Acceptance.STORED] * len(items)
    asked = [{"account_id": invoice.account_id, "id": invoice.id} for invoice, _ in items]
    known = {(row.account_id, row.id): row for row in tx.execute(_content_of_known, given(asked))}
    return [_acceptance(one, known[one.account_id, one.id]) for one, _ in items]


def find_key(tx: Connection, account_id: str, invoice_id: str) -> str | None:
    """The key of one invoice of *account_id*; None if it has no invoice of that id."""
    of_account = invoices.c.account_id == account_id
    key: str | None = tx.scalar(
        select(invoices.c.key).where(of_account, invoices.c.id == invoice_id)
    )
    return key


def key_of(tx: Connection, account_id: str, invoice_id: str) -> str:
    """
    The key of one invoice of *account_id*.

    Raises:
        NotFound: if the account has no invoice of that id.
    """
    key = find_key(tx, account_id, invoice_id)
    if key is None:
        raise NotFound(f"There is no invoice {invoice_id!r}.")
    return key


def by_key(tx: Connection, account_id: str, key: str) -> dict[str, Any] | None:
    """The row of one invoice by its key; None if there is none."""
    is_it = (invoices.c.account_id == account_id, invoices.c.key == key)
    row = tx.execute(select(invoices).where(*is_it)).mappings().one_or_none()
    return dict(row) if row else None


def as_invoice(row: Mapping[str, Any]) -> Invoice:
    """The value of a *row* of invoices, which has more columns than the value."""
    values = {name: row[name] for name in Invoice.__dataclass_fields__}
    evaluated = orjson.loads(row["callbacks"] or "[]")
    values["callbacks"] = tuple(EvaluatedCallback(*one) for one in evaluated)
    values["status"] = InvoiceStatus(row["status"])
    return Invoice(**values)


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
    tx: Connection,
    account_id: str,
    *,
    status: str | None,
    after: str | None,
    limit: int,
    invoice_id: str | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """
    Up to *limit* invoices of *account_id*, newest first, and the cursor of the next page.

    With *invoice_id*, that one alone. A page starts after the invoice whose id is *after*; the
    cursor is None on the last page.

    Raises:
        UnknownCursor: if the account has no invoice *after*.
    """
    query = select(invoices).where(invoices.c.account_id == account_id)
    if status is not None:
        query = query.where(invoices.c.status == status)
    if after is not None:
        key = find_key(tx, account_id, after)
        if key is None:
            raise UnknownCursor
        query = query.where(invoices.c.key < key)
    if invoice_id is not None:
        query = query.where(invoices.c.id == invoice_id)
    else:
        query = query.order_by(invoices.c.key.desc()).limit(limit + 1)
    rows = tx.execute(query).mappings().all()
    found = _events_of(tx, account_id, [row["key"] for row in rows[:limit]])
    items = [{**row, "events": found.get(row["key"], [])} for row in rows[:limit]]
    return items, items[-1]["id"] if len(rows) > limit else None


_account_and_id = itemgetter(0, 2)


def _acceptance(invoice: Invoice, stored: Row[Any]) -> Acceptance:
    if stored.key == invoice.key:
        return Acceptance.STORED
    is_same = _content_of(stored) == _content_of(invoice)
    return Acceptance.REPLAYED if is_same else Acceptance.CONFLICT


def _row(invoice: Invoice, leased_until: datetime | None) -> tuple[Any, ...]:
    created_at = microseconds(invoice.created_at)
    evaluated = [(one.callback, one.url, one.origin) for one in invoice.callbacks]
    # In the order of the table's columns.
    return (
        invoice.account_id,  # account_id
        invoice.key,  # key
        invoice.id,  # id
        *_content_of(invoice),
        invoice.decimals,  # decimals
        invoice.status.value,  # status
        created_at,  # created_at
        orjson.dumps(evaluated).decode() if evaluated else None,  # callbacks
        invoice.event_count,  # event_count
        created_at,  # due_at
        microseconds(leased_until),  # leased_until
        FIRST_LEASE_TOKEN if leased_until else 0,  # lease_token
        invoice.request_id,  # request_id
        invoice.traceparent,  # traceparent
        None,  # amount_refunded_minor
        None,  # overpaid_minor
        None,  # mismatch
    )


def _events_of(tx: Connection, account_id: str, keys: Sequence[str]) -> dict[str, list[RowMapping]]:
    found: dict[str, list[RowMapping]] = {}
    query = select(events).where(events.c.account_id == account_id, events.c.invoice_key.in_(keys))
    for row in tx.execute(query.order_by(events.c.invoice_key, events.c.sequence)).mappings():
        found.setdefault(row["invoice_key"], []).append(row)
    return found
