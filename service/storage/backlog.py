"""
What waits in the database, in figures: how much is due, how much is not, and since when.

It is asked for again and again, and on a bad day there are millions of rows. Origins are found
one step of the index away from each other, whatever is counted is counted up to a bound, and no
statistics make a database read all that is pending: it is asked about one origin at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Connection,
    Select,
    bindparam,
    case,
    cast,
    func,
    literal,
    select,
)

from service.storage import leases
from service.storage.deliveries import is_first_of_its_invoice, is_pending, next_origin
from service.storage.tables import deliveries, invoices, origins

COUNTED_MAX = 100_000
"""Where counting ends: a tenth of a second on SQLite, two to five of them on PostgreSQL."""

ORIGINS_MAX = 10_000
"""Origins that are looked at, in the order of the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits in the database; a count that has reached its bound means so many or more."""

    deliveries_due: int
    deliveries_waiting: int
    due_origins: int
    oldest_due_delivery_age_seconds: float
    collections_due: int
    oldest_due_collection_age_seconds: float


def measure(
    tx: Connection,
    now: datetime,
    *,
    counted_max: int = COUNTED_MAX,
    origins_max: int = ORIGINS_MAX,
) -> Backlog:
    """
    What waits at *now*.

    What is leased is neither due nor waiting, nor is a delivery behind an earlier one of its
    invoice. Counts end at *counted_max*; behind *origins_max* origins nothing is looked at.
    """
    at = {"now": now, "counted_max": counted_max, "origins_max": origins_max}
    walked = tx.execute(_deliveries, at).one()
    collection_due_at = tx.scalar(_first_collection, at)
    return Backlog(
        deliveries_due=min(walked.due_count, counted_max),
        deliveries_waiting=min(walked.waiting_count, counted_max),
        due_origins=walked.origin_count,
        oldest_due_delivery_age_seconds=_age_seconds(walked.due_at, now),
        collections_due=tx.scalar(_collection_count, at) or 0,
        oldest_due_collection_age_seconds=_age_seconds(collection_due_at, now),
    )


def _age_seconds(due_at: datetime | None, now: datetime) -> float:
    return 0.0 if due_at is None else (now - due_at).total_seconds()


_INSTANT = deliveries.c.due_at.type
_NOW = bindparam("now", type_=_INSTANT)
_COUNTED_MAX = bindparam("counted_max", type_=BigInteger())
_NOTHING = cast(0, BigInteger)
_NEVER = cast(None, _INSTANT)
_BEGINNING = literal(datetime(1970, 1, 1, tzinfo=UTC), _INSTANT)


def _counted(rows: Select[Any]) -> Select[Any]:
    """How many *rows* there are, up to the bound."""
    return select(func.count()).select_from(rows.limit(_COUNTED_MAX).subquery("counted"))


def _walk() -> CTE:
    """
    From each origin with pending deliveries to the next.

    A row has the origin where the walk is. Of the one before, it tells since when something has
    been due; of all before, how much is due and how much waits.
    """
    begin = select(
        # A column beside others, so that an empty database has a row of it too, which is null.
        next_origin(literal("")).label("origin"),
        _NOTHING.label("number"),
        _NEVER.label("due_at"),
        _NOTHING.label("due_count"),
        _NOTHING.label("waiting_count"),
    )
    here = begin.cte("waiting", recursive=True)
    return here.union_all(
        _step(here).where(here.c.origin.is_not(None), here.c.number < bindparam("origins_max"))
    )


def _step(here: CTE) -> Select[Any]:
    """
    The row behind *here*.

    What is looked for at its origin is looked for in subqueries, and not in a join: a join can be
    made from the other side, and is, by whoever takes the pending deliveries for few.
    """
    held_until = select(origins.c.held_until).where(origins.c.origin == here.c.origin)
    is_held = held_until.correlate(here).scalar_subquery() > _NOW
    # Of an origin that is held nothing is due, since whenever it was to be.
    is_due = deliveries.c.due_at <= case((is_held, _BEGINNING), else_=_NOW)
    free = (
        select(deliveries.c.due_at)
        .where(is_pending, deliveries.c.origin == here.c.origin)
        .where(leases.is_free(deliveries), is_first_of_its_invoice)
        .correlate(here)
    )
    first = free.where(is_due).order_by(deliveries.c.due_at).limit(1)
    due = _counted(free.where(is_due, here.c.due_count < _COUNTED_MAX))
    waiting = _counted(free.where(~is_due, here.c.waiting_count < _COUNTED_MAX))
    return select(
        next_origin(here.c.origin),
        here.c.number + 1,
        first.scalar_subquery(),
        here.c.due_count + due.scalar_subquery(),
        here.c.waiting_count + waiting.scalar_subquery(),
    )


_walked = _walk()
_deliveries = select(
    func.count(_walked.c.due_at).label("origin_count"),
    func.min(_walked.c.due_at).label("due_at"),
    func.max(_walked.c.due_count).label("due_count"),
    func.max(_walked.c.waiting_count).label("waiting_count"),
)

_collection = (invoices.c.due_at <= _NOW, leases.is_free(invoices))
_first_collection = (
    select(invoices.c.due_at).where(*_collection).order_by(invoices.c.due_at).limit(1)
)
_collection_count = _counted(select(invoices.c.due_at).where(*_collection))
