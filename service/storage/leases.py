"""
Leases: the time-bound sole right to work on a row, fenced by a token.

A row is leased exactly while its `leased_until` has not come (invariant 2); nothing has to be
cleaned up after a process that died. Every lease raises the row's `lease_token` by one, and
whoever writes must show the token of their own lease (invariant 3): a holder that outlived its
lease finds another number there and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    Update,
    bindparam,
    or_,
    update,
)


class Undecided(Exception):
    """
    Of several leases, some had passed on, and one statement cannot tell which.

    Whoever shares transactions divides the items then, until it is known; nothing was written.
    """


def is_free(table: Table) -> ColumnElement[bool]:
    """The condition that nobody holds a lease on a row of *table* at `:now`."""
    return or_(table.c.leased_until.is_(None), table.c.leased_until <= bindparam("now"))


def taking(table: Table) -> Update:
    """The statement that leases the rows of *table* with `:keys` until `:until`."""
    (key,) = table.primary_key.columns
    return (
        update(table)
        .where(key.in_(bindparam("keys", expanding=True)))
        .values(
            leased_until=bindparam("until", type_=table.c.leased_until.type),
            lease_token=table.c.lease_token + 1,
        )
    )


def giving_up(table: Table) -> Update:
    """A statement that gives up leases on *table*, to be completed with what else it changes."""
    (key,) = table.primary_key.columns
    return (
        update(table)
        .where(
            key.in_(bindparam("keys", expanding=True)),
            table.c.lease_token == bindparam("token"),
            # A lease is good for one write: whoever gave it up has it no longer.
            table.c.leased_until.is_not(None),
        )
        .values(leased_until=None)
    )


def give_up(
    tx: Connection, statement: Update, held: Sequence[tuple[Any, int]], values: Mapping[str, Any]
) -> bool:
    """
    Run *statement*, made by `giving_up`, for all (key, token) pairs *held*.

    Returns:
        False if a single lease had passed on: nothing was written for it.

    Raises:
        Undecided: if some of several leases had passed on.
    """
    written = 0
    for token, pairs in groupby(sorted(held, key=_token), key=_token):
        keys = [key for key, _ in pairs]
        written += tx.execute(statement, {"keys": keys, "token": token, **values}).rowcount
    if written not in (0, len(held)) or (written == 0 and len(held) > 1):
        raise Undecided
    return written == len(held)


def _token(pair: tuple[Any, int]) -> int:
    return pair[1]
