"""
The backlog: how many deliveries, collections and mails are due or waiting, and since when.

It is measured at every scrape, and there may be millions of rows. Each receiver is found by one
index lookup from the one before, counts end at a bound, and one receiver is measured at a time, so
that no plan scans all pending deliveries.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
)

from service.domain.listening import LISTENER_SILENCE
from service.storage import gates, leases
from service.storage.deliveries import is_first_of_its_invoice
from service.storage.listeners import is_reachable
from service.storage.tables import checkouts, deliveries, invoices, mails, payments, receivers
from service.storage.waiting import bounds_of, is_pending, next_receiver

COUNTED_MAX = 100_000
"""Counting ends at this number: after 0.1 s on SQLite, 0.2 to 0.5 s on PostgreSQL."""

RECEIVERS_MAX = 10_000
"""How many receivers are measured at most, in the order of the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is due or waiting; a count that equals its bound means that many or more."""

    deliveries_due: int
    deliveries_waiting: int
    due_receivers: int
    oldest_due_delivery_age_seconds: float
    collections_due: int
    oldest_due_collection_age_seconds: float
    oldest_unanswered_payment_age_seconds: float
    mails_due: int
    oldest_due_mail_age_seconds: float


def measure(
    tx: Connection,
    now: datetime,
    *,
    counted_max: int = COUNTED_MAX,
    receivers_max: int = RECEIVERS_MAX,
) -> Backlog:
    """
    Measure the backlog at *now*.

    A leased delivery is neither due nor waiting, nor is one that has to wait for an earlier one
    of its invoice. Counts end at *counted_max*, the measurement after *receivers_max* receivers.
    """
    at = {"now": now, "counted_max": counted_max, "receivers_max": receivers_max}
    at["works_since"] = now - LISTENER_SILENCE
    walked = tx.execute(_deliveries, at).one()
    collection_due_at = tx.scalar(_first_collection, at)
    return Backlog(
        deliveries_due=min(walked.due_count, counted_max),
        deliveries_waiting=min(walked.waiting_count, counted_max),
        due_receivers=walked.receiver_count,
        oldest_due_delivery_age_seconds=_age_seconds(walked.due_at, now),
        collections_due=tx.scalar(_collection_count, at) or 0,
        oldest_due_collection_age_seconds=_age_seconds(collection_due_at, now),
        oldest_unanswered_payment_age_seconds=max(
            _age_seconds(tx.scalar(first, at), now) for first in _first_unanswered
        ),
        mails_due=tx.scalar(_mail_count, at) or 0,
        oldest_due_mail_age_seconds=_age_seconds(tx.scalar(_first_mail, at), now),
    )


def count_open(tx: Connection, account_id: str, most: int) -> int:
    """How many deliveries of *account_id* are pending, up to *most*."""
    first, behind = bounds_of(account_id)
    pending = select(deliveries.c.due_at).where(
        is_pending, deliveries.c.receiver >= first, deliveries.c.receiver < behind
    )
    return tx.scalar(select(func.count()).select_from(pending.limit(most).subquery("counted"))) or 0


def _age_seconds(due_at: datetime | None, now: datetime) -> float:
    return 0.0 if due_at is None else (now - due_at).total_seconds()


_INSTANT = deliveries.c.due_at.type
_NOW = bindparam("now", type_=_INSTANT)
_COUNTED_MAX = bindparam("counted_max", type_=BigInteger())
_NOTHING = cast(0, BigInteger)
_NEVER = cast(None, _INSTANT)
_BEGINNING = literal(datetime(1970, 1, 1, tzinfo=UTC), _INSTANT)


def _counted(rows: Select[Any]) -> Select[Any]:
    """Count *rows*, up to the bound."""
    return select(func.count()).select_from(rows.limit(_COUNTED_MAX).subquery("counted"))


def _walk() -> CTE:
    """
    One row for each receiver with pending deliveries, in their order.

    A row has its receiver, since when a delivery of the previous one has been due, and how many
    deliveries of all previous ones are due and waiting.
    """
    begin = select(
        # With other columns beside it, so that an empty database gives a row too, with a null.
        next_receiver(literal("")).label("receiver"),
        _NOTHING.label("number"),
        _NEVER.label("due_at"),
        _NOTHING.label("due_count"),
        _NOTHING.label("waiting_count"),
    )
    here = begin.cte("waiting", recursive=True)
    return here.union_all(
        _step(here).where(here.c.receiver.is_not(None), here.c.number < bindparam("receivers_max"))
    )


def _step(here: CTE) -> Select[Any]:
    """
    The row after *here*.

    It uses subqueries and not a join: a planner that takes the pending deliveries for few would
    begin the join with them.
    """
    rests = or_(receivers.c.held_until > _NOW, gates.is_closed)
    of_receiver = select(rests).where(receivers.c.receiver == here.c.receiver)
    is_resting = of_receiver.correlate(here).scalar_subquery()
    # Nothing is due for a receiver that is held or paused.
    is_due = and_(
        deliveries.c.due_at <= case((is_resting, _BEGINNING), else_=_NOW),
        # Nor for a listener that is not connected.
        is_reachable(bindparam("works_since", type_=_INSTANT)),
    )
    free = (
        select(deliveries.c.due_at)
        .where(is_pending, deliveries.c.receiver == here.c.receiver)
        .where(leases.is_free(deliveries), is_first_of_its_invoice)
        .correlate(here)
    )
    first = free.where(is_due).order_by(deliveries.c.due_at).limit(1)
    due = _counted(free.where(is_due, here.c.due_count < _COUNTED_MAX))
    waiting = _counted(free.where(~is_due, here.c.waiting_count < _COUNTED_MAX))
    return select(
        next_receiver(here.c.receiver),
        here.c.number + 1,
        first.scalar_subquery(),
        here.c.due_count + due.scalar_subquery(),
        here.c.waiting_count + waiting.scalar_subquery(),
    )


_walked = _walk()
_deliveries = select(
    func.count(_walked.c.due_at).label("receiver_count"),
    func.min(_walked.c.due_at).label("due_at"),
    func.max(_walked.c.due_count).label("due_count"),
    func.max(_walked.c.waiting_count).label("waiting_count"),
)

_collection = (invoices.c.due_at <= _NOW, leases.is_free(invoices))
_first_collection = (
    select(invoices.c.due_at).where(*_collection).order_by(invoices.c.due_at).limit(1)
)
_collection_count = _counted(select(invoices.c.due_at).where(*_collection))
_first_unanswered = [
    select(table.c.failing_since)
    .where(table.c.failing_since <= _NOW)
    .order_by(table.c.failing_since)
    .limit(1)
    for table in (checkouts, payments)
]

_mail = (
    mails.c.status == literal_column("'pending'"),
    mails.c.due_at <= _NOW,
    leases.is_free(mails),
)
_first_mail = select(mails.c.due_at).where(*_mail).order_by(mails.c.due_at).limit(1)
_mail_count = _counted(select(mails.c.due_at).where(*_mail))
