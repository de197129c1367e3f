"""
Deliveries: inserted with their events, leased when they are due, released.

Keeps invariant 5: a delivery is not leased while an earlier one of the same callback of its
invoice is pending, so that the events of one invoice arrive in order.

Which receivers have deliveries that are due, `waiting` says; how many of them are leased, the
caller decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    RowMapping,
    Select,
    Text,
    bindparam,
    exists,
    func,
    literal,
    or_,
    select,
)

from service.database.at_once import AtOnce
from service.database.bulk import Given, given, insert_rows
from service.database.compiled import text_for_driver
from service.domain import test_events
from service.domain.delivery import Delivery
from service.domain.outcomes import AttemptOutcome
from service.domain.states import SETTLED, Cause, DeliveryStatus
from service.storage import gates, leases
from service.storage.receivers import resting
from service.storage.tables import (
    EPOCH,
    attempts,
    deliveries,
    events,
    invoices,
    is_event_of_delivery,
    is_invoice_of_delivery,
    microseconds,
    receivers,
)
from service.storage.waiting import is_pending
from service.values import value

ASKED_MAX = 64
"""Deliveries of one receiver that were asked for by hand, and are leased in one round."""


@value()
class LeaseRound:
    """
    Lease deliveries that are due at *now*, until *until*.

    *limits* says how many each receiver gets at most, the longest due first. Of the receivers
    *asked*, those deliveries are leased before that were asked for by hand; no limit counts them.
    The leases are those of *process_id*. *begins* has an instant for some receivers, before which
    no delivery is looked for.
    """

    now: datetime
    until: datetime
    limits: Mapping[str, int]
    asked: Sequence[str] = ()
    process_id: int | None = None
    begins: Mapping[str, datetime] = field(default_factory=dict, hash=False)


ENDED = (
    "The process that made this attempt ended before it could record an answer. "
    "Your receiver may have seen it, or nothing."
)
"""The detail of an attempt that was lost with its process."""

DeliveryToRelease = tuple[Delivery, datetime | None]
"""A leased delivery, and when it is due then; None leaves that as it is."""


@value()
class DueDeliveries:
    """
    The result of a lease round.

    *lost_count* is how many of the deliveries had an attempt recorded as lost.
    """

    deliveries: Sequence[Delivery]
    lost_count: int = 0


_earlier = deliveries.alias("earlier")
is_first_of_its_invoice = or_(
    deliveries.c.sequence == 1,
    ~exists().where(
        _earlier.c.account_id == deliveries.c.account_id,
        _earlier.c.invoice_key == deliveries.c.invoice_key,
        _earlier.c.callback == deliveries.c.callback,
        _earlier.c.sequence < deliveries.c.sequence,
        # Not "is pending": a plan would then scan the index of pending deliveries for each row,
        # if the statistics of the database say that they are few.
        _earlier.c.status.not_in(sorted(SETTLED)),
    ),
)
_free = (
    select(
        *(deliveries.c[name] for name in Delivery.__dataclass_fields__ if name in deliveries.c),
        # A test event has neither an invoice nor an event of one.
        func.coalesce(invoices.c.id, deliveries.c.invoice_key).label("invoice_id"),
        func.coalesce(invoices.c.created_at, deliveries.c.created_at).label("accepted_at"),
        func.coalesce(invoices.c.request_id, deliveries.c.id).label("request_id"),
        invoices.c.traceparent,
        func.coalesce(events.c.collector, literal(test_events.COLLECTOR)).label("collector"),
    )
    .outerjoin_from(deliveries, invoices, is_invoice_of_delivery)
    .outerjoin(events, is_event_of_delivery)
    .where(
        is_pending,
        deliveries.c.receiver == bindparam("receiver"),
        leases.is_free(deliveries),
        is_first_of_its_invoice,
    )
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True, of=deliveries)
)
# Asked again: a hold or a pause may have begun since the receiver was looked at.
_of_receiver = receivers.c.receiver == bindparam("receiver")
_rests = exists().where(
    _of_receiver, or_(receivers.c.held_until > bindparam("now"), gates.is_closed)
)
_due = _free.where(
    deliveries.c.due_at <= bindparam("now"),
    deliveries.c.due_at >= bindparam("begin", type_=deliveries.c.due_at.type),
    ~_rests,
).order_by(deliveries.c.due_at)
_asked = _free.where(deliveries.c.is_asked, ~exists().where(_of_receiver, gates.is_closed))
_leased = Given(account_id=Text(), key=Text(), lost_count=Integer())
_taking = leases.taking(deliveries, _leased).values(
    attempt_count=deliveries.c.attempt_count + _leased.c.lost_count
)
_released = leases.held(due_at=deliveries.c.due_at.type)
_releasing = leases.giving_up(deliveries, _released).values(
    due_at=func.coalesce(_released.c.due_at, deliveries.c.due_at)
)


def insert(
    tx: Connection,
    new: Sequence[Delivery],
    process_id: int | None = None,
    *,
    unless_known: bool = False,
) -> Sequence[Delivery]:
    """
    Insert *new* deliveries, pending and due at once, with the leases of *process_id*.

    With *unless_known*, those that are stored already stay as they are.

    Runs inside *tx* and never commits it.

    Returns:
        The deliveries as they were inserted, in their order: without a lease for a receiver that
        gets no attempts now.
    """
    if not new:
        return new
    names = resting(tx, new, new[0].created_at)
    if names:
        new = [replace(one, leased_until=None) if one.receiver in names else one for one in new]
    insert_rows(tx, deliveries, new_rows(new, process_id), unless_known=unless_known)
    return new


def new_rows(new: Sequence[Delivery], process_id: int | None) -> list[tuple[Any, ...]]:
    """The rows of *new* deliveries, with the leases of *process_id*."""
    return [_row(one, process_id) for one in new]


def lease_due(tx: Connection, rounds: Sequence[LeaseRound]) -> list[DueDeliveries]:
    """
    Lease deliveries that are due.

    For a lease that ran out unsettled, an attempt with the outcome `lost` is recorded: its process
    ended, and it is unknown whether the receiver saw a request.

    Runs inside *tx* and never commits it.
    """
    return [_lease_due(tx, one) for one in rounds]


def release(tx: Connection, leased: Sequence[DeliveryToRelease]) -> list[bool]:
    """
    Give up leases without an attempt; False for one that was no longer held.

    Runs inside *tx* and never commits it.

    Raises:
        Undecided: if some of several leases were no longer held; see `leases`.
    """
    return [leases.give_up(tx, _releasing, map(_release_row, leased))] * len(leased)


def release_at_once(leased: Sequence[DeliveryToRelease]) -> AtOnce | None:
    """The statement that does `release`."""
    rows = list(map(_release_row, leased))
    return leases.given_up_at_once(
        _releasing_at_once(), rows, results=lambda found: leases.are_among(rows, found)
    )


@cache
def _releasing_at_once() -> str:
    return text_for_driver(_releasing.returning(deliveries.c.account_id, deliveries.c.id))


def _release_row(item: DeliveryToRelease) -> dict[str, Any]:
    delivery, due_at = item
    return {
        "account_id": delivery.account_id,
        "key": delivery.id,
        "token": delivery.lease_token,
        "due_at": microseconds(due_at),
    }


def _lease_due(tx: Connection, round_: LeaseRound) -> DueDeliveries:
    rows = list[RowMapping]()
    for receiver in round_.asked:
        rows += _find(tx, _asked, round_, receiver, ASKED_MAX)
    _take(tx, rows, round_)
    due = list[RowMapping]()
    for receiver, limit in round_.limits.items():
        due += _find(tx, _due, round_, receiver, limit)
    _take(tx, due, round_)
    rows += due
    return DueDeliveries(
        deliveries=[_leased_delivery(row, round_.until) for row in rows],
        lost_count=sum(1 for row in rows if row["leased_until"]),
    )


def _find(
    tx: Connection, query: Select[Any], round_: LeaseRound, receiver: str, limit: int
) -> Sequence[RowMapping]:
    parameters = {"now": round_.now, "receiver": receiver, "limit": limit}
    if query is _due:
        parameters["begin"] = round_.begins.get(receiver, EPOCH)
    return tx.execute(query, parameters).mappings().all()


def _take(tx: Connection, rows: Sequence[RowMapping], round_: LeaseRound) -> None:
    if not rows:
        return
    leased = [
        {
            "account_id": row["account_id"],
            "key": row["id"],
            "lost_count": 1 if row["leased_until"] else 0,
        }
        for row in rows
    ]
    at = {"until": round_.until, "process_id": round_.process_id}
    tx.execute(_taking, {**given(leased), **at})
    lost = [lost_attempt_row(row, round_.now, ENDED) for row in rows if row["leased_until"]]
    insert_rows(tx, attempts, lost)


def _leased_delivery(row: RowMapping, until: datetime) -> Delivery:
    changes = {
        "attempt_count": row["attempt_count"] + (1 if row["leased_until"] else 0),
        "leased_until": until,
        "lease_token": row["lease_token"] + 1,
        "cause": Cause(row["cause"]),
        "is_asked": bool(row["is_asked"]),
    }
    return Delivery(**{**row, **changes})


def _row(delivery: Delivery, process_id: int | None) -> tuple[Any, ...]:
    created_at = microseconds(delivery.created_at)
    return (
        delivery.account_id,  # account_id
        delivery.id,  # id
        delivery.invoice_key,  # invoice_key
        delivery.sequence,  # sequence
        delivery.callback,  # callback
        delivery.url,  # url
        delivery.origin,  # origin
        delivery.body,  # body
        DeliveryStatus.PENDING.value,  # status
        None,  # reason
        delivery.attempt_count,  # attempt_count
        delivery.failure_count,  # failure_count
        created_at,  # created_at
        created_at,  # due_at
        None,  # settled_at
        microseconds(delivery.leased_until),  # leased_until
        delivery.lease_token if delivery.leased_until else 0,  # lease_token
        str(delivery.cause),  # cause
        delivery.receiver,  # receiver
        delivery.is_asked,  # is_asked
        process_id if delivery.leased_until else None,  # leased_by
    )


def lost_attempt_row(row: RowMapping, now: datetime, detail: str) -> tuple[Any, ...]:
    """The attempt whose result is not known, under a lease that has ended at *now*."""
    return (
        row["account_id"],  # account_id
        row["id"],  # delivery_id
        row["attempt_count"] + 1,  # number
        microseconds(min(row["leased_until"], now)),  # started_at
        0,  # duration_ms
        None,  # status_code
        AttemptOutcome.LOST.value,  # outcome
        detail,  # detail
        None,  # response_body
        row["cause"],  # cause
        None,  # transmission
    )
