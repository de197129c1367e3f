"""
Gates: a receiver whose gate is closed gets no attempts, until somebody opens it.

A closed gate stops more than a cooldown or a hold does: it has no end, and what was asked for by
hand waits too. Deliveries are inserted without a lease, and none is leased. What is in flight ends
as usual. Every statement that asks whether a receiver gets attempts asks `is_closed` here.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, update

from service.database.bulk import insert_of
from service.domain.receivers import id_of
from service.storage.tables import receivers

is_closed: ColumnElement[bool] = receivers.c.paused_at.is_not(None)
"""The condition that the gate of a row of `receivers` is closed; one without a row is open."""


def pause(tx: Connection, receiver: str, origin: str, now: datetime) -> bool:
    """
    Close the gate of *receiver* at *origin*; False if it is paused already.

    Runs inside *tx* and never commits it.
    """
    statement = insert_of(tx.dialect.name)(receivers).values(
        receiver=receiver, origin=origin, id=id_of(receiver), paused_at=now
    )
    pausing = statement.on_conflict_do_update(
        index_elements=[receivers.c.receiver],
        set_={"paused_at": now, "id": statement.excluded.id},
        where=~is_closed,
    )
    return bool(tx.execute(pausing).rowcount)


def resume(tx: Connection, receiver: str) -> bool:
    """
    Open the gate of *receiver*; False if it is not paused.

    Runs inside *tx* and never commits it.
    """
    of_receiver = receivers.c.receiver == receiver
    opening = update(receivers).where(of_receiver, is_closed).values(paused_at=None)
    return bool(tx.execute(opening).rowcount)
