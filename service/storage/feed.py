"""
The feed of an account: what happened to its invoices, in the order of the commits.

A reader that asks for what comes after the last item it has seen must never skip an event, although
transactions do not commit in the order in which they begin. Therefore each event has a position:

* On SQLite, where one transaction writes at a time, it is one above the greatest of the account.
* On PostgreSQL, it is the number of the transaction that writes the event. Readers are given only
  what is below the oldest transaction that is still writing: all events that become visible later
  have a greater number. An event has at least the position of the earlier events of its invoice,
  because a transaction with a smaller number may write after one with a greater number.

A database that is restored into another server meets smaller numbers there. `rebase` finds that out
before anything is written, and from then on a base is added to the numbers.

Events of one position are in the order of their invoices, then of their numbers there.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    RowMapping,
    Text,
    and_,
    case,
    func,
    literal_column,
    select,
    text,
    true,
    tuple_,
)

from service.database.bulk import Given, given, insert_of
from service.domain.delivery import Delivery
from service.domain.invoice import Event
from service.errors import UnknownCursor
from service.storage.tables import events, feed_base, feed_bases, invoices
from service.values import value

LONG_CHARACTERS = 2_000
"""Bodies that are longer are read one by one, until the page is full."""

PAGE_CHARACTERS = 2**20
"""Long bodies are added to a page until they have so much text."""

DEFAULT_CALLBACK = "invoice_notification"
"""The callback of events whose callbacks were not stored: versions before 0011 had no other."""


@value()
class FeedCursor:
    """
    A place in the feed of an account: behind the first *item_count* items of an event.

    The event is the one with the number *sequence* of the invoice with the key *invoice_key*.
    """

    position: int
    invoice_key: str
    sequence: int
    item_count: int

    def __str__(self) -> str:
        """The text that API users get, and give back."""
        parts = self.position, self.invoice_key, self.sequence, self.item_count
        return urlsafe_b64encode(".".join(map(str, parts)).encode()).decode().rstrip("=")

    @staticmethod
    def of(given_text: str) -> "FeedCursor":
        """
        The cursor of a text that `str` has made.

        Raises:
            UnknownCursor: for any other text.
        """
        try:
            decoded = urlsafe_b64decode(given_text + "=" * (-len(given_text) % 4)).decode("ascii")
        except (Base64Error, ValueError):
            raise UnknownCursor from None
        parts = _CURSOR.fullmatch(decoded)
        if parts is None:
            raise UnknownCursor
        position, key, sequence, count = parts.groups()
        cursor = FeedCursor(int(position), key, int(sequence), int(count))
        if str(cursor) != given_text or cursor.position > _POSITION_MAX:
            raise UnknownCursor
        return cursor


_CURSOR = re.compile(r"([0-9]{1,19})\.([0-9A-Za-z_-]{0,64})\.([0-9]{1,9})\.([0-9]{1,9})")
_POSITION_MAX = 2**63 - 1
BEGINNING = FeedCursor(0, "", 0, 0)
"""Before the oldest event."""


@value()
class FeedItem:
    """
    One callback of an event: made, or not because the invoice gave no URL for it.

    *id* is the webhook-id of the callback, if one was made; it never changes. *own_body* is its
    JSON; None where it is made of *description*, *paid* and *invoice_id*.
    """

    id: str
    invoice_id: str
    callback: str
    description: str
    paid: bool
    own_body: bytes | None
    at: datetime
    cursor: FeedCursor


@value()
class FeedPage:
    """Items in the order of the feed, and the cursor behind all that was looked at."""

    items: Sequence[FeedItem]
    next: FeedCursor


def stored_callbacks(event: Event, new: Sequence[Delivery]) -> str:
    """The callbacks of *event*, whose deliveries are *new*, as the table holds them."""
    ids = {one.callback: one.id for one in new}
    told: dict[str, Any] = {name: ids.get(name) for name in event.callbacks}
    for name, body in (event.bodies or {}).items():
        told[name] = [told[name], orjson.Fragment(body)]
    return orjson.dumps(told).decode()


def page(tx: Connection, account_id: str, *, after: str | None, limit: int) -> FeedPage:
    """
    Up to *limit* items of *account_id* behind the cursor *after*, or from the oldest one.

    A page has fewer items where bodies are long, or where something is not committed yet. The
    cursor of a page without new events is the one that was given.

    Raises:
        UnknownCursor: if *after* is no cursor, or is ahead of all that can be stored: the database
            was restored from a backup that is older than the cursor.
    """
    start = FeedCursor.of(after) if after is not None else BEGINNING
    rows = _rows_from(tx, account_id, start, limit + 1)
    items, cursor, characters = list[FeedItem](), start, 0
    for row in rows:
        if row["callbacks"] is None and row["length"]:
            characters += row["length"]
            if items and characters > PAGE_CHARACTERS:
                break
        seen = start.item_count if _place(row) == _place_of(start) else 0
        found = list(_items(row, _callbacks(tx, account_id, row)))
        new = found[seen:][: limit - len(items)]
        items += new
        cursor = FeedCursor(*_place(row), seen + len(new))
        if seen + len(new) < len(found):
            break
    if not items and cursor.position > _newest_possible(tx, account_id):
        raise UnknownCursor
    return FeedPage(items, cursor)


def heads(tx: Connection, account_ids: Sequence[str]) -> dict[str, int]:
    """The position of the newest event that can be given out, of each account that has any."""
    newest = (
        select(func.max(events.c.position))
        .where(events.c.account_id == _asked.c.account_id, _is_settled(tx))
        .scalar_subquery()
    )
    asked = given([{"account_id": one} for one in account_ids])
    found = tx.execute(select(_asked.c.account_id, newest), asked).all()
    return {account_id: position for account_id, position in found if position is not None}


def rebase(tx: Connection) -> None:
    """
    Make sure that new events get greater positions than those that are stored.

    On another server than the one that wrote them, the numbers of transactions may be smaller: the
    database was dumped there and restored here. Must be called before anything is written.

    Runs inside *tx* and never commits it.
    """
    if not is_behind(tx):
        return
    # Another process that starts may do the same at this moment.
    once = insert_of(tx.dialect.name)(feed_bases).on_conflict_do_nothing()
    tx.execute(once, {"base": _newest_of_all(tx) + 1})


def is_behind(tx: Connection) -> bool:
    """Whether `rebase` has something to do."""
    return tx.dialect.name == "postgresql" and _newest_of_all(tx) >= _first_unused(tx)


# PostgreSQL: from which number on a transaction may still write, and the first that is not used.
_NUMBER = "CAST(CAST({} AS TEXT) AS BIGINT)"
_unsettled = feed_base() + literal_column(
    _NUMBER.format("pg_snapshot_xmin(pg_current_snapshot())"), BigInteger
)
_unused = feed_base() + literal_column(
    _NUMBER.format("pg_snapshot_xmax(pg_current_snapshot())"), BigInteger
)
_asked = Given(account_id=Text())
_place_columns = tuple_(events.c.position, events.c.invoice_key, events.c.sequence)
_short = case((func.length(events.c.callbacks) <= LONG_CHARACTERS, events.c.callbacks))
_shown = select(
    events.c.position,
    events.c.invoice_key,
    events.c.sequence,
    events.c.description,
    events.c.paid,
    events.c.at,
    _short.label("callbacks"),
    func.length(events.c.callbacks).label("length"),
    invoices.c.id.label("invoice_id"),
).join_from(
    events,
    invoices,
    and_(
        invoices.c.account_id == events.c.account_id,
        invoices.c.key == events.c.invoice_key,
    ),
)
# One step of the index for each account.
_NEWEST_OF_ALL = text(
    """
    WITH RECURSIVE found(account_id) AS (
        SELECT min(account_id) FROM events
        UNION ALL
        SELECT (SELECT min(account_id) FROM events WHERE events.account_id > found.account_id)
        FROM found WHERE found.account_id IS NOT NULL
    )
    SELECT max((SELECT max(position) FROM events WHERE events.account_id = found.account_id))
    FROM found
    """
)


def _is_settled(tx: Connection) -> ColumnElement[bool]:
    """Whether no event can be committed any more that would come before this one."""
    if tx.dialect.name == "sqlite":
        return true()
    return events.c.position < _unsettled


def _rows_from(
    tx: Connection, account_id: str, start: FeedCursor, limit: int
) -> Sequence[RowMapping]:
    """The first rows of the account from *start* on, that of *start* included."""
    query = _shown.where(
        events.c.account_id == account_id,
        _place_columns >= tuple_(*_place_of(start)),
        _is_settled(tx),
    )
    ordered = query.order_by(events.c.position, events.c.invoice_key, events.c.sequence)
    return tx.execute(ordered.limit(limit)).mappings().all()


def _newest_possible(tx: Connection, account_id: str) -> int:
    """The greatest position that an event of the account can have now."""
    if tx.dialect.name == "postgresql":
        return _first_unused(tx) - 1
    newest = select(func.max(events.c.position)).where(events.c.account_id == account_id)
    return tx.scalar(newest) or 0


def _first_unused(tx: Connection) -> int:
    """The position that the next transaction of PostgreSQL would give."""
    return tx.scalar(select(_unused)) or 0


def _newest_of_all(tx: Connection) -> int:
    return tx.scalar(_NEWEST_OF_ALL) or 0


def _place(row: RowMapping) -> tuple[int, str, int]:
    return row["position"], row["invoice_key"], row["sequence"]


def _place_of(cursor: FeedCursor) -> tuple[int, str, int]:
    return cursor.position, cursor.invoice_key, cursor.sequence


def _callbacks(tx: Connection, account_id: str, row: RowMapping) -> Mapping[str, Any]:
    """The callbacks of an event, as `stored_callbacks` has made them."""
    stored = row["callbacks"]
    if row["length"] is None:
        return {DEFAULT_CALLBACK: None}
    if stored is None:
        stored = tx.scalar(
            select(events.c.callbacks).where(
                events.c.account_id == account_id,
                events.c.invoice_key == row["invoice_key"],
                events.c.sequence == row["sequence"],
            )
        )
    told: Mapping[str, Any] = orjson.loads(stored or "{}")
    return told


def _items(row: RowMapping, callbacks: Mapping[str, Any]) -> Iterator[FeedItem]:
    """The items of an event, one for each of its *callbacks*."""
    for number, (name, stored) in enumerate(callbacks.items()):
        id_, body = (
            (stored[0], orjson.dumps(stored[1])) if isinstance(stored, list) else (stored, None)
        )
        yield FeedItem(
            id=id_ or _id_without_delivery(row, number),
            invoice_id=row["invoice_id"],
            callback=name,
            description=row["description"],
            paid=row["paid"],
            own_body=body,
            at=row["at"],
            cursor=FeedCursor(*_place(row), number + 1),
        )


def _id_without_delivery(row: RowMapping, number: int) -> str:
    id_ = f"evt_{row['invoice_key']}_{row['sequence']}"
    return f"{id_}_{number + 1}" if number else id_
