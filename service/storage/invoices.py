"""Invoices: accepted once under each id of an account, found, listed."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate, starmap
from operator import attrgetter, itemgetter
from typing import Any

import orjson
from sqlalchemy import Connection, Row, RowMapping, Text, and_, select

from service.database.at_once import AtOnce
from service.database.bulk import Given, given, given_statement, insert_rows
from service.database.compiled import as_json
from service.domain.invoice import CONTENT, FIRST_LEASE_TOKEN, EvaluatedCallback, Invoice
from service.domain.states import Acceptance, InvoiceStatus
from service.errors import NotFound, UnknownCursor
from service.storage.tables import events, invoices, microseconds

InvoiceToAccept = tuple[Invoice, datetime | None, int | None]
"""An invoice, until when it is leased if at all, and the id of the process that accepts it."""

_content_of = attrgetter(*CONTENT)


def differences(invoice: Invoice, stored: Mapping[str, Any]) -> list[str]:
    """The columns in which *invoice* differs from what is *stored* under its id."""
    return [name for name in CONTENT if getattr(invoice, name) != stored[name]]


EVENTS_MAX = 100
"""Events of one invoice that are told, the newest."""

PAGE_EVENTS = 2000
"""Invoices are added to a page until they have so many events."""

SCAN_MAX = 20_000
"""
How many rows a page looks at for its filter: some ten milliseconds.

A page that has looked at so many ends there, perhaps without an item, and has a cursor.
"""

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
    return insert_new(tx, [invoice for invoice, *_ in items], starmap(_row, items))


def insert_new(
    tx: Connection, new: Sequence[Invoice], rows: Iterable[tuple[Any, ...]]
) -> list[Acceptance]:
    """Insert the *rows* of those of the *new* invoices whose id is not known; see `accept`."""
    # In the same order in every process, so that two of them never wait for each other's rows.
    ordered = sorted(rows, key=_account_and_id)
    if insert_rows(tx, invoices, ordered, unless_known=True) == len(ordered):
        return [Acceptance.STORED] * len(new)
    asked = [{"account_id": invoice.account_id, "id": invoice.id} for invoice in new]
    known = {(row.account_id, row.id): row for row in tx.execute(_content_of_known, given(asked))}
    return [_acceptance(one, known[one.account_id, one.id]) for one in new]


def accept_at_once(items: Sequence[InvoiceToAccept]) -> AtOnce:
    """The statement that does `accept` where all ids are new; otherwise it does not say enough."""
    text, names = given_statement(invoices, "postgresql", _UNLESS_KNOWN)
    rows = sorted(starmap(_row, items), key=_account_and_id)
    stored = [Acceptance.STORED] * len(items)
    return AtOnce(
        text,
        (as_json([dict(zip(names, row, strict=True)) for row in rows]),),
        lambda found: stored if len(found) == len(items) else None,
    )


_UNLESS_KNOWN = " ON CONFLICT DO NOTHING RETURNING key"


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
    values["callbacks"] = tuple(evaluated_callback(one, row["callback_url"]) for one in evaluated)
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
    return _told(tx, account_id, [row._mapping])[0]


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
    cursor is None on the last page. A page with a cursor may have fewer items, or none: see
    `SCAN_MAX` and `PAGE_EVENTS`.

    Raises:
        UnknownCursor: if the account has no invoice *after*.
    """
    of_account = invoices.c.account_id == account_id
    query, scanned = select(invoices).where(of_account), select(invoices.c.key).where(of_account)
    if after is not None:
        key = find_key(tx, account_id, after)
        if key is None:
            raise UnknownCursor
        query, scanned = query.where(invoices.c.key < key), scanned.where(invoices.c.key < key)
    newest_first = invoices.c.key.desc()
    scanned_to: str | None = None
    if invoice_id is not None:
        query = query.where(invoices.c.id == invoice_id)
    else:
        query = query.order_by(newest_first).limit(limit + 1)
    if status is not None:
        query = query.where(invoices.c.status == status)
        if invoice_id is None:
            last = scanned.order_by(newest_first).offset(SCAN_MAX - 1).limit(1)
            scanned_to = tx.scalar(last)
    if scanned_to is not None:
        query = query.where(invoices.c.key >= scanned_to)
    rows = tx.execute(query).mappings().all()
    count = min(limit, _count_within(rows, PAGE_EVENTS))
    items = _told(tx, account_id, rows[:count])
    if len(rows) > count:
        return items, items[-1]["id"]
    return items, scanned_to and _id_of(tx, account_id, scanned_to)


