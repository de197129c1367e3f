"""
The history of deliveries, attempt by attempt, as their account reads it.

What a read costs is bounded: by the attempts and the bodies that are told, by the size of a page,
and by the rows that a filter looks at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import eq, ge, lt
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    and_,
    case,
    func,
    literal,
    literal_column,
    select,
)

from service.domain import test_events
from service.domain.ids import lower_bound
from service.domain.listening import is_for_listener
from service.domain.states import DeliveryStatus
from service.domain.waiting import Waits
from service.errors import NotFound, UnknownCursor
from service.storage import transmissions
from service.storage.deliveries import is_first_of_its_invoice
from service.storage.invoices import SCAN_MAX as SCAN_MAX  # noqa: PLC0414 -- counts end there too
from service.storage.invoices import find_key
from service.storage.tables import (
    attempts,
    deliveries,
    events,
    invoices,
    is_attempt_of_delivery,
    is_event_of_delivery,
    is_invoice_of_delivery,
    listeners,
    origins,
    receivers,
)

ATTEMPTS_MAX = 100
"""Attempts of one delivery that are kept, the newest: there is no bound on redeliveries."""

BODIES_MAX = 10
"""How many of them are kept with what was sent and answered, the newest."""

PAGE_CHARACTERS = 500_000
"""Deliveries with all their attempts are added to a page until they have so much text."""

ATTEMPT_CHARACTERS = 1000
"""What an attempt takes on such a page besides what was sent and answered."""

CLOCK_MARGIN = timedelta(minutes=10)
"""
How far the instant in the id of a delivery may be from its `created_at`.

