"""
The counts of the attempts of each receiver, by hour.

The processes add what they have counted every few seconds, and never read a row for that. So the
counts of several processes add up, and an hour of a receiver is one row however much it gets.

An account has rows of its own, under its id in place of a receiver: the sums of all its receivers,
of which there may be any number.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache

from sqlalchemy import (
    Connection,
    Executable,
    Integer,
    Text,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    true,
    type_coerce,
)

from service.database.bulk import Given, given, insert_of
from service.domain.attempt_counts import COUNTS, Hour, added, no_counts
from service.domain.delivery import account_of
from service.storage.tables import microseconds, receiver_hours

HOUR_COUNT = 24
"""Hours that are told, the present one included."""

KEPT = timedelta(hours=HOUR_COUNT + 1)
"""How long an hour is kept after its beginning."""

BATCH = 1_000
"""Rows that are removed in one transaction."""

_given_hours = Given(
    receiver=Text(), hour=receiver_hours.c.hour.type, **{name: Integer() for name in COUNTS}
)
_named = Given(receiver=Text())


def add(tx: Connection, hours: Sequence[Hour]) -> None:
    """
    Add the counts of *hours* of receivers to those that are stored, and to those of accounts.

    Runs inside *tx* and never commits it.
    """
    if not hours:
        return
    hours = [*hours, *sums_of_accounts(hours)]
    rows = [
        {
            "receiver": one.receiver,
            "hour": microseconds(one.hour),
            **dict(zip(COUNTS, one.counts, strict=True)),
        }
        for one in sorted(hours, key=lambda one: (one.receiver, one.hour))
    ]
    tx.execute(_adding(tx.dialect.name), given(rows))


def sums_of_accounts(hours: Sequence[Hour]) -> list[Hour]:
    """The sums of *hours* of receivers by account, which stands in place of a receiver."""
    sums = dict[tuple[str, datetime], Sequence[int]]()
    for one in hours:
        place = account_of(one.receiver), one.hour
        sums[place] = added([sums.get(place, no_counts()), one.counts])
    return [Hour(*place, counts) for place, counts in sums.items()]


def counts_of(
    tx: Connection, receivers: Sequence[str], now: datetime
) -> Mapping[str, Sequence[int]]:
    """The counts of the last `HOUR_COUNT` hours of each of *receivers* that has any."""
    parameters = {**given([{"receiver": one} for one in receivers]), "since": _since(now)}
    found = tx.execute(_sums, parameters)
    return {row[0]: [int(one) for one in row[1:]] for row in found}


def series_of(tx: Connection, receiver: str, now: datetime) -> Sequence[Hour]:
    """The last `HOUR_COUNT` hours of *receiver* in order, also those without attempts."""
    since = _since(now)
    of_receiver = receiver_hours.c.receiver == receiver
    query = select(receiver_hours).where(of_receiver, receiver_hours.c.hour >= since)
    known = {row[1]: list(row[2:]) for row in tx.execute(query)}
    hours = (since + timedelta(hours=number) for number in range(HOUR_COUNT))
    return [Hour(receiver, hour, known.get(hour, no_counts())) for hour in hours]


def remove_old(tx: Connection, now: datetime) -> bool:
    """
    Remove up to `BATCH` rows of the oldest hour, if it is no longer told; False if there was none.

    Runs inside *tx* and never commits it.
    """
    name, hour = receiver_hours.c.receiver, receiver_hours.c.hour
    oldest = tx.scalar(select(hour).where(hour < now - KEPT).order_by(hour).limit(1))
    if oldest is None:
        return False
    names = tx.scalars(select(name).where(hour == oldest).limit(BATCH)).all()
    of_names = name.in_(select(_named.c.receiver))
    # An expression, so that every plan finds the rows by their receivers.
    of_hour = type_coerce(hour.op("+")(literal_column("0")), hour.type) == oldest
    removing = delete(receiver_hours).where(of_names, of_hour)
    tx.execute(removing, given([{"receiver": one} for one in names]))
    return True


def _since(now: datetime) -> datetime:
    """The beginning of the first hour that is told."""
    return now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOUR_COUNT - 1)


_sums = (
    select(
        _named.c.receiver,
        *(func.sum(receiver_hours.c[name]) for name in COUNTS),
    )
    .join(receiver_hours, receiver_hours.c.receiver == _named.c.receiver)
    .where(receiver_hours.c.hour >= bindparam("since", type_=receiver_hours.c.hour.type))
    .group_by(_named.c.receiver)
)


@cache
def _adding(dialect_name: str) -> Executable:
    names = [column.name for column in receiver_hours.columns]
    # SQLite reads the ON of "ON CONFLICT" as a join's, unless a WHERE stands in between.
    rows = select(*(_given_hours.c[name] for name in names)).where(true())
    statement = insert_of(dialect_name)(receiver_hours).from_select(names, rows)
    adding: Executable = statement.on_conflict_do_update(
        index_elements=["receiver", "hour"],
        set_={name: receiver_hours.c[name] + statement.excluded[name] for name in COUNTS},
    )
    return adding
