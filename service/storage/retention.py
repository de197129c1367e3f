"""
Retention: deliveries that were settled long ago are removed, a batch at a time.

Pending deliveries stay, and so do invoices and their events: they are records of the account, and
show which ids were used. The ids of deliveries are in the order of their creation, and a delivery
is settled after its creation, so that old ones are found by their ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
)

from service.database.bulk import Given, given
from service.domain.ids import lower_bound
from service.domain.states import SETTLED
from service.storage import gates
from service.storage.tables import attempts, deliveries, origins, receivers
from service.storage.waiting import is_pending

BATCH = 200
"""Deliveries in one transaction, which blocks other writers for some milliseconds."""


@dataclass(frozen=True, slots=True)
class SweepPosition:
    """Where the next batch of a sweep begins: after the delivery *after* of an account."""

    account_id: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Swept:
    """The result of one batch: how many were removed, and where the next one begins, if any."""

    count: int
    next: SweepPosition | None


def sweep(tx: Connection, position: SweepPosition, settled_before: datetime) -> Swept:
    """
    Remove those of the next `BATCH` deliveries after *position* that were *settled_before*.

    Their attempts are removed with them. A sweep goes through one account after the other.

    Runs inside *tx* and never commits it.
    """
    ids = _ids_after(tx, position, settled_before)
    count = _remove(tx, position, ids[-1], settled_before) if ids else 0
    if len(ids) == BATCH:
        return Swept(count, SweepPosition(position.account_id, ids[-1]))
    following = tx.scalar(_following_account(position.account_id))
    return Swept(count, SweepPosition(following) if following is not None else None)


def remove_states(tx: Connection, kind: str, after: str, over_before: datetime) -> str | None:
    """
    Remove states of that *kind* that mean nothing since *over_before*.

    *kind* is `receivers` or `origins`. The next `BATCH` states after the name *after* are looked
    at. A receiver that is paused, or that deliveries wait for, keeps its state.

    Runs inside *tx* and never commits it.

    Returns:
        Where the next batch begins; None if this was the last one.
    """
    name, is_over = _STATES[kind]
    names = tx.scalars(select(name).where(name > after).order_by(name).limit(BATCH)).all()
    if not names:
        return None
    looked = and_(name > after, name <= names[-1])
    tx.execute(delete(name.table).where(looked, is_over), {"over_before": over_before})
    return names[-1] if len(names) == BATCH else None


def _is_over(column: ColumnElement[Any]) -> ColumnElement[bool]:
    return or_(column.is_(None), column < bindparam("over_before", type_=column.type))


_STATES: dict[str, tuple[Column[str], ColumnElement[bool]]] = {
    "receivers": (
        receivers.c.receiver,
        and_(
            *(
                _is_over(receivers.c[name])
                for name in ("answered_at", "failing_since", "cooldown_until", "held_until")
            ),
            ~gates.is_closed,
            ~exists().where(is_pending, deliveries.c.receiver == receivers.c.receiver),
        ),
    ),
    "origins": (origins.c.origin, _is_over(origins.c.held_until)),
}
"""The name of each kind of state, and when it means nothing."""


def _ids_after(tx: Connection, position: SweepPosition, settled_before: datetime) -> Sequence[str]:
    """The next deliveries of the account that were created early enough, in any state."""
    created = select(deliveries.c.id).where(
        deliveries.c.account_id == position.account_id,
        deliveries.c.id > position.after,
        deliveries.c.id < f"msg_{lower_bound(settled_before)}",
    )
    return tx.scalars(created.order_by(deliveries.c.id).limit(BATCH)).all()


_old = Given(id=Text())


def _remove(tx: Connection, position: SweepPosition, last: str, settled_before: datetime) -> int:
    removed = tx.scalars(
        delete(deliveries)
        .where(
            deliveries.c.account_id == position.account_id,
            deliveries.c.id > position.after,
            deliveries.c.id <= last,
            deliveries.c.status.in_(sorted(SETTLED)),
            deliveries.c.settled_at < settled_before,
        )
        .returning(deliveries.c.id)
    ).all()
    if removed:
        of_removed = attempts.c.delivery_id.in_(select(_old.c.id))
        of_account = attempts.c.account_id == position.account_id
        tx.execute(
            delete(attempts).where(of_account, of_removed), given([{"id": id_} for id_ in removed])
        )
    return len(removed)


def _following_account(account_id: str) -> Select[str | None]:
    return select(func.min(deliveries.c.account_id)).where(deliveries.c.account_id > account_id)
