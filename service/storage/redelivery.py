"""
What an API user decides about deliveries: to deliver once more, and to cancel.

On redelivery, a delivered or dead delivery is made pending again. It keeps its id and its body, so
that receivers can recognise it. Its retry schedule starts anew, the numbers of its attempts
continue, and the next attempt has the cause `redelivery`.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Update, case, func, or_, select, update

from service.database.bulk import insert_rows
from service.domain.states import SETTLED, Cause, DeadReason, DeliveryStatus
from service.storage import history, leases
from service.storage.deliveries import ENDED, lost_attempt_row
from service.storage.history import DeliveryFilter
from service.storage.tables import attempts, deliveries
from service.storage.waiting import PENDING

BATCH = 500
"""Deliveries in one transaction, which blocks other writers of SQLite for milliseconds."""

INTERRUPTED = (
    "The delivery was cancelled during this attempt, or directly before it. "
    "Your receiver may have seen it, or nothing."
)
"""The detail of an attempt whose delivery was cancelled meanwhile."""


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


_cancellable = select(
    *(
        deliveries.c[name]
        for name in (
            "account_id",
            "id",
            "receiver",
            "status",
            "leased_until",
            "attempt_count",
            "cause",
        )
    )
).with_for_update()


def cancel(tx: Connection, account_id: str, delivery_id: str, now: datetime) -> str | None:
    """
    Make one pending delivery dead: it is not attempted again.

    The lease of an attempt in progress ends. What comes of that attempt is not recorded; in its
    place stands an attempt with the outcome `lost`, because the receiver may have seen it.

    Runs inside *tx* and never commits it.

    Returns:
        The receiver if the delivery was changed; None if it was not pending, or the account has no
        such delivery.
    """
    is_it = (deliveries.c.account_id == account_id, deliveries.c.id == delivery_id)
    row = tx.execute(_cancellable.where(*is_it)).mappings().one_or_none()
    if row is None or row["status"] != DeliveryStatus.PENDING:
        return None
    leased_until = row["leased_until"]
    if leased_until:
        detail = INTERRUPTED if leased_until > now else ENDED
        insert_rows(tx, attempts, [lost_attempt_row(row, now, detail)])
    tx.execute(
        update(deliveries)
        .where(*is_it)
        .values(
            status=DeliveryStatus.DEAD.value,
            reason=DeadReason.CANCELLED.value,
            settled_at=now,
            is_asked=False,
            attempt_count=deliveries.c.attempt_count + (1 if leased_until else 0),
            # Whoever holds the lease changes nothing any more.
            leased_until=None,
            leased_by=None,
            lease_token=deliveries.c.lease_token + 1,
        )
    )
    receiver: str = row["receiver"]
    return receiver


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
        # Who has cancelled one does not get it back with all others.
        func.coalesce(deliveries.c.reason, "") != DeadReason.CANCELLED.value,
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
