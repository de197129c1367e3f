"""
Attempts, recorded once, and what follows from them for their deliveries.

Keeps invariant 3: only the holder of a lease can settle, because the write matches on its token.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Integer, Text, Update, delete, func, insert, or_, select, update

from service.database.at_once import AtOnce
from service.database.bulk import Given, insert_rows, row_names
from service.database.compiled import text_for_driver
from service.domain.delivery import Attempt, Dead, Delivered, Retry
from service.domain.states import DELIVERY_MOVES, Cause, DeliveryStatus
from service.storage import history, leases, receivers
from service.storage.tables import attempts, deliveries, microseconds
from service.storage.transmissions import encoded


def settle(tx: Connection, made: Sequence[Attempt]) -> list[bool]:
    """
    Record the attempts *made* and give up their leases, provided the leases are still ours.

    Of each delivery, the attempts that `history` tells are kept, and no others.

    Runs inside *tx* and never commits it.

    Returns:
        For each attempt False if its lease was no longer held, because the attempt took too
        long; nothing was written for it.

    Raises:
        Undecided: if some of several leases were no longer held; see `leases`.
    """
    if not leases.give_up(tx, _settling, map(_change, made)):
        return [False]
    insert_rows(tx, attempts, list(map(_row, made)))
    receivers.remember(tx, made)
    if many := [one for one in made if one.number > history.BODIES_MAX]:
        _prune(tx, many)
    return [True] * len(made)


def settle_at_once(made: Sequence[Attempt]) -> AtOnce | None:
    """The statement that does `settle` where nothing else has to be written."""
    if any(
        one.receiver_state or one.origin_state or one.number > history.BODIES_MAX for one in made
    ):
        return None
    rows = [{**_change(one), **dict(zip(_RECORDED, _row(one)[2:], strict=True))} for one in made]
    return leases.given_up_at_once(
        _settling_at_once(), rows, results=lambda found: leases.are_among(rows, found)
    )


_CHANGES = {
    "status": Text(),
    "reason": Text(),
    "due_at": deliveries.c.due_at.type,
    "settled_at": deliveries.c.settled_at.type,
    "failure_count": Integer(),
}
_RECORDED = row_names(attempts)[2:]
"""What is recorded of an attempt, besides the account and the delivery."""

_from_pending = {DeliveryStatus.PENDING: DELIVERY_MOVES[DeliveryStatus.PENDING]}


def _settling_of(settled: Given) -> Update:
    return (
        leases.giving_up(deliveries, settled)
        .where(leases.is_legal(deliveries, settled, _from_pending))
        .values(
            status=settled.c.status,
            reason=settled.c.reason,
            due_at=func.coalesce(settled.c.due_at, deliveries.c.due_at),
            settled_at=settled.c.settled_at,
            attempt_count=deliveries.c.attempt_count + 1,
            failure_count=deliveries.c.failure_count + settled.c.failure_count,
            cause=Cause.RETRY.value,
            is_asked=False,
        )
    )


_settling = _settling_of(leases.held(**_CHANGES))


@cache
def _settling_at_once() -> str:
    """Gives up leases, and records an attempt for each lease that was still held."""
    rows = leases.held(**_CHANGES, **{name: attempts.c[name].type for name in _RECORDED})
    key = (rows.c.account_id, rows.c.key)
    settled = (
        _settling_of(rows).returning(*key, *(rows.c[name] for name in _RECORDED)).cte("settled")
    )
    recorded = insert(attempts).from_select(row_names(attempts), select(*settled.c))
    found = select(settled.c.account_id, settled.c.key)
    return text_for_driver(found.add_cte(recorded.cte("recorded")))


_has_texts = or_(attempts.c.response_body.is_not(None), attempts.c.transmission.is_not(None))


def _prune(tx: Connection, made: Sequence[Attempt]) -> None:
    """Remove the attempts that the attempts *made* push out of the history, and older texts."""
    for attempt in made:
        older = attempts.c.number <= attempt.number - history.BODIES_MAX
        of_delivery = (
            attempts.c.account_id == attempt.delivery.account_id,
            attempts.c.delivery_id == attempt.delivery.id,
        )
        tx.execute(
            update(attempts)
            .where(*of_delivery, older, _has_texts)
            .values(response_body=None, transmission=None)
        )
        if attempt.number > history.ATTEMPTS_MAX:
            oldest = attempts.c.number <= attempt.number - history.ATTEMPTS_MAX
            tx.execute(delete(attempts).where(*of_delivery, oldest))


def _change(attempt: Attempt) -> dict[str, Any]:
    change: dict[str, Any] = {
        "account_id": attempt.delivery.account_id,
        "key": attempt.delivery.id,
        "token": attempt.delivery.lease_token,
        "status": str(attempt.decision.status),
        "reason": None,
        "due_at": None,
        "settled_at": microseconds(attempt.ended_at),
        "failure_count": 1,
    }
    match attempt.decision:
        case Delivered():
            change["failure_count"] = 0
        case Retry(delay):
            change |= {"due_at": microseconds(attempt.ended_at + delay), "settled_at": None}
        case Dead(reason):
            change["reason"] = str(reason)
    return change


def _row(attempt: Attempt) -> tuple[Any, ...]:
    return (
        attempt.delivery.account_id,  # account_id
        attempt.delivery.id,  # delivery_id
        attempt.number,  # number
        microseconds(attempt.started_at),  # started_at
        attempt.duration_ms,  # duration_ms
        attempt.status_code,  # status_code
        str(attempt.outcome),  # outcome
        attempt.detail,  # detail
        attempt.response_body,  # response_body
        str(attempt.delivery.cause),  # cause
        encoded(attempt),  # transmission
    )
