"""
Redelivery: a delivered or dead delivery is made pending again on request.

The delivery keeps its id and its body, so that receivers can recognise it. Its retry schedule
starts anew, the numbers of its attempts continue, and the next attempt has the cause `redelivery`.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Update, case, or_, select, update

from service.domain.states import SETTLED, Cause, DeliveryStatus
from service.storage import history, leases
from service.storage.history import DeliveryFilter
from service.storage.tables import deliveries
from service.storage.waiting import PENDING

BATCH = 500
"""Deliveries in one transaction, which blocks other writers of SQLite for milliseconds."""


@dataclass(frozen=True, slots=True)
class Redelivered:
    """The result of one batch: how many were made pending, and where the next one begins."""

    count: int
    after: str | None


def redeliver(tx: Connection, account_id: str, delivery_id: str, now: datetime) -> str | None:
    """
    Ask for an attempt of one delivery now, whatever its state: no hold and no schedule applies.

    An attempt that is in progress is the one that was asked for: that delivery is not changed.

    Runs inside *tx* and never commits it.

    Returns:
        The receiver if the delivery was changed; None too if the account has no such delivery.
    """
    asking = (
        _redelivering(account_id, now, is_asked=True)
        .where(
            deliveries.c.id == delivery_id,
            or_(deliveries.c.status != PENDING, leases.is_free(deliveries)),
        )
        .returning(deliveries.c.receiver)
    )
    return tx.scalars(asking, {"now": now}).first()


def redeliver_batch(
    tx: Connection, account_id: str, wanted: DeliveryFilter, now: datetime, *, after: str
) -> Redelivered:
    """
    Make the *wanted* ones among the next `BATCH` deliveries after *after* pending and due.

    The batches go in the order of ids, so that none reaches a delivery twice, even if it was
    settled again meanwhile.

    Runs inside *tx* and never commits it.
    """
    behind = select(deliveries.c.id).where(
        deliveries.c.account_id == account_id,
        deliveries.c.id > after,
        *history.conditions_of(DeliveryFilter(status=wanted.status)),
    )
    ids = tx.scalars(behind.order_by(deliveries.c.id).limit(BATCH)).all()
    if not ids:
        return Redelivered(0, None)
    redelivering = _redelivering(account_id, now).where(
        deliveries.c.status.in_(sorted(SETTLED)),
        deliveries.c.id > after,
        deliveries.c.id <= ids[-1],
        *history.conditions_of(wanted),
    )
    count = tx.execute(redelivering).rowcount
    return Redelivered(count, ids[-1] if len(ids) == BATCH else None)


def _redelivering(account_id: str, now: datetime, *, is_asked: bool = False) -> Update:
    by_origin = deliveries.c.account_id.concat(" ").concat(deliveries.c.origin)
    return (
        update(deliveries)
        .where(deliveries.c.account_id == account_id)
        .values(
            status=DeliveryStatus.PENDING.value,
            reason=None,
            failure_count=0,
            due_at=now,
            settled_at=None,
            cause=Cause.REDELIVERY.value,
            is_asked=is_asked,
            # A version before 0007 stored no receiver.
            receiver=case((deliveries.c.receiver == " ", by_origin), else_=deliveries.c.receiver),
        )
    )