The id is generated when the event is recorded, which a database that is away delays; and while a
clock is set back, ids go on from where they were.
"""

Page = tuple[list[dict[str, Any]], str | None]
"""The items of a page, and the cursor of the next one; None on the last."""


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


def bounds_of(wanted: DeliveryFilter) -> Iterator[ColumnElement[bool]]:
    """
    Conditions on the id of a delivery that follow from *since* and *until*.

    Ids are in the order of time, so that a page begins and ends near these instants.
    """
    if wanted.since is not None:
        yield deliveries.c.id >= _id_at(wanted.since, -CLOCK_MARGIN)
    if wanted.until is not None:
        yield deliveries.c.id < _id_at(wanted.until, CLOCK_MARGIN)


def _id_at(instant: datetime, margin: timedelta) -> str:
    try:
        return f"msg_{lower_bound(instant + margin)}"
    except OverflowError:  # within minutes of the first or the last instant that there is
        return f"msg_{lower_bound(instant)}"


_shown = (
    select(
        *(column for column in deliveries.columns if column is not deliveries.c.body),
        # A test event has neither an invoice nor an event of one.
        func.coalesce(invoices.c.id, deliveries.c.invoice_key).label("invoice_id"),
        func.coalesce(events.c.description, literal(test_events.DESCRIPTION)).label("description"),
        func.coalesce(events.c.paid, literal(test_events.IS_PAID)).label("paid"),
        receivers.c.held_until,
        receivers.c.cooldown_until,
        receivers.c.failing_since,
        receivers.c.paused_at,
        origins.c.held_until.label("origin_until"),
        is_first_of_its_invoice.label("is_first"),
        listeners.c.beat_at,
    )
    .outerjoin_from(deliveries, invoices, is_invoice_of_delivery)
    .outerjoin(events, is_event_of_delivery)
    .outerjoin(receivers, receivers.c.receiver == deliveries.c.receiver)
    .outerjoin(origins, origins.c.origin == deliveries.c.origin)
    .outerjoin(
        listeners,
        and_(
            listeners.c.account_id == deliveries.c.account_id,
            listeners.c.origin == deliveries.c.origin,
        ),
    )
)


def find(tx: Connection, account_id: str, delivery_id: str) -> dict[str, Any]:
    """
    One delivery of *account_id* with its event and its attempts in order.

    Raises:
        NotFound: if the account has no delivery of that id.
    """
    row = find_row(tx, account_id, delivery_id)
    return _told(row, _attempts_of(tx, row))


def find_row(tx: Connection, account_id: str, delivery_id: str) -> RowMapping:
    """
    The row of one delivery of *account_id*, with its event and what it waits for.

    Raises:
        NotFound: if the account has no delivery of that id.
    """
    query = _of_account(account_id).where(deliveries.c.id == delivery_id)
    row = tx.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no delivery {delivery_id!r}.")
    return row


def of_invoice(
    tx: Connection, account_id: str, invoice_id: str, *, after: str | None, limit: int
) -> Page:
    """
    Up to *limit* deliveries of one invoice with their attempts, newest first, and the cursor.

    A page has fewer of them where their attempts have much text.

    Raises:
        NotFound: if the account has no invoice of that id.
        UnknownCursor: if the account has no delivery *after*.
    """
    if find_key(tx, account_id, invoice_id) is None:
        raise NotFound(f"There is no invoice {invoice_id!r}.")
    wanted = DeliveryFilter(invoice_id=invoice_id)
    rows, next_after = _page(tx, account_id, wanted, after=after, limit=limit)
    items, characters = list[dict[str, Any]](), 0
    for row in rows:
        if characters >= PAGE_CHARACTERS:
            return items, items[-1]["id"]
        made = _attempts_of(tx, row)
        items.append(_told(row, made))
        characters += sum(
            len(one["response_body"] or "")
            + (len(one["transmission"]) + len(row["url"]) if one["transmission"] else 0)
            + ATTEMPT_CHARACTERS
            for one in made
        )
    return items, next_after


def list_deliveries(
    tx: Connection, account_id: str, wanted: DeliveryFilter, *, after: str | None, limit: int
) -> Page:
    """
    Up to *limit* deliveries of *account_id*, newest first, and the cursor of the next page.

    Each has its newest attempt alone, without the body of the answer. A page starts after the
    delivery whose id is *after*; the cursor is None on the last page. A page with a cursor may
    have fewer items, or none: see `SCAN_MAX`.

    Raises:
        UnknownCursor: if the account has no delivery *after*.
    """
    rows, next_after = _page(tx, account_id, wanted, after=after, limit=limit)
    attempted = [row["id"] for row in rows if row["attempt_count"]]
    newest = _newest_attempts(tx, account_id, attempted) if attempted else {}
    return [_told(row, newest.get(row["id"], [])) for row in rows], next_after


def _page(
    tx: Connection, account_id: str, wanted: DeliveryFilter, *, after: str | None, limit: int
) -> tuple[Sequence[RowMapping], str | None]:
    """The rows of a page of the *wanted* deliveries, and the cursor of the next one."""
    if after is not None and not _is_known(tx, account_id, after):
        raise UnknownCursor
    # The ids alone at first: of the rows that a filter looks at, few are joined with others.
    query = select(deliveries.c.id).where(
        deliveries.c.account_id == account_id, *conditions_of(wanted)
    )
    id_: ColumnElement[str] = deliveries.c.id
    scanned_to = None
    if wanted.invoice_id is not None:
        key = find_key(tx, account_id, wanted.invoice_id)
        if key is None and wanted.invoice_id.startswith(test_events.ID_PREFIX):
            key = wanted.invoice_id
        query = query.where(deliveries.c.invoice_key == key)
        # An expression, so that SQLite finds the few deliveries by their invoice. For the order
        # of the column, it would scan all deliveries of the account.
        id_ = deliveries.c.id.concat("")
    elif wanted != DeliveryFilter():
        query = query.where(*bounds_of(wanted))
        scanned_to = end_of_scan(tx, account_id, wanted, after)
    if after is not None:
        query = query.where(id_ < after)
    if scanned_to is not None:
        query = query.where(id_ >= scanned_to)
    ids = tx.scalars(query.order_by(id_.desc()).limit(limit + 1)).all()
    next_after = ids[limit - 1] if len(ids) > limit else scanned_to
    if not ids:
        return [], next_after
    rows = _of_account(account_id).where(deliveries.c.id.in_(ids[:limit]))
    return tx.execute(rows.order_by(deliveries.c.id.desc())).mappings().all(), next_after


def _is_known(tx: Connection, account_id: str, delivery_id: str) -> bool:
    known = select(deliveries.c.id).where(
        deliveries.c.account_id == account_id, deliveries.c.id == delivery_id
    )
    return tx.scalar(known) is not None


def end_of_scan(
    tx: Connection, account_id: str, wanted: DeliveryFilter, after: str | None
) -> str | None:
    """The last delivery that the page looks at; None where fewer than `SCAN_MAX` are left."""
    scanned = select(deliveries.c.id).where(
        deliveries.c.account_id == account_id, *bounds_of(wanted)
    )
    if wanted.status == DeliveryStatus.DEAD:
        # They have an index of their own.
        scanned = scanned.where(*conditions_of(DeliveryFilter(status=wanted.status)))
    if after is not None:
        scanned = scanned.where(deliveries.c.id < after)
    last = scanned.order_by(deliveries.c.id.desc()).offset(SCAN_MAX - 1).limit(1)
    id_: str | None = tx.scalar(last)
    return id_


def _of_account(account_id: str) -> Select[Any]:
    return _shown.where(deliveries.c.account_id == account_id)


def _told(row: RowMapping, made: Sequence[RowMapping | dict[str, Any]]) -> dict[str, Any]:
    """A delivery as it is told: *row* of `_shown` and its attempts *made*."""
    return {
        **row,
        "due_at": _due_at(row),
        "waits": waits_of(row),
        "event": {"description": row["description"], "paid": row["paid"]},
        "attempts": made,
    }


def _due_at(row: Any) -> datetime | None:
    """When the next attempt may be made: after the hold of the receiver; None once settled."""
    if row["status"] != DeliveryStatus.PENDING:
        return None
    due_at: datetime = row["due_at"]
    # What was asked for by hand is attempted although the receiver is held.
    return due_at if row["is_asked"] else max(due_at, row["held_until"] or due_at)


def waits_of(row: Any) -> Waits | None:
    """What the delivery of *row* waits for; None once it is settled."""
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
        is_paused=row["paused_at"] is not None,
        is_for_listener=is_for_listener(row["origin"]),
        beat_at=row["beat_at"],
    )


_texts = ("response_body", "transmission")
_without_body = [column for column in attempts.columns if column.name not in _texts]
_newest = select(*_without_body).join_from(
    deliveries,
    attempts,
    and_(is_attempt_of_delivery, attempts.c.number == deliveries.c.attempt_count),
)


def _attempts_of(tx: Connection, row: RowMapping) -> list[dict[str, Any]]:
    """The newest attempts of a delivery in order, the newest of them with all their texts."""
    age = deliveries.c.attempt_count - attempts.c.number
    texts = [case((age < BODIES_MAX, attempts.c[name])).label(name) for name in _texts]
    query = (
        select(*_without_body, *texts)
        .join_from(deliveries, attempts, is_attempt_of_delivery)
        .where(
            deliveries.c.account_id == row["account_id"],
            deliveries.c.id == row["id"],
            attempts.c.number > deliveries.c.attempt_count - ATTEMPTS_MAX,
        )
    )
    made = tx.execute(query.order_by(attempts.c.number)).mappings()
    return [transmissions.told(one, row["url"]) for one in made]


def _newest_attempts(
    tx: Connection, account_id: str, delivery_ids: Sequence[str]
) -> dict[str, Sequence[RowMapping]]:
    """The newest attempt of each delivery, without the body of the answer."""
    query = _newest.where(deliveries.c.account_id == account_id, deliveries.c.id.in_(delivery_ids))
    return {row["delivery_id"]: [row] for row in tx.execute(query).mappings()}
