"""
Deliveries, as the dispatcher finds them: leased when they are due, given back, never lost.

Invariant 5 is kept here: a delivery is not leased while an earlier one of its invoice is
pending, so the events of one invoice arrive in their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    exists,
    func,
    or_,
    select,
    update,
)

from service.storage import leases
from service.storage.settlements import AttemptOutcome, AttemptRecord, insert_attempts
from service.storage.states import DeliveryStatus
from service.storage.tables import (
    deliveries,
    events,
    invoices,
    origins,
)

LOOK = 64
"""Rows that are looked at at a time: most of them may belong to an origin that has no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedDelivery:
    """A delivery that we alone may attempt, until *leased_until*."""

    id: str
    account_id: str
    invoice_id: str
    collector: str
    callback: str
    url: str
    origin: str
    body: bytes
    attempt_count: int
    failure_count: int
    created_at: datetime
    leased_until: datetime
    lease_token: int


@dataclass(frozen=True, slots=True)
class LeaseRound:
    """
    Lease up to *limit* deliveries that are due at *now*, until *until*.

    No origin gets more than *origin_limit*, what we have leased of it already included;
    *leased_counts* says how much that is. The *held_origins* get nothing.
    """

    now: datetime
    until: datetime
    limit: int
    origin_limit: int
    leased_counts: Mapping[str, int]
    held_origins: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DueDeliveries:
    """
    One round of leasing.

    *next_due_at* is when another round may find more without anything new being written:
    the round's own instant if this one left some behind, None if nothing is waiting.
    """

    deliveries: Sequence[LeasedDelivery]
    next_due_at: datetime | None


_earlier = deliveries.alias("earlier")
_is_first_of_its_invoice = or_(
    deliveries.c.sequence == 1,
    ~exists().where(
        _earlier.c.invoice_key == deliveries.c.invoice_key,
        _earlier.c.sequence < deliveries.c.sequence,
        _earlier.c.status == DeliveryStatus.PENDING.value,
    ),
)
_held_origins = select(origins.c.origin).where(origins.c.held_until > bindparam("now"))

_is_pending = deliveries.c.status == "pending"

_due = (
    select(
        *(
            deliveries.c[name]
            for name in LeasedDelivery.__dataclass_fields__
            if name in deliveries.c
        ),
        invoices.c.id.label("invoice_id"),
        events.c.collector,
    )
    .join_from(deliveries, invoices, invoices.c.key == deliveries.c.invoice_key)
    .join(
        events,
        and_(
            events.c.invoice_key == deliveries.c.invoice_key,
            events.c.sequence == deliveries.c.sequence,
        ),
    )
    .where(
        _is_pending,
        deliveries.c.due_at <= bindparam("now"),
        leases.is_free(deliveries),
        deliveries.c.origin.not_in(bindparam("left_origins", expanding=True)),
        deliveries.c.origin.not_in(_held_origins),
        _is_first_of_its_invoice,
    )
    .order_by(deliveries.c.due_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True, of=deliveries)
)
_taking = leases.taking(deliveries)
_releasing = leases.giving_up(deliveries)
_next_due = select(func.min(deliveries.c.due_at)).where(
    _is_pending, deliveries.c.due_at > bindparam("now")
)
_next_release = select(func.min(origins.c.held_until)).where(
    origins.c.held_until > bindparam("now")
)


def lease_due(tx: Connection, rounds: Sequence[LeaseRound]) -> list[DueDeliveries]:
    """
    Lease deliveries that are due, those that have waited longest first.

    A lease that ran out unsettled is told as an attempt with the outcome `lost`: the process
    that held it ended, and whether the receiver saw anything cannot be known.

    Runs inside *tx* and never commits it.
    """
    return [_lease_due(tx, one) for one in rounds]


def held_origins(tx: Connection, now: datetime) -> set[str]:
    """The origins that asked to be left alone until after *now*."""
    return set(tx.scalars(_held_origins, {"now": now}))


def release(tx: Connection, leased: Sequence[LeasedDelivery]) -> list[bool]:
    """Give leases back unused, for anybody to take; False for those that had passed on."""
    return [leases.give_up(tx, _releasing, [(one.id, one.lease_token)], {}) for one in leased]


def _lease_due(tx: Connection, round_: LeaseRound) -> DueDeliveries:
    """
    Look again, without the origins that were filled, until there is no more room or no more due.

    Were it looked once, a long row of deliveries for one origin would hide all others.
    """
    counts, leased = Counter(round_.leased_counts), list[LeasedDelivery]()
    while True:
        look = min(round_.limit - len(leased), LOOK)
        found = _find_due(tx, round_, counts, look)
        leased += _take(tx, _within_origin_limit(found, counts, round_.origin_limit), round_)
        if len(leased) == round_.limit:
            return DueDeliveries(leased, round_.now)
        if len(found) < look:
            return DueDeliveries(leased, _next_chance(tx, round_.now))


def _find_due(
    tx: Connection, round_: LeaseRound, counts: Mapping[str, int], look: int
) -> Sequence[Any]:
    full = [origin for origin, count in counts.items() if count >= round_.origin_limit]
    parameters = {
        "now": round_.now,
        "limit": look,
        "left_origins": [*full, *round_.held_origins],
    }
    return tx.execute(_due, parameters).mappings().all()


def _within_origin_limit(rows: Sequence[Any], counts: Counter[str], limit: int) -> list[Any]:
    """Those of *rows* for which their origin has room; *counts* counts them in."""
    kept = []
    for row in rows:
        if counts[row["origin"]] < limit:
            counts[row["origin"]] += 1
            kept.append(row)
    return kept


def _take(tx: Connection, rows: Sequence[Any], round_: LeaseRound) -> list[LeasedDelivery]:
    if rows:
        tx.execute(_taking, {"keys": [row["id"] for row in rows], "until": round_.until})
        _tell_lost(tx, [row for row in rows if row["leased_until"]], round_.now)
    return [_leased(row, round_.until) for row in rows]


def _next_chance(tx: Connection, now: datetime) -> datetime | None:
    instants = [tx.scalar(query, {"now": now}) for query in (_next_due, _next_release)]
    return min((instant for instant in instants if instant), default=None)


def _leased(row: Any, until: datetime) -> LeasedDelivery:
    values = dict(row)
    values["attempt_count"] += 1 if values["leased_until"] else 0
    values["leased_until"] = until
    values["lease_token"] += 1
    return LeasedDelivery(**values)


def _tell_lost(tx: Connection, rows: Sequence[Any], now: datetime) -> None:
    if not rows:
        return
    lost = [(row["id"], _lost_attempt(row, now)) for row in rows]
    insert_attempts(tx, lost)
    tx.execute(
        update(deliveries)
        .where(deliveries.c.id.in_([key for key, _ in lost]))
        .values(attempt_count=deliveries.c.attempt_count + 1)
    )


def _lost_attempt(row: Any, now: datetime) -> AttemptRecord:
    return AttemptRecord(
        number=row["attempt_count"] + 1,
        started_at=min(row["leased_until"], now),
        duration_ms=0,
        status_code=None,
        outcome=AttemptOutcome.LOST,
        detail="The process that made this attempt ended before it could record an answer. "
        "Your receiver may have seen it, or nothing.",
        response_body=None,
    )
