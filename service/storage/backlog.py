"""
What waits in the database, in figures: how much is due, how much is not, and since when.

It is asked for again and again, and on a bad day there are millions of rows. Origins are found
one step of the index away from each other, and whatever is counted is counted up to a bound.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    exists,
    func,
    literal,
    select,
    union_all,
)

from service.metrics import Backlog
from service.storage import leases
from service.storage.deliveries import is_first_of_its_invoice, is_pending, next_origin
from service.storage.tables import deliveries, invoices, origins

COUNTED_MAX = 100_000
"""Where counting ends: a tenth of a second on SQLite, two or three of them on PostgreSQL."""

ORIGINS_MAX = 10_000
"""Origins that are looked at, in the order of the database."""

_NOW = bindparam("now", type_=deliveries.c.due_at.type)
_is_due = deliveries.c.due_at <= _NOW
_is_leasable = leases.is_free(deliveries) & is_first_of_its_invoice


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
    first = tx.execute(_first_due, at).one()
    collection_due_at = tx.scalar(_first_collection, at)
    return Backlog(
        deliveries_due=tx.scalar(_due_count, at) or 0,
        deliveries_waiting=tx.scalar(_waiting_count, at) or 0,
        due_origins=first.origin_count,
        oldest_due_delivery_age_seconds=_age_seconds(first.due_at, now),
        collections_due=tx.scalar(_collection_count, at) or 0,
        oldest_due_collection_age_seconds=_age_seconds(collection_due_at, now),
    )


def _age_seconds(due_at: datetime | None, now: datetime) -> float:
    return 0.0 if due_at is None else (now - due_at).total_seconds()


def _origins() -> CTE:
    """The origins that have pending deliveries."""
    # A column beside others, so that an empty database has a row of it too, which is null.
    first = select(next_origin(literal("")).label("origin"), literal(1).label("number"))
    waiting = first.cte("waiting", recursive=True)
    return waiting.union_all(
        select(next_origin(waiting.c.origin), waiting.c.number + 1).where(
            waiting.c.origin.is_not(None), waiting.c.number < bindparam("origins_max")
        )
    )


_origin = _origins()
_is_held = (
    exists()
    .where(origins.c.origin == _origin.c.origin, origins.c.held_until > _NOW)
    .correlate(_origin)
)


def _pending(*conditions: ColumnElement[bool]) -> Select[Any]:
    """A row for each pending delivery, origin by origin."""
    return (
        select(literal(1).label("one"))
        .select_from(_origin)
        .join(deliveries, deliveries.c.origin == _origin.c.origin)
        .where(is_pending, *conditions)
    )


def _counted(rows: Any) -> Select[Any]:
    """How many *rows* there are, up to the bound."""
    return select(func.count()).select_from(
        rows.limit(bindparam("counted_max")).subquery("counted")
    )


_first_of_origin = (
    select(deliveries.c.due_at)
    .where(is_pending, deliveries.c.origin == _origin.c.origin, _is_due, _is_leasable)
    .order_by(deliveries.c.due_at)
    .limit(1)
    .correlate(_origin)
    .scalar_subquery()
)
_firsts = (
    select(_first_of_origin.label("due_at"))
    .select_from(_origin)
    .where(~_is_held)
    .subquery("counted")
)
_first_due = select(
    func.count(_firsts.c.due_at).label("origin_count"), func.min(_firsts.c.due_at).label("due_at")
)
_due_count = _counted(_pending(~_is_held, _is_due, _is_leasable))
_waiting_count = _counted(
    union_all(_pending(deliveries.c.due_at > _NOW), _pending(_is_held, _is_due))
)

_collection = (invoices.c.due_at <= _NOW, leases.is_free(invoices))
_first_collection = (
    select(invoices.c.due_at).where(*_collection).order_by(invoices.c.due_at).limit(1)
)
_collection_count = _counted(select(literal(1).label("one")).where(*_collection))
