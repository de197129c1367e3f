"""Holds: origins that asked with Retry-After to get no attempts until an instant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, Text, bindparam, select, true
from sqlalchemy.dialects import postgresql, sqlite

from service.database.given import Given, given
from service.storage.tables import microseconds, origins

_asked = Given(origin=Text())
_hold = select(origins.c.held_until).where(origins.c.origin == _asked.c.origin)
# One by one: a join might read all holds, and most of them are over.
_still_held = select(_asked.c.origin).where(_hold.scalar_subquery() > bindparam("now"))

_new = Given(origin=Text(), held_until=origins.c.held_until.type)


def held_origins(tx: Connection, asked: Iterable[str], now: datetime) -> set[str]:
    """Those of the origins *asked* that are held at *now*."""
    rows = [{"origin": origin} for origin in sorted(set(asked))]
    return set(tx.scalars(_still_held, {**given(rows), "now": now}))


def hold_origins(tx: Connection, holds: Sequence[tuple[str, datetime]]) -> None:
    """Hold each origin until the latest instant that it asked for, now or before."""
    if not holds:
        return
    latest = dict(sorted(holds))
    rows = [
        {"origin": origin, "held_until": microseconds(held_until)}
        for origin, held_until in latest.items()
    ]
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
