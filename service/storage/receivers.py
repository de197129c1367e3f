"""
The states of receivers and origins: what attempts have shown, for every process to know.

Only changes are stored. A receiver that goes on answering is not written to with each attempt.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Executable,
    Text,
    bindparam,
    case,
    func,
    or_,
    select,
    true,
)

from service.database.bulk import Given, given, insert_of
from service.database.compiled import fetch_given
from service.domain.delivery import Attempt, Delivery, ReceiverState
from service.domain.receivers import id_of
from service.storage.gates import is_closed
from service.storage.tables import microseconds, origins, receivers

ANSWERED_MAX = 5_000
"""Receivers that a process knows from its start as answering: those that did so last."""

REASON_MAX = 500
"""Characters of a reason."""

_asked = Given(receiver=Text(), origin=Text(), now=BigInteger())


def is_resting(
    receiver: ColumnElement[str], origin: ColumnElement[str], now: ColumnElement[Any]
) -> ColumnElement[bool]:
    """The condition that a receiver gets no attempts at *now*."""
    # One lookup for each receiver: a join might read all of them.
    of_receiver = select(receivers.c.receiver).where(
        receivers.c.receiver == receiver,
        or_(receivers.c.cooldown_until > now, receivers.c.held_until > now, is_closed),
    )
    of_origin = select(origins.c.origin).where(
        origins.c.origin == origin, origins.c.held_until > now
    )
    return or_(of_receiver.scalar_subquery().is_not(None), of_origin.scalar_subquery().is_not(None))


_resting = select(_asked.c.receiver).where(
    is_resting(_asked.c.receiver, _asked.c.origin, _asked.c.now)
)
_answered = (
    select(receivers.c.receiver, receivers.c.origin, receivers.c.answered_at)
    .where(receivers.c.answered_at.is_not(None), receivers.c.answered_at > bindparam("since"))
    .order_by(receivers.c.answered_at.desc())
    .limit(ANSWERED_MAX)
)
_INSTANTS = (
    *("answered_at", "answering_since", "failing_since", "failed_at"),
    *("cooldown_until", "held_until"),
)
_states = Given(
    receiver=Text(),
    origin=Text(),
    id=Text(),
    reason=Text(),
    **{name: receivers.c[name].type for name in _INSTANTS},
)
_origin_states = Given(origin=Text(), held_until=origins.c.held_until.type)


def resting(tx: Connection, new: Iterable[Delivery], now: datetime) -> set[str]:
    """Those receivers of *new* deliveries that get no attempts at *now*."""
    pairs = {(one.receiver, one.origin) for one in new}
    at = microseconds(now)
    rows = [
        {"receiver": receiver, "origin": origin, "now": at} for receiver, origin in sorted(pairs)
    ]
    return {receiver for (receiver,) in fetch_given(tx, _resting, rows)}


def answered(tx: Connection, since: datetime) -> list[ReceiverState]:
    """The receivers that have answered *since*, the last ones first."""
    rows = tx.execute(_answered, {"since": since}).mappings()
    return [ReceiverState(**row) for row in rows]


def remember(tx: Connection, made: Sequence[Attempt]) -> None:
    """Store what the attempts *made* have shown, as if each of them were stored by itself."""
    for changed in _changes(made):
        ordered = [changed[name] for name in sorted(changed)]
        tx.execute(_remembering(tx.dialect.name), given(ordered))
    untils = {
        state.origin: state.cooldown_until for state in (one.origin_state for one in made) if state
    }
    if untils:
        rows = [
            {"origin": name, "held_until": microseconds(untils[name])} for name in sorted(untils)
        ]
        tx.execute(_remembering_origins(tx.dialect.name), given(rows))


def _changes(made: Sequence[Attempt]) -> list[dict[str, dict[str, Any]]]:
    """
    The rows to store one after the other, by receiver.

    There is more than one only for a receiver that answers and fails in turn.
    """
    changes, counts = list[dict[str, dict[str, Any]]](), Counter[str]()
    for one in made:
        state = one.receiver_state
        if state is None:
            continue
        row, number = _row(state, one), counts[state.receiver]
        before = changes[number - 1][state.receiver] if number else None
        if before and (before["failing_since"] is None) == (row["failing_since"] is None):
            changes[number - 1][state.receiver] = _merged(before, row)
            continue
        if number == len(changes):
            changes.append({})
        changes[number][state.receiver] = row
        counts[state.receiver] += 1
    return changes


def _merged(before: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """*row*, since when the one *before* it says, with the longer hold."""
    holds = [one["held_until"] for one in (before, row) if one["held_until"]]
    since = {name: before[name] for name in ("answering_since", "failing_since")}
    return {**row, **since, "held_until": max(holds, default=None)}


def reason_of(attempt: Attempt) -> str:
    """What was wrong with *attempt*, as its account is told."""
    return (attempt.detail or f"The attempt was {attempt.outcome}.")[:REASON_MAX]


def _row(state: ReceiverState, attempt: Attempt) -> dict[str, Any]:
    answered_at, failed_at = microseconds(state.answered_at), microseconds(state.failing_since)
    return {
        "receiver": state.receiver,
        "origin": state.origin,
        "id": id_of(state.receiver),
        "reason": reason_of(attempt) if state.failing_since else None,
        "answered_at": answered_at,
        "answering_since": answered_at,
        "failing_since": failed_at,
        "failed_at": failed_at,
        "cooldown_until": microseconds(state.cooldown_until),
        "held_until": microseconds(state.held_until),
    }


@cache
def _remembering(dialect_name: str) -> Executable:
    insert = insert_of(dialect_name)
    # SQLite reads the ON of "ON CONFLICT" as a join's, unless a WHERE stands in between.
    rows = select(*_states.c).where(true())
    statement = insert(receivers).from_select([one.name for one in _states.c], rows)
    new = statement.excluded
    # A version before 0013 has not stored since when it answers.
    since = case(
        (receivers.c.failing_since.is_not(None), new.answering_since),
        else_=func.coalesce(receivers.c.answering_since, new.answering_since),
    )
    longer = case(
        (receivers.c.held_until > new.held_until, receivers.c.held_until), else_=new.held_until
    )
    upsert: Executable = statement.on_conflict_do_update(
        index_elements=[receivers.c.receiver],
        set_={
            "answered_at": new.answered_at,
            "failing_since": case(
                (
                    new.failing_since.is_not(None),
                    func.coalesce(receivers.c.failing_since, new.failing_since),
                )
            ),
            "cooldown_until": new.cooldown_until,
            "held_until": func.coalesce(longer, receivers.c.held_until),
            "id": new.id,
            "reason": new.reason,
            "failed_at": func.coalesce(new.failed_at, receivers.c.failed_at),
            "answering_since": case((new.answered_at.is_not(None), since)),
        },
    )
    return upsert


@cache
def _remembering_origins(dialect_name: str) -> Executable:
    rows = select(_origin_states.c.origin, _origin_states.c.held_until).where(true())
    insert = insert_of(dialect_name)
    statement = insert(origins).from_select(["origin", "held_until"], rows)
    upsert: Executable = statement.on_conflict_do_update(
        index_elements=[origins.c.origin], set_={"held_until": statement.excluded.held_until}
    )
    return upsert
