"""
Attempts and what they mean for their deliveries, written down once.

Only the holder of a lease can settle (invariant 3): what it writes matches on the lease's token.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, Text, func

from service.database.rows import insert_rows
from service.domain.outcomes import AttemptOutcome
from service.domain.states import DELIVERY_MOVES, Cause, DeadReason, DeliveryStatus
from service.storage import leases
from service.storage.holds import hold_origins
from service.storage.tables import attempts, deliveries, microseconds
from service.values import value


@value(kw_only=True)
class AttemptRecord:
    """One HTTP request made for a delivery, as it is kept."""

    number: int
    started_at: datetime
    duration_ms: int
    status_code: int | None
    outcome: AttemptOutcome
    detail: str | None
    response_body: str | None
    cause: Cause


@value(kw_only=True)
class Settlement:
    """
    What one attempt means for its delivery.

    *due_at* is the next attempt's instant while the status stays pending. *held_until*
    holds the whole origin, as it asked for with Retry-After.
    """

    account_id: str
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
    if not leases.give_up(tx, _settling, [_change_of(one) for one in settlements]):
        return [False]
    insert_attempts(tx, [(one.account_id, one.delivery_id, one.attempt) for one in settlements])
    hold_origins(
        tx, [(one.origin, one.held_until) for one in settlements if one.origin and one.held_until]
    )
    return [True] * len(settlements)


def insert_attempts(tx: Connection, made: Sequence[tuple[str, str, AttemptRecord]]) -> None:
    """Keep attempts, each with the account and the id of its delivery."""
    insert_rows(tx, attempts, [_attempt_row(*one) for one in made])


_settled = leases.held(
    status=Text(),
    reason=Text(),
    due_at=deliveries.c.due_at.type,
    settled_at=deliveries.c.settled_at.type,
    failure_count=Integer(),
)
_settling = (
    leases.giving_up(deliveries, _settled)
    .where(leases.is_legal(deliveries, _settled, DELIVERY_MOVES))
    .values(
        status=_settled.c.status,
        reason=_settled.c.reason,
        due_at=func.coalesce(_settled.c.due_at, deliveries.c.due_at),
        settled_at=_settled.c.settled_at,
        attempt_count=deliveries.c.attempt_count + 1,
        failure_count=deliveries.c.failure_count + _settled.c.failure_count,
        cause=Cause.RETRY.value,
    )
)


def _change_of(one: Settlement) -> dict[str, Any]:
    return {
        "account_id": one.account_id,
        "key": one.delivery_id,
        "token": one.lease_token,
        "status": one.status.value,
        "reason": one.reason and one.reason.value,
        "due_at": microseconds(one.due_at),
        "settled_at": None if one.status is DeliveryStatus.PENDING else microseconds(one.at),
        "failure_count": 0 if one.status is DeliveryStatus.DELIVERED else 1,
    }


def _attempt_row(account_id: str, delivery_id: str, attempt: AttemptRecord) -> tuple[Any, ...]:
    return (
        account_id,
        delivery_id,
        attempt.number,
        microseconds(attempt.started_at),
        attempt.duration_ms,
        attempt.status_code,
        attempt.outcome.value,
        attempt.detail,
        attempt.response_body,
        attempt.cause.value,
    )
