"""
The processes that take leases from one server, each with the beats that show that it is alive.

A process that has ended keeps its row for a while, because `leases.is_free` looks it up. It never
comes back under the same id: a process that was taken for dead and is not goes on under a new one.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, insert, select, text, update

from service.storage.tables import processes

KEPT = timedelta(days=1)
"""How long an ended process is remembered. Only leases that are longer run out by themselves."""

_beating = (
    update(processes)
    .where(processes.c.id == bindparam("process_id"), processes.c.ended_at.is_(None))
    .values(beat_count=processes.c.beat_count + 1)
)
_others = select(processes.c.id, processes.c.beat_count).where(
    processes.c.id != bindparam("process_id"), processes.c.ended_at.is_(None)
)


def register(tx: Connection, now: datetime) -> int:
    """
    Add a process, and remove those that ended more than `KEPT` ago.

    Runs inside *tx* and never commits it.

    Returns:
        The id of the process, which no other one has had.
    """
    tx.execute(delete(processes).where(processes.c.ended_at < now - KEPT)).close()
    adding = insert(processes).values(beat_count=0, started_at=now).returning(processes.c.id)
    process_id: int = tx.execute(adding).scalar_one()
    return process_id


def beat(tx: Connection, process_id: int) -> Mapping[int, int] | None:
    """
    Count a beat of *process_id*.

    Runs inside *tx* and never commits it.

    Returns:
        The beat counts of all other processes that have not ended, by their ids; None if
        *process_id* itself is recorded as ended.
    """
    if tx.dialect.name == "postgresql":
        # A beat must not wait for the disk; one that is lost in a crash of the server is repeated.
        tx.execute(text("SET LOCAL synchronous_commit = off")).close()
    if not tx.execute(_beating, {"process_id": process_id}).rowcount:
        return None
    return {one.id: one.beat_count for one in tx.execute(_others, {"process_id": process_id})}


def end(tx: Connection, process_id: int, now: datetime, *, beat_count: int | None = None) -> bool:
    """
    Record that *process_id* has ended, and its leases with it.

    Runs inside *tx* and never commits it.

    Returns:
        False if that is recorded already, or if it has had another beat than *beat_count*.
    """
    ending = update(processes).where(processes.c.id == process_id, processes.c.ended_at.is_(None))
    if beat_count is not None:
        ending = ending.where(processes.c.beat_count == beat_count)
    return bool(tx.execute(ending.values(ended_at=now)).rowcount)
