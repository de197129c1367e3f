"""
The connections of listeners, and the attempts that they work on.

A process has the connection of a listener, and holds the leases of its deliveries. Acknowledgements
and answers may arrive at any other process of the service, which leaves them here.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from service.database.bulk import Given, given, insert_rows
from service.domain.listening import LISTENER_ORIGINS, LISTENER_SILENCE, AttemptKey
from service.storage.tables import deliveries, listener_attempts, listeners, microseconds
from service.storage.waiting import is_pending
from service.values import value

KEPT = timedelta(hours=1)
"""How long after its deadline an attempt is removed whose process was killed."""


@value(kw_only=True)
class ListenerRow:
    """A connection of the listener of an account: the newest one of its *origin*."""

    account_id: str
    origin: str
    token: str
    seen_count: int = 0


@value(kw_only=True)
class GivenAttempt:
    """An attempt that a listener may answer until *deadline_at*."""

    key: AttemptKey
    deadline_at: datetime


def connect(tx: Connection, new: ListenerRow, now: datetime, replaces: str) -> bool:
    """
    Make *new* the connection of its origin.

    Runs inside *tx* and never commits it.

    Returns:
        Whether there was another one that works, unless its token is *replaces*.
    """
    tx.execute(delete(listener_attempts).where(listener_attempts.c.deadline_at < now - KEPT))
    before = tx.execute(
        select(listeners.c.token, listeners.c.beat_at).where(*_is_of(new.account_id, new.origin))
    ).one_or_none()
    insert = sqlite.insert if tx.dialect.name == "sqlite" else postgresql.insert
    changes = {"token": new.token, "beat_at": now, "seen_count": 0}
    tx.execute(
        insert(listeners)
        .values(account_id=new.account_id, origin=new.origin, **changes)
        .on_conflict_do_update(
            index_elements=[listeners.c.account_id, listeners.c.origin], set_=changes
        )
    )
    return before is not None and before.token != replaces and is_working(before.beat_at, now)


def disconnect(tx: Connection, account_id: str, origin: str, token: str) -> None:
    """
    Remove a connection, unless there is a newer one.

    Runs inside *tx* and never commits it.
    """
    tx.execute(delete(listeners).where(*_is_of(account_id, origin), listeners.c.token == token))


def beat(tx: Connection, rows: Sequence[ListenerRow], now: datetime) -> None:
    """
    Say that the connections *rows* work, as far as they are the newest.

    Runs inside *tx* and never commits it.
    """
    tx.execute(_beating, {**given(_as_rows(rows)), "now": now})


def look(tx: Connection, rows: Sequence[ListenerRow]) -> list[ListenerRow]:
    """The newest connections of the origins of *rows*."""
    return [ListenerRow(**row) for row in tx.execute(_looking, given(_as_rows(rows))).mappings()]


def note_seen(tx: Connection, row: ListenerRow) -> bool:
    """
    Store how many events of a connection have arrived; False if it is not the newest.

    Runs inside *tx* and never commits it.
    """
    counted = func.max if tx.dialect.name == "sqlite" else func.greatest
    count = counted(listeners.c.seen_count, row.seen_count)
    noting = update(listeners).where(
        *_is_of(row.account_id, row.origin), listeners.c.token == row.token
    )
    return bool(tx.execute(noting.values(seen_count=count)).rowcount)


def give(tx: Connection, new: Sequence[GivenAttempt]) -> list[bool]:
    """
    Store that listeners work on the attempts *new*.

    Runs inside *tx* and never commits it.
    """
    for one in new:
        # The same attempt may have been given before, by a process that was killed.
        tx.execute(delete(listener_attempts).where(*_is_attempt(one.key)))
    insert_rows(tx, listener_attempts, list(map(_row, new)))
    return [True] * len(new)


def finish(tx: Connection, keys: Sequence[AttemptKey]) -> list[bytes | None]:
    """
    End attempts: they can be answered no more.

    Runs inside *tx* and never commits it.

    Returns:
        For each the answer that another process took; None if there is none.
    """
    answer = listener_attempts.c.answer
    return [
        tx.scalar(delete(listener_attempts).where(*_is_attempt(key)).returning(answer))
        for key in keys
    ]


def answer(tx: Connection, key: AttemptKey, content: bytes, now: datetime) -> bool:
    """
    Store the answer of an attempt; False if it has ended, or is answered already.

    Runs inside *tx* and never commits it.
    """
    # An expression: otherwise a plan could look for it by the deadline.
    is_in_time = case((listener_attempts.c.deadline_at > now, 1), else_=0) == 1
    is_open = (listener_attempts.c.answer.is_(None), is_in_time)
    taking = update(listener_attempts).where(*_is_attempt(key), *is_open)
    return bool(tx.execute(taking.values(answer=content)).rowcount)


def answers_of(tx: Connection, keys: Sequence[AttemptKey]) -> dict[AttemptKey, bytes]:
    """The answers of those of the attempts *keys* that other processes took."""
    found = {
        key: tx.scalar(select(listener_attempts.c.answer).where(*_is_attempt(key))) for key in keys
    }
    return {key: content for key, content in found.items() if content is not None}


def count_waiting(tx: Connection, receiver: str, most: int) -> int:
    """How many deliveries of *receiver* are pending, up to *most*."""
    pending = select(deliveries.c.due_at).where(is_pending, deliveries.c.receiver == receiver)
    return tx.scalar(select(func.count()).select_from(pending.limit(most).subquery("counted"))) or 0


def is_working(beat_at: datetime | None, now: datetime) -> bool:
    """Whether a connection that was said to work at *beat_at* works at *now*."""
    return beat_at is not None and now - beat_at < LISTENER_SILENCE


def is_reachable(works_since: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that a delivery has no listener, or one whose last beat is after the given."""
    beat_at = (
        select(listeners.c.beat_at)
        .where(
            listeners.c.account_id == deliveries.c.account_id,
            listeners.c.origin == deliveries.c.origin,
        )
        .correlate(deliveries)
        .scalar_subquery()
    )
    # Never null, so that the opposite is true where this is false.
    is_working = func.coalesce(beat_at > works_since, false())
    return or_(deliveries.c.origin.not_like(f"{LISTENER_ORIGINS}%"), is_working)


