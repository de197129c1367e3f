"""
Attempts and what they mean for their deliveries, written down once.

Only the holder of a lease can settle (invariant 3): what it writes matches on the lease's token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Update, bindparam, func, insert, select, update

from service.storage import leases
from service.storage.rows import insert_rows
from service.storage.states import DELIVERY_MOVES, DeadReason, DeliveryStatus, sources_of
from service.storage.tables import attempts, deliveries, microseconds, origins


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
    insert_attempts(tx, [(one.delivery_id, one.attempt) for one in valid])
    _hold_origins(tx, [one for one in valid if one.held_until])
    return [is_ours[_lease_of(one)] for one in settlements]


def insert_attempts(tx: Connection, made: Sequence[tuple[str, AttemptRecord]]) -> None:
    """Keep attempts, each with the id of its delivery."""
    insert_rows(tx, attempts, [_attempt_row(key, attempt) for key, attempt in made])


def _moving_to(status: DeliveryStatus) -> Update:
    """The statement that settles deliveries as *status*, from where they may come."""
    return (
        leases.giving_up(deliveries)
        .where(deliveries.c.status.in_(sources_of(status, DELIVERY_MOVES)))
        .values(
            status=status.value,
            settled_at=bindparam("at", type_=deliveries.c.settled_at.type),
            attempt_count=deliveries.c.attempt_count + 1,
        )
    )


_delivering = _moving_to(DeliveryStatus.DELIVERED)
_failing = {
    status: _moving_to(status).values(
        reason=bindparam("new_reason"),
        due_at=func.coalesce(
            bindparam("next_due_at", type_=deliveries.c.due_at.type), deliveries.c.due_at
        ),
        failure_count=deliveries.c.failure_count + 1,
    )
    for status in (DeliveryStatus.PENDING, DeliveryStatus.DEAD)
}


def _lease_of(settlement: Settlement) -> tuple[str, int]:
    return settlement.delivery_id, settlement.lease_token


def _settle_failed(tx: Connection, one: Settlement) -> bool:
    changes = {
        "new_reason": one.reason and one.reason.value,
        "next_due_at": one.due_at,
        "at": one.at if one.status is DeliveryStatus.DEAD else None,
    }
    return leases.give_up(tx, _failing[one.status], [_lease_of(one)], changes)


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
