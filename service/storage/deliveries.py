"""
Deliveries: inserted with their events, leased when they are due, released.

Keeps invariant 5: a delivery is not leased while an earlier one of the same callback of its
invoice is pending, so that the events of one invoice arrive in order.

Due deliveries are found for one origin after the other. The next origin is found by one index
lookup, whose cost does not depend on how many deliveries are pending for an origin.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from operator import attrgetter
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

from service.database.bulk import Given, given, insert_rows
from service.domain.delivery import Delivery
from service.domain.outcomes import AttemptOutcome
from service.domain.states import SETTLED, Cause, DeliveryStatus
from service.storage import leases
from service.storage.holds import held_origins
from service.storage.tables import (
    attempts,
    deliveries,
    events,
    invoices,
    is_event_of_delivery,
    is_invoice_of_delivery,
    microseconds,
    origins,
)
from service.values import value

LOOK = 64
"""How many origins one round looks at: SQLite has one writer, so transactions must be short."""


@value()
class LeaseRound:
    """
    Lease up to *limit* deliveries that are due at *now*, until *until*.

    Origins are looked at in the order of the database, starting after *after*, and share the limit
    evenly. *capacities* says how many leases some origins may get, *origin_capacity* how many
    each other one may get. The *held_origins* get none, and do not affect `next_due_at`. The leases
    are those of *process_id*.
    """

    now: datetime
    until: datetime
    limit: int
    origin_capacity: int
    capacities: Mapping[str, int] = field(default_factory=dict)
    held_origins: frozenset[str] = frozenset()
    after: str = ""
    look: int = LOOK
    process_id: int | None = None


DeliveryToRelease = tuple[Delivery, datetime | None]
"""A leased delivery, and when it is due then; None leaves that as it is."""


@value()
class DueDeliveries:
    """
    The result of a lease round.

    *left_origins* may have more deliveries due: the limit or the capacity of the origin ended the
    round. *next_due_at* is when the other origins that were looked at may have one due without
    anything new being written, None if never. *after* is where the next round continues, None if
    this one has looked at the last origin. *lost_count* is how many of the deliveries had an
    attempt recorded as lost.
    """

    deliveries: Sequence[Delivery]
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
        _earlier.c.callback == deliveries.c.callback,
        _earlier.c.sequence < deliveries.c.sequence,
        # Not "is pending": a plan would then scan the index of pending deliveries for each row,
        # if the statistics of the database say that they are few.
        _earlier.c.status.not_in(sorted(SETTLED)),
    ),
)
# A literal and not a parameter: otherwise a database does not use the index of due deliveries.
_PENDING: ColumnElement[str] = literal_column("'pending'")
is_pending = deliveries.c.status == _PENDING


def next_origin(after: ColumnElement[str]) -> ScalarSelect[str]:
    """The first origin after *after* with pending deliveries, by one index lookup."""
    pending = deliveries.alias("pending")
    return (
        select(func.min(pending.c.origin))
        .where(pending.c.status == _PENDING, pending.c.origin > after)
        .scalar_subquery()
    )


def _waiting_origins() -> Select[Any]:
    """Up to `:look` origins with pending deliveries, and when the next one of each is due."""
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
        *(deliveries.c[name] for name in Delivery.__dataclass_fields__ if name in deliveries.c),
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
_released = leases.held(due_at=deliveries.c.due_at.type)
_releasing = leases.giving_up(deliveries, _released).values(
    due_at=func.coalesce(_released.c.due_at, deliveries.c.due_at)
)


def insert(
    tx: Connection, new: Sequence[Delivery], process_id: int | None = None
) -> Sequence[Delivery]:
    """
    Insert *new* deliveries, pending and due at once, with the leases of *process_id*.

    Runs inside *tx* and never commits it.

    Returns:
        The deliveries as they were inserted, in their order: without a lease for an origin that
        is held.
    """
    if not new:
        return new
    held = held_origins(tx, map(_origin, new), new[0].created_at)
    if held:
        new = [replace(one, leased_until=None) if one.origin in held else one for one in new]
    insert_rows(tx, deliveries, [_row(one, process_id) for one in new])
    return new


def lease_due(tx: Connection, rounds: Sequence[LeaseRound]) -> list[DueDeliveries]:
    """
    Lease deliveries that are due; of each origin, the longest due first.

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
    rows = [
        {
            "account_id": one.account_id,
            "key": one.id,
            "token": one.lease_token,
            "due_at": microseconds(due_at),
        }
        for one, due_at in leased
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
        next_due_at=min(_next_instants(looked, open_, round_.now), default=None),
        after=looked[-1].origin if len(looked) == round_.look else None,
        lost_count=sum(1 for row in rows if row["leased_until"]),
    )


def _is_open(origin: Row[Any], round_: LeaseRound) -> bool:
    """Whether *origin* may be called now, as far as its holds go."""
    is_held = origin.held_until is not None and origin.held_until > round_.now
    return not is_held and origin.origin not in round_.held_origins


def _next_instants(
    looked: Sequence[Row[Any]], open_: Sequence[Row[Any]], now: datetime
) -> Iterator[datetime]:
    """When a delivery of the open origins is due next, and when the holds of the others end."""
    yield from (one.next_due_at for one in open_ if one.next_due_at)
    yield from (one.held_until for one in looked if one.held_until and one.held_until > now)


def _find(
    tx: Connection, round_: LeaseRound, due: Sequence[str]
) -> tuple[list[RowMapping], list[str]]:
    """The deliveries that the origins *due* get in this round, and which of them may have more."""
    found, left = list[RowMapping](), list[str]()
    for number, origin in enumerate(due):
        share = -(-(round_.limit - len(found)) // (len(due) - number))
        limit = max(0, min(share, round_.capacities.get(origin, round_.origin_capacity)))
        if limit:
            parameters = {"now": round_.now, "origin": origin, "limit": limit}
            rows = tx.execute(_due, parameters).mappings().all()
        else:
            rows = []
        found += rows
        if len(rows) == limit:
            left.append(origin)
    return found, left


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
    lost = [_lost_attempt_row(row, round_.now) for row in rows if row["leased_until"]]
    insert_rows(tx, attempts, lost)


def _leased_delivery(row: RowMapping, until: datetime) -> Delivery:
    changes = {
        "attempt_count": row["attempt_count"] + (1 if row["leased_until"] else 0),
        "leased_until": until,
        "lease_token": row["lease_token"] + 1,
        "cause": Cause(row["cause"]),
    }
    return Delivery(**{**row, **changes})


_origin = attrgetter("origin")


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
        delivery.cause.value,  # cause
        process_id if delivery.leased_until else None,  # leased_by
    )


def _lost_attempt_row(row: RowMapping, now: datetime) -> tuple[Any, ...]:
    return (
        row["account_id"],  # account_id
        row["id"],  # delivery_id
        row["attempt_count"] + 1,  # number
        microseconds(min(row["leased_until"], now)),  # started_at
        0,  # duration_ms
        None,  # status_code
        AttemptOutcome.LOST.value,  # outcome
        "The process that made this attempt ended before it could record an answer. "
        "Your receiver may have seen it, or nothing.",  # detail
        None,  # response_body
        row["cause"],  # cause
    )
