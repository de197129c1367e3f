"""
Deliveries, as the dispatcher finds them: leased when they are due, given back, never lost.

Invariant 5 is kept here: a delivery is not leased while an earlier one of its invoice is
pending, so the events of one invoice arrive in their order.

Due deliveries are found origin by origin, each one step of the index away from the one before.
However many wait for one receiver, finding those of the next costs the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    RowMapping,
    ScalarSelect,
    Select,
    Text,
    bindparam,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
)

from service.database.given import Given, given
from service.domain.outcomes import AttemptOutcome
from service.domain.states import SETTLED, Cause
from service.storage import leases
from service.storage.settlements import AttemptRecord, insert_attempts
from service.storage.tables import (
    deliveries,
    events,
    invoices,
    is_event_of_delivery,
    is_invoice_of_delivery,
    origins,
)
from service.values import value

LOOK = 64


@value(kw_only=True)
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
    cause: Cause
    accepted_at: datetime
    created_at: datetime
    leased_until: datetime
    lease_token: int
    request_id: str
    traceparent: str | None


@value()
class LeaseRound:
    """
    Lease up to *limit* deliveries that are due at *now*, until *until*.

    Origins are looked at in the order of the database, beginning behind *after*, and share the
    limit evenly. None gets more than there is room for: *rooms* says how much that is for some,
    *origin_room* for all others. The *held_origins* get nothing, and are not waited for.
    """

    now: datetime
    until: datetime
    limit: int
    origin_room: int
    rooms: Mapping[str, int] = field(default_factory=dict)
    held_origins: frozenset[str] = frozenset()
    after: str = ""
    look: int = LOOK
    """How many origins are looked at; a transaction of the one writer must stay short."""


@value()
class DueDeliveries:
    """
    One round of leasing.

    *left_origins* may have more that is due: there was no room for it, in all or for the
    origin. *next_due_at* is when the other origins that were looked at may have something
    without anything new being written, None if never. *after* is where the next round goes
    on, None if this one has looked at the last origin. *lost_count* says of how many of the
    deliveries an attempt was told as lost.
    """

    deliveries: Sequence[LeasedDelivery]
    left_origins: frozenset[str]
    next_due_at: datetime | None
    after: str | None
    lost_count: int = 0


_earlier = deliveries.alias("earlier")
is_first_of_its_invoice = or_(
    deliveries.c.sequence == 1,
    ~exists().where(
        _earlier.c.account_id == deliveries.c.account_id,
        _earlier.c.invoice_key == deliveries.c.invoice_key,
        _earlier.c.sequence < deliveries.c.sequence,
        # Not "is pending": the index of those would serve then, which would be walked through
        # for each row by whoever takes the pending ones for few.
        _earlier.c.status.not_in(sorted(SETTLED)),
    ),
)
# Written out and not bound: only so does a database see that the index of what is due serves.
_PENDING: ColumnElement[str] = literal_column("'pending'")
is_pending = deliveries.c.status == _PENDING


def next_origin(after: ColumnElement[str]) -> ScalarSelect[str]:
    """The first origin behind *after* that has pending deliveries: one step of the index."""
    pending = deliveries.alias("pending")
    return (
        select(func.min(pending.c.origin))
        .where(pending.c.status == _PENDING, pending.c.origin > after)
        .scalar_subquery()
    )


def _waiting_origins() -> Select[Any]:
    """Up to `:look` origins with pending deliveries, and when there is something to do for each."""
    first = select(
        next_origin(bindparam("after", type_=Text())).label("origin"), literal(1).label("number")
    )
    waiting = first.cte("waiting", recursive=True)
    waiting = waiting.union_all(
        select(next_origin(waiting.c.origin), waiting.c.number + 1).where(
            waiting.c.origin.is_not(None), waiting.c.number < bindparam("look", type_=Integer())
        )
    )
    of_origin = select(func.min(deliveries.c.due_at)).where(
        is_pending, deliveries.c.origin == waiting.c.origin
    )
    held_until = select(origins.c.held_until).where(origins.c.origin == waiting.c.origin)
    return select(
        waiting.c.origin,
        of_origin.scalar_subquery().label("first_due_at"),
        of_origin.where(deliveries.c.due_at > bindparam("now"))
        .scalar_subquery()
        .label("next_due_at"),
        held_until.scalar_subquery().label("held_until"),
    ).where(waiting.c.origin.is_not(None))


_waiting = _waiting_origins()
_due = (
    select(
        *(
            deliveries.c[name]
            for name in LeasedDelivery.__dataclass_fields__
            if name in deliveries.c
        ),
        invoices.c.id.label("invoice_id"),
        invoices.c.created_at.label("accepted_at"),
        invoices.c.request_id,
        invoices.c.traceparent,
        events.c.collector,
    )
    .join_from(deliveries, invoices, is_invoice_of_delivery)
    .join(events, is_event_of_delivery)
    .where(
        is_pending,
        deliveries.c.origin == bindparam("origin"),
        deliveries.c.due_at <= bindparam("now"),
        leases.is_free(deliveries),
        is_first_of_its_invoice,
    )
    .order_by(deliveries.c.due_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True, of=deliveries)
)
_leased = Given(account_id=Text(), key=Text(), lost_count=Integer())
_taking = leases.taking(deliveries, _leased).values(
    attempt_count=deliveries.c.attempt_count + _leased.c.lost_count
)
_releasing = leases.giving_up(deliveries, leases.held())


def lease_due(tx: Connection, rounds: Sequence[LeaseRound]) -> list[DueDeliveries]:
    """
    Lease deliveries that are due; of each origin, those that have waited longest first.

    A lease that ran out unsettled is told as an attempt with the outcome `lost`: the process
    that held it ended, and whether the receiver saw anything cannot be known.

    Runs inside *tx* and never commits it.
    """
    return [_lease_due(tx, one) for one in rounds]


def release(tx: Connection, leased: Sequence[LeasedDelivery]) -> list[bool]:
    """
    Give leases back unused, for anybody to take; False for one that had passed on.

    Raises:
        Undecided: if some of several leases had passed on; see `leases`.
    """
    rows = [
        {"account_id": one.account_id, "key": one.id, "token": one.lease_token} for one in leased
    ]
    return [leases.give_up(tx, _releasing, rows)] * len(leased)


def _lease_due(tx: Connection, round_: LeaseRound) -> DueDeliveries:
    looked = tx.execute(
        _waiting, {"now": round_.now, "after": round_.after, "look": round_.look}
    ).all()
    open_ = [one for one in looked if _is_open(one, round_)]
    due = [one.origin for one in open_ if one.first_due_at <= round_.now]
    rows, left = _find(tx, round_, due)
    _take(tx, rows, round_)
    return DueDeliveries(
        deliveries=[_leased_delivery(row, round_.until) for row in rows],
        left_origins=frozenset(left),
        next_due_at=min(_chances(looked, open_, round_.now), default=None),
        after=looked[-1].origin if len(looked) == round_.look else None,
        lost_count=sum(1 for row in rows if row["leased_until"]),
    )


def _is_open(origin: Row[Any], round_: LeaseRound) -> bool:
    """Whether *origin* may be called now, as far as its holds go."""
    is_held = origin.held_until is not None and origin.held_until > round_.now
    return not is_held and origin.origin not in round_.held_origins


def _chances(
    looked: Sequence[Row[Any]], open_: Sequence[Row[Any]], now: datetime
) -> Iterator[datetime]:
    """When something becomes due at the open origins, and when the others are let go."""
    yield from (one.next_due_at for one in open_ if one.next_due_at)
    yield from (one.held_until for one in looked if one.held_until and one.held_until > now)


def _find(
    tx: Connection, round_: LeaseRound, due: Sequence[str]
) -> tuple[list[RowMapping], list[str]]:
    """What the origins *due* get of the round, and which of them may have more."""
    found, left = list[RowMapping](), list[str]()
    for number, origin in enumerate(due):
        share = -(-(round_.limit - len(found)) // (len(due) - number))
        room = round_.rooms.get(origin, round_.origin_room)
        limit = max(0, min(share, room))
        rows = _find_due(tx, origin, round_.now, limit) if limit else []
        found += rows
        if len(rows) == limit:
            left.append(origin)
    return found, left


def _find_due(tx: Connection, origin: str, now: datetime, limit: int) -> Sequence[RowMapping]:
    parameters = {"now": now, "origin": origin, "limit": limit}
    return tx.execute(_due, parameters).mappings().all()


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
    tx.execute(_taking, {**given(leased), "until": round_.until})
    lost = [row for row in rows if row["leased_until"]]
    insert_attempts(
        tx, [(row["account_id"], row["id"], _lost_attempt(row, round_.now)) for row in lost]
    )


def _leased_delivery(row: RowMapping, until: datetime) -> LeasedDelivery:
    values = dict(row)
    values["attempt_count"] += 1 if values["leased_until"] else 0
    values["leased_until"] = until
    values["lease_token"] += 1
    values["cause"] = Cause(values["cause"])
    return LeasedDelivery(**values)


def _lost_attempt(row: RowMapping, now: datetime) -> AttemptRecord:
    return AttemptRecord(
        number=row["attempt_count"] + 1,
        started_at=min(row["leased_until"], now),
        duration_ms=0,
        status_code=None,
        outcome=AttemptOutcome.LOST,
        detail="The process that made this attempt ended before it could record an answer. "
        "Your receiver may have seen it, or nothing.",
        response_body=None,
        cause=Cause(row["cause"]),
    )
