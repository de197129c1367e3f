"""
Retention: what was settled long ago is removed, a few rows at a time, and never what is pending.

Invoices and their events stay: they are the account's books, and what makes an id that was used
known. What goes is how an event was delivered. Deliveries lie in the order of their birth, and
none is settled before it is born: those that are old enough are found without an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Select, Text, and_, delete, func, select

from service.database.given import Given, given
from service.domain.ids import lower_bound
from service.domain.states import SETTLED
from service.storage.tables import attempts, deliveries, origins

BATCH = 200
"""Deliveries looked at in one transaction: others wait for it, some milliseconds."""


@dataclass(frozen=True, slots=True)
class SweepPlace:
    """How far a sweep has come: behind the delivery *after* of an account."""

    account_id: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Swept:
    """One batch: how many deliveries were removed, and where the next begins, if there is one."""

    count: int
    next: SweepPlace | None


def sweep(tx: Connection, place: SweepPlace, settled_before: datetime) -> Swept:
    """
    Remove the deliveries that were *settled_before* among the next `BATCH` behind *place*.

    Their attempts go with them. An account begins when the one before it has been swept.

    Runs inside *tx* and never commits it.
    """
    ids = _ids_behind(tx, place, settled_before)
    count = _remove(tx, place, ids[-1], settled_before) if ids else 0
    if len(ids) == BATCH:
        return Swept(count, SweepPlace(place.account_id, ids[-1]))
    following = tx.scalar(_following_account(place.account_id))
    return Swept(count, SweepPlace(following) if following is not None else None)


def forget_holds(tx: Connection, after: str, over_before: datetime) -> str | None:
    """
    Forget those whose hold was *over_before* among the next `BATCH` origins behind *after*.

    Runs inside *tx* and never commits it.

    Returns:
        Where the next batch begins; None if this was the last one.
    """
    behind = select(origins.c.origin).where(origins.c.origin > after)
    names = tx.scalars(behind.order_by(origins.c.origin).limit(BATCH)).all()
    if not names:
        return None
    is_behind = and_(origins.c.origin > after, origins.c.origin <= names[-1])
    tx.execute(delete(origins).where(is_behind, origins.c.held_until < over_before))
    return names[-1] if len(names) == BATCH else None


def _ids_behind(tx: Connection, place: SweepPlace, settled_before: datetime) -> Sequence[str]:
    """The next deliveries of the account that were born early enough, whatever their state."""
    born = select(deliveries.c.id).where(
        deliveries.c.account_id == place.account_id,
        deliveries.c.id > place.after,
        deliveries.c.id < f"msg_{lower_bound(settled_before)}",
    )
    return tx.scalars(born.order_by(deliveries.c.id).limit(BATCH)).all()


_old = Given(id=Text())


def _remove(tx: Connection, place: SweepPlace, last: str, settled_before: datetime) -> int:
    removed = tx.scalars(
        delete(deliveries)
        .where(
            deliveries.c.account_id == place.account_id,
            deliveries.c.id > place.after,
            deliveries.c.id <= last,
            deliveries.c.status.in_(sorted(SETTLED)),
            deliveries.c.settled_at < settled_before,
        )
        .returning(deliveries.c.id)
    ).all()
    if removed:
        of_removed = attempts.c.delivery_id.in_(select(_old.c.id))
        of_account = attempts.c.account_id == place.account_id
        tx.execute(
            delete(attempts).where(of_account, of_removed), given([{"id": id_} for id_ in removed])
        )
    return len(removed)


def _following_account(account_id: str) -> Select[str | None]:
    return select(func.min(deliveries.c.account_id)).where(deliveries.c.account_id > account_id)
