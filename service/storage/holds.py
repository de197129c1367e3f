"""Holds: origins that asked with Retry-After to get no attempts until an instant."""

from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, Text, bindparam, select, true
from sqlalchemy.dialects import postgresql, sqlite

from service.database.bulk import Given, given
from service.domain.delivery import Attempt
from service.storage.tables import microseconds, origins

_asked = Given(origin=Text())
_hold = select(origins.c.held_until).where(origins.c.origin == _asked.c.origin)
# One lookup for each origin: a join might read all holds, and most of them are over.
_still_held = select(_asked.c.origin).where(_hold.scalar_subquery() > bindparam("now"))

_new = Given(origin=Text(), held_until=origins.c.held_until.type)


def held_origins(tx: Connection, asked: Iterable[str], now: datetime) -> set[str]:
    """Those of the origins *asked* that are held at *now*."""
    rows = [{"origin": origin} for origin in sorted(set(asked))]
    return set(tx.scalars(_still_held, {**given(rows), "now": now}))


def hold_origins(tx: Connection, made: Iterable[Attempt]) -> None:
    """Hold each origin until the latest instant that an attempt, now or before, has asked for."""
    latest: dict[str, datetime] = {}
    for attempt in made:
        origin, until = attempt.delivery.origin, attempt.held_until
        if until is not None:
            latest[origin] = max(until, latest.get(origin, until))
    if latest:
        rows = [{"origin": one, "held_until": microseconds(latest[one])} for one in sorted(latest)]
        tx.execute(_holding(tx.dialect.name), given(rows))


@cache
def _holding(dialect_name: str) -> Executable:
    insert: Any = sqlite.insert if dialect_name == "sqlite" else postgresql.insert
    # SQLite reads the ON of "ON CONFLICT" as a join's, unless a WHERE stands in between.
    rows = select(_new.c.origin, _new.c.held_until).where(true())
    statement = insert(origins).from_select(["origin", "held_until"], rows)
    upsert: Executable = statement.on_conflict_do_update(
        index_elements=[origins.c.origin],
        set_={"held_until": statement.excluded.held_until},
        where=origins.c.held_until < statement.excluded.held_until,
    )
    return upsert