def _is_of(account_id: str, origin: str) -> tuple[ColumnElement[bool], ...]:
    return listeners.c.account_id == account_id, listeners.c.origin == origin


def _is_attempt(key: AttemptKey) -> tuple[ColumnElement[bool], ...]:
    return (
        listener_attempts.c.account_id == key.account_id,
        listener_attempts.c.delivery_id == key.delivery_id,
        listener_attempts.c.number == key.number,
        listener_attempts.c.origin == key.origin,
    )


def _as_rows(rows: Sequence[ListenerRow]) -> list[dict[str, Any]]:
    return [
        {"account_id": one.account_id, "origin": one.origin, "token": one.token} for one in rows
    ]


def _row(new: GivenAttempt) -> tuple[Any, ...]:
    return (
        new.key.account_id,  # account_id
        new.key.delivery_id,  # delivery_id
        new.key.number,  # number
        new.key.origin,  # origin
        microseconds(new.deadline_at),  # deadline_at
        None,  # answer
    )


_own = Given(account_id=Text(), origin=Text(), token=Text())
_is_own = and_(listeners.c.account_id == _own.c.account_id, listeners.c.origin == _own.c.origin)
_beating = (
    update(listeners)
    .where(_is_own, listeners.c.token == _own.c.token)
    .values(beat_at=bindparam("now", type_=listeners.c.beat_at.type))
)
_looking = select(
    listeners.c.account_id, listeners.c.origin, listeners.c.token, listeners.c.seen_count
).where(_is_own)