def _count_within(rows: Sequence[RowMapping], events_max: int) -> int:
    """How many of *rows*, at least one, have no more than *events_max* events together."""
    told = accumulate(min(row["event_count"], EVENTS_MAX) for row in rows)
    return max(1, sum(1 for count in told if count <= events_max))


def _id_of(tx: Connection, account_id: str, key: str) -> str:
    of_key = invoices.c.account_id == account_id, invoices.c.key == key
    id_: str = tx.scalars(select(invoices.c.id).where(*of_key)).one()
    return id_


_account_and_id = itemgetter(0, 2)


def _acceptance(invoice: Invoice, stored: Row[Any]) -> Acceptance:
    if stored.key == invoice.key:
        return Acceptance.STORED
    is_same = _content_of(stored) == _content_of(invoice)
    return Acceptance.REPLAYED if is_same else Acceptance.CONFLICT


def stored_callbacks(invoice: Invoice) -> str | None:
    """The evaluated callbacks of *invoice* as they are stored; see `evaluated_callback`."""
    default = _default_base(invoice.callback_url)
    evaluated = [
        (one.callback, one.url, one.origin)
        if one.base == default
        else (one.callback, one.url, one.origin, one.base)
        for one in invoice.callbacks
    ]
    return orjson.dumps(evaluated).decode() if evaluated else None


def evaluated_callback(stored: Sequence[str], callback_url: str | None) -> EvaluatedCallback:
    """
    The evaluated callback that was *stored* as [name, URL, origin] or [name, URL, origin, base].

    The base is stored only where it is not the *callback_url* of the invoice: that is shorter, and
    a version before 0007 can read it.
    """
    name, url, origin, *bases = stored
    default = _default_base(callback_url)
    base = bases[0] if bases else default if url.startswith(default) else ""
    return EvaluatedCallback(name, url, origin, base)


def _default_base(callback_url: str | None) -> str:
    return (callback_url or "").removesuffix("/")


def _row(
    invoice: Invoice, leased_until: datetime | None, process_id: int | None
) -> tuple[Any, ...]:
    state = invoice.status, invoice.event_count, invoice.created_at
    if leased_until is None:
        return new_row(invoice, *state)
    return new_row(invoice, *state, microseconds(leased_until), FIRST_LEASE_TOKEN, process_id)


def new_row(
    invoice: Invoice,
    status: InvoiceStatus,
    event_count: int,
    due_at: datetime | None,
    leased_until: int | None = None,
    lease_token: int = 0,
    leased_by: int | None = None,
) -> tuple[Any, ...]:
    """The row of a new invoice, in the order of the table's columns."""
    return (
        invoice.account_id,  # account_id
        invoice.key,  # key
        invoice.id,  # id
        *_content_of(invoice),
        invoice.decimals,  # decimals
        str(status),  # status
        microseconds(invoice.created_at),  # created_at
        stored_callbacks(invoice),  # callbacks
        event_count,  # event_count
        microseconds(due_at),  # due_at
        leased_until,  # leased_until
        lease_token,  # lease_token
        invoice.request_id,  # request_id
        invoice.traceparent,  # traceparent
        leased_by,  # leased_by
        None,  # amount_refunded_minor
        None,  # overpaid_minor
        None,  # mismatch
    )


def _told(tx: Connection, account_id: str, rows: Sequence[RowMapping]) -> list[dict[str, Any]]:
    """Invoices as they are told: *rows* with their newest events in order."""
    found: dict[str, list[RowMapping]] = {}
    if not any(row["event_count"] for row in rows):
        return [{**row, "events": []} for row in rows]
    query = _newest_events.where(
        events.c.account_id == account_id, invoices.c.key.in_([row["key"] for row in rows])
    )
    for row in tx.execute(query.order_by(events.c.invoice_key, events.c.sequence)).mappings():
        found.setdefault(row["invoice_key"], []).append(row)
    return [{**row, "events": found.get(row["key"], [])} for row in rows]


_newest_events = select(events).join_from(
    invoices,
    events,
    and_(
        events.c.account_id == invoices.c.account_id,
        events.c.invoice_key == invoices.c.key,
        events.c.sequence > invoices.c.event_count - EVENTS_MAX,
    ),
)
