"""
What the attempts of a process have shown of receivers, beside what was stored with each attempt.

An attempt stores the state of its receiver only where that changes, and none where no connection
was made, which concerns the origin. A process stores the rest from time to time: the counts of its
attempts, that a receiver could not be reached, and that one has answered which another process
knows as failing.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, Text, case, func, null, or_, select, true, update

from service.database.bulk import Given, given, insert_of
from service.domain.attempt_counts import Hour
from service.domain.receivers import id_of
from service.storage import receiver_hours
from service.storage.receivers import REASON_MAX
from service.storage.tables import microseconds, receivers
from service.values import value


@value(kw_only=True)
class Observation:
    """
    What one process has seen of a *receiver*.

    *answered_at* is when it answered last. No connection was made at *failed_at*, and since
    *failing_since*; these are None if it has answered or failed otherwise since.
    """

    receiver: str
    origin: str
    hours: Sequence[Hour] = ()
    answered_at: datetime | None = None
    failing_since: datetime | None = None
    failed_at: datetime | None = None
    reason: str | None = None


def record(tx: Connection, observed: Sequence[Observation]) -> None:
    """
    Store what was *observed*, of each receiver once.

    Runs inside *tx* and never commits it.
    """
    receiver_hours.add(tx, [hour for one in observed for hour in one.hours])
    ordered = sorted(observed, key=lambda one: one.receiver)
    if failing := [_failing_row(one) for one in ordered if one.failed_at]:
        tx.execute(_failing(tx.dialect.name), given(failing))
    if answered := [
        {"receiver": one.receiver, "answered_at": microseconds(one.answered_at)}
        for one in ordered
        if one.answered_at and not one.failed_at
    ]:
        tx.execute(_answering, given(answered))


def _failing_row(one: Observation) -> dict[str, Any]:
    return {
        "receiver": one.receiver,
        "origin": one.origin,
        "id": id_of(one.receiver),
        "failing_since": microseconds(one.failing_since),
        "failed_at": microseconds(one.failed_at),
        "reason": one.reason and one.reason[:REASON_MAX],
    }


_INSTANT = receivers.c.failed_at.type
_unreachable = Given(
    receiver=Text(),
    origin=Text(),
    id=Text(),
    failing_since=_INSTANT,
    failed_at=_INSTANT,
    reason=Text(),
)
_answered = Given(receiver=Text(), answered_at=_INSTANT)
_answering = (
    update(receivers)
    .where(
        receivers.c.receiver == _answered.c.receiver,
        receivers.c.failing_since.is_not(None),
        func.coalesce(receivers.c.failed_at, receivers.c.failing_since) < _answered.c.answered_at,
    )
    .values(
        failing_since=null(),
        reason=null(),
        answered_at=_answered.c.answered_at,
        answering_since=_answered.c.answered_at,
    )
)


@cache
def _failing(dialect_name: str) -> Executable:
    names = [one.name for one in _unreachable.c]
    # SQLite reads the ON of "ON CONFLICT" as a join's, unless a WHERE stands in between.
    rows = select(*_unreachable.c).where(true())
    statement = insert_of(dialect_name)(receivers).from_select(names, rows)
    new, known = statement.excluded, receivers.c
    is_older = or_(known.answered_at.is_(None), known.answered_at < new.failed_at)
    later = case((known.failed_at > new.failed_at, known.failed_at), else_=new.failed_at)
    failing: Executable = statement.on_conflict_do_update(
        index_elements=[known.receiver],
        set_={
            "failing_since": func.coalesce(known.failing_since, new.failing_since),
            "failed_at": later,
            "reason": new.reason,
            "id": new.id,
            "answering_since": null(),
        },
        where=is_older,
    )
    return failing
