"""
Deliveries, as the dispatcher sees them: leased when due, settled once, never lost in between.

Invariant 5 is kept here: a delivery is not leased while an earlier one of its invoice is
pending, so the events of one invoice arrive in their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from service.storage import leases
from service.storage.rows import insert_rows
from service.storage.states import DeadReason, DeliveryStatus
from service.storage.tables import (
    attempts,
    deliveries,
    events,
    invoices,
    microseconds,
    origins,
)


LOOK = 64
"""Rows that are looked at at a time: most of them may belong to an origin that has no room."""


class AttemptOutcome(StrEnum):
    """What came of one HTTP request."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    INVALID_ANSWER = "invalid_answer"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    MALFORMED = "malformed"
    LOST = "lost"
    BLOCKED = "blocked"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One HTTP request made for a delivery, as it is kept."""

    number: int
    started_at: datetime
    duration_ms: int
    status_code: int | None
    outcome: AttemptOutcome
    detail: str | None
    response_body: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """
    What one attempt means for its delivery.

    *due_at* is the next attempt's instant while the status stays pending. *held_until*
    holds the whole origin, as it asked for with Retry-After.
    """

    delivery_id: str
    lease_token: int
    attempt: AttemptRecord
    status: DeliveryStatus
    at: datetime
    reason: DeadReason | None = None
    due_at: datetime | None = None
    origin: str | None = None
    held_until: datetime | None = None


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


def settle(tx: Connection, settlements: Sequence[Settlement]) -> list[bool]:
    """
    Record attempts and give up their leases, wherever the lease is still ours.

    Runs inside *tx* and never commits it.

    Returns:
        For each settlement False if the lease had already passed on. That is how a slow
        attempt ends; nothing was written for it.

    Raises:
        Undecided: if some of several leases had passed on; see `leases`.
    """
    delivered = [one for one in settlements if one.status is DeliveryStatus.DELIVERED]
    failed = [one for one in settlements if one.status is not DeliveryStatus.DELIVERED]
    is_ours = {_lease_of(one): _settle_failed(tx, one) for one in failed}
    if delivered:
        # They are settled by one commit, and so at one instant.
        at = max(one.at for one in delivered)
        are_ours = leases.give_up(
            tx, _delivering, [_lease_of(one) for one in delivered], {"at": at}
        )
        is_ours.update((_lease_of(one), are_ours) for one in delivered)
    valid = [one for one in settlements if is_ours[_lease_of(one)]]
    insert_rows(tx, attempts, [_attempt_row(one.delivery_id, one.attempt) for one in valid])
    _hold_origins(tx, [one for one in valid if one.held_until])
    return [is_ours[_lease_of(one)] for one in settlements]


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
    insert_rows(tx, attempts, [_attempt_row(key, attempt) for key, attempt in lost])
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


_releasing = leases.giving_up(deliveries)
_delivering = _releasing.values(
    status=DeliveryStatus.DELIVERED.value,
    settled_at=bindparam("at", type_=deliveries.c.settled_at.type),
    attempt_count=deliveries.c.attempt_count + 1,
)
_failing = _releasing.values(
    status=bindparam("new_status"),
    reason=bindparam("new_reason"),
    due_at=func.coalesce(
        bindparam("next_due_at", type_=deliveries.c.due_at.type), deliveries.c.due_at
    ),
    settled_at=bindparam("at", type_=deliveries.c.settled_at.type),
    attempt_count=deliveries.c.attempt_count + 1,
    failure_count=deliveries.c.failure_count + 1,
)


def _lease_of(settlement: Settlement) -> tuple[str, int]:
    return settlement.delivery_id, settlement.lease_token


def _settle_failed(tx: Connection, one: Settlement) -> bool:
    changes = {
        "new_status": one.status.value,
        "new_reason": one.reason and one.reason.value,
        "next_due_at": one.due_at,
        "at": one.at if one.status is DeliveryStatus.DEAD else None,
    }
    return leases.give_up(tx, _failing, [_lease_of(one)], changes)


def _hold_origins(tx: Connection, settlements: Sequence[Settlement]) -> None:
    """Hold each origin until the latest instant that it asked for, now or before."""
    if not settlements:
        return
    holds = {one.origin: one.held_until for one in sorted(settlements, key=_held_until)}
    known = select(origins.c.origin, origins.c.held_until).where(origins.c.origin.in_(list(holds)))
    earlier = {row.origin: row.held_until for row in tx.execute(known)}
    for origin, held_until in holds.items():
        if origin not in earlier:
            tx.execute(insert(origins), {"origin": origin, "held_until": held_until})
        elif held_until > earlier[origin]:
            change = update(origins).where(origins.c.origin == origin)
            tx.execute(change.values(held_until=held_until))


def _held_until(settlement: Settlement) -> Any:
    return settlement.held_until


def _attempt_row(delivery_id: str, attempt: AttemptRecord) -> tuple[Any, ...]:
    return (
        delivery_id,
        attempt.number,
        microseconds(attempt.started_at),
        attempt.duration_ms,
        attempt.status_code,
        attempt.outcome.value,
        attempt.detail,
        attempt.response_body,
    )
