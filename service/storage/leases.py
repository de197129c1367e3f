"""
Leases: the time-bound sole right to work on a row, fenced by a token.

A row is leased exactly while its `leased_until` has not come (invariant 2); nothing has to be
cleaned up after a process that died. Every lease raises the row's `lease_token` by one, and
whoever writes must show the token of their own lease (invariant 3): a holder that outlived its
lease finds another number there and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Table,
    Text,
    Update,
    and_,
    bindparam,
    case,
    or_,
    update,
)
from sqlalchemy.types import TypeEngine

from service.database.given import Given, given


class Undecided(Exception):
    """
    Of several leases, some had passed on, and one statement cannot tell which.

    Whoever shares transactions divides the items then, until it is known; nothing was written.
    """


def is_free(table: Table) -> ColumnElement[bool]:
    """The condition that nobody holds a lease on a row of *table* at `:now`."""
    return or_(table.c.leased_until.is_(None), table.c.leased_until <= bindparam("now"))


def taking(table: Table, rows: Given) -> Update:
    """The statement that leases the given rows of *table* until `:until`."""
    return (
        update(table)
        .where(_is_given(table, rows))
        .values(
            leased_until=bindparam("until", type_=table.c.leased_until.type),
            lease_token=table.c.lease_token + 1,
        )
    )


def held(**changes: TypeEngine[Any]) -> Given:
    """Rows whose leases are to be given up: account, key, the lease's token, and *changes*."""
    return Given(account_id=Text(), key=Text(), token=BigInteger(), **changes)


def giving_up(table: Table, rows: Given) -> Update:
    """A statement that gives up leases on *table*, to be completed with what else it changes."""
    return (
        update(table)
        .where(
            _is_given(table, rows),
            table.c.lease_token == rows.c.token,
            # A lease is good for one write: whoever gave it up has it no longer.
            table.c.leased_until.is_not(None),
        )
        .values(leased_until=None)
    )


def is_legal(table: Table, rows: Given, moves: Mapping[Any, frozenset[Any]]) -> ColumnElement[bool]:
    """The condition that *moves* lead from the status of a row to the one it is given."""
    # The status of the row is compared with an expression: a plain comparison would let a plan that
    # was made while little was pending walk the index of all that is.
    return or_(
        *(
            table.c.status == case((rows.c.status.in_(sorted(targets)), source.value))
            for source, targets in moves.items()
            if targets
        )
    )


def give_up(tx: Connection, statement: Update, rows: Sequence[Mapping[str, Any]]) -> bool:
    """
    Run *statement*, made by `giving_up`, for all *rows*.

    Returns:
        False if a single lease had passed on: nothing was written for it.

    Raises:
        Undecided: if some of several leases had passed on.
    """
    # In one order everywhere: two processes that write the same rows must not wait for each other.
    ordered = sorted(rows, key=_place)
    written = tx.execute(statement, given(ordered)).rowcount
    if written not in (0, len(rows)) or (written == 0 and len(rows) > 1):
        raise Undecided
    return written == len(rows)


def _is_given(table: Table, rows: Given) -> ColumnElement[bool]:
    account_id, key = table.primary_key.columns
    return and_(account_id == rows.c.account_id, key == rows.c.key)


def _place(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["account_id"], row["key"]
